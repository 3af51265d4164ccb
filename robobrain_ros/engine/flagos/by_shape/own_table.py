"""Tables that tune_flagos measures on this machine. They take precedence over this package's tables.

They have the format of this package's tables, and are in a folder next to the tune file, one file for each GPU. A file contains
the weights of all models that were measured with the same versions. For other weights, this package's table applies.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from robobrain_ros.engine.flagos.by_shape import table
from robobrain_ros.engine.flagos.by_shape.table import ShapeEntry, ShapeTable
from robobrain_ros.errors import EngineConfigError

VARIABLE = "ROBOBRAIN_ROS_OWN_SHAPES"
"""Environment variable of workers with the folder of the tables of tune_flagos."""


@dataclass(frozen=True)
class FoundEntries:
    """Entries for the weights of a model.

    :param source: the tables of the entries, for messages: "the table for NVIDIA H200".
    :param note: why a table of tune_flagos is not used, a sentence, or empty.
    """

    entries: tuple[ShapeEntry, ...]
    source: str
    note: str = ""


def folder_for(tune_file: Path) -> Path:
    """Return the folder of the tables that belong to a tune file."""
    return tune_file.with_name(f"{tune_file.stem}_shapes")


def folder_of_environment() -> Path | None:
    """Return the folder in the environment of this worker."""
    folder = os.environ.get(VARIABLE)
    return Path(folder) if folder else None


def entries_for(
    device: str, versions: tuple[str, str], dtype: str, sizes: Iterable[tuple[int, int]], own: Path | None, shipped: Path
) -> FoundEntries:
    """Return the entries for a model.

    :param device: name of the GPU in PyTorch.
    :param versions: full versions of PyTorch and Triton.
    :param sizes: sizes (k, n) of the model's weights.
    :param own: folder of the tables of tune_flagos.
    :param shipped: folder of this package's tables.
    :raises EngineConfigError: there are no entries. The message has the reason.
    """
    wanted = set(sizes)
    ours, note = _own(device, versions, own)
    measured = wanted & {(weights.k, weights.n) for weights in ours.weights if weights.dtype == dtype} if ours else set()
    entries = [entry for entry in ours.for_weights(measured) if entry.dtype == dtype] if ours else []
    from_package, obstacle = _shipped(device, versions, dtype, wanted - measured, shipped)
    if not entries and not from_package:
        if measured:
            obstacle = "tune_flagos found no matrix product that is correct and faster for this model."
        raise EngineConfigError(" ".join(filter(None, (obstacle, note))))
    sources = [f"the table for {device}"] if from_package else []
    sources += ["the table of tune_flagos"] if entries else []
    return FoundEntries((*entries, *from_package), " and ".join(sources), note)


def _own(device: str, versions: tuple[str, str], folder: Path | None) -> tuple[ShapeTable | None, str]:
    """Return the table of tune_flagos for this GPU, or the reason why it is not used."""
    if folder is None or not table.table_file(device, folder).is_file():
        return None, ""
    try:
        return find(device, versions, folder), ""
    except EngineConfigError as error:
        return None, f"The table of tune_flagos is not used: {error.message}"


def _shipped(
    device: str, versions: tuple[str, str], dtype: str, sizes: set[tuple[int, int]], folder: Path
) -> tuple[list[ShapeEntry], str]:
    """Return this package's entries, or the reason why there are none."""
    try:
        found = table.find(device, *versions, folder)
    except EngineConfigError as error:
        return [], error.message
    entries = [entry for entry in found.for_weights(sizes) if entry.dtype == dtype]
    return entries, "" if entries else f"the table for {device} has no entry for this model's weights in {dtype}."


def find(device: str, versions: tuple[str, str], folder: Path) -> ShapeTable:
    """Return the table of tune_flagos for a GPU and exactly these versions of PyTorch and Triton.

    :raises EngineConfigError: there is no table, or it is damaged, or it is for another GPU or version.
    """
    found = table.find(device, *versions, folder)
    for (name, title), here in zip((("torch", "PyTorch"), ("triton", "Triton")), versions, strict=True):
        if (then := found.measured.get(name, "unknown")) != here:
            path = table.table_file(device, folder)
            raise EngineConfigError(f"The table {path} is for {title} {then}; this is {title} {here}. {table.HOW_TO_MEASURE}")
    return found


def save(new: ShapeTable, folder: Path) -> Path:
    """Write the table of one model. Entries for other weights, measured with the same versions, are kept.

    :returns: the path of the file.
    :raises OSError: the file cannot be written.
    :raises ValueError: the table is invalid.
    """
    path = table.table_file(new.device, folder)
    try:
        old = find(new.device, (new.measured["torch"], new.measured["triton"]), folder)
    except EngineConfigError:
        old = replace(new, entries=(), weights=())
    kept = tuple(weights for weights in old.weights if weights not in new.weights)
    sizes = {(weights.dtype, weights.k, weights.n) for weights in kept}
    entries = tuple(entry for entry in old.entries if (entry.dtype, entry.k, entry.n) in sizes)
    table.write(path, replace(new, entries=(*entries, *new.entries), weights=(*kept, *new.weights)))
    return path
