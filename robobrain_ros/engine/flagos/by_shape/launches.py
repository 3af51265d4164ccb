"""Launch configurations that a search tries: all that are plausible, those of measured tables, and neighbours of a good one."""

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

from robobrain_ros.engine.flagos.by_shape import table
from robobrain_ros.engine.flagos.by_shape.table import Launch
from robobrain_ros.errors import EngineConfigError


def candidates(rows: int, known: frozenset[Launch] | None = None) -> list[Launch]:
    """Return launches to try for a row range.

    :param rows: upper end of the range, one of `table.ROWS`.
    :param known: try only these launches; None: all.
    """
    launches = _vectors() if rows == 1 else _tiles(16 if rows > 8 else 8)
    return [launch for launch in launches if known is None or launch in known]


def known_launches(path: Path | None) -> frozenset[Launch] | None:
    """Return the fastest launches of an earlier search on any GPU; None: no file is given."""
    if path is None:
        return None
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    names = {field.name for field in fields(Launch)}
    return frozenset(Launch(**{name: best[name] for name in names}) for line in lines for best in line["best"])


def seeds(device: str, folder: Path = table.FOLDER) -> list[Launch]:
    """Return the launches of this package's table for a GPU, or of all tables if there is none. Frequent launches come first.

    :param device: name of the GPU in PyTorch.
    """
    own = table.table_file(device, folder)
    found: dict[Launch, None] = {}
    for path in [own] if own.is_file() else sorted(folder.glob("*.json")):
        try:
            entries = table.read(path).entries
        except EngineConfigError:
            continue
        found |= dict.fromkeys(launch for launch, _ in Counter(entry.launch for entry in entries).most_common())
    return list(found)


def fits(launch: Launch, rows: int) -> bool:
    """Return whether a launch is for a row range, as in `candidates`.

    :param rows: upper end of the range.
    """
    if rows == 1:
        return launch.kernel == "vector"
    return launch.kernel == "tile" and launch.block_m == (16 if rows > 8 else 8)


def neighbours(launch: Launch) -> list[Launch]:
    """Return the valid launches that differ from this one by one step of one parameter."""
    steps = [
        *(replace(launch, block_n=size) for size in _halved_and_doubled(launch.block_n)),
        *(replace(launch, block_k=size) for size in _halved_and_doubled(launch.block_k)),
        *(replace(launch, warps=count) for count in _halved_and_doubled(launch.warps)),
        *(replace(launch, stages=launch.stages + step) for step in (-1, 1)),
        *(replace(launch, split_k=count) for count in _halved_and_doubled(launch.split_k)),
    ]
    return [step for step in steps if table.is_valid(step)]


def _halved_and_doubled(number: int) -> tuple[int, int]:
    return number // 2, number * 2


def _vectors() -> Iterator[Launch]:
    for block_n, block_k, warps, stages in itertools.product((1, 2, 4, 8), (256, 512, 1024, 2048), (1, 2, 4, 8), (1, 3, 4)):
        if 16 <= block_n * block_k // (32 * warps) <= 64 and (stages == 1 or block_k <= 1024):
            yield Launch("vector", block_n, block_k, 0, 1, warps, stages)
    for block_n, block_k, split_k in itertools.product((2, 4), (256, 512), (2, 4)):
        yield Launch("vector", block_n, block_k, 0, split_k, 4 if block_k == 512 else 2, 1)


def _tiles(block_m: int) -> Iterator[Launch]:
    for block_n, block_k, warps, stages in itertools.product((16, 32, 64, 128), (128, 256, 512), (1, 2, 4, 8), (3, 4, 5, 6)):
        weights = block_n * block_k
        shared = 2 * (weights + block_k * block_m) * stages
        if 32_000 <= shared <= 228_000 and (64 if warps == 8 else 128) <= weights // (32 * warps) <= 512:
            yield Launch("tile", block_n, block_k, block_m, 1, warps, stages)
    for block_n, block_k, warps, stages in itertools.product((16, 32), (512, 1024), (1, 2, 4), (2, 3)):
        if 2 * block_k * (block_n + block_m) * stages <= 228_000 and (block_k, stages) != (512, 3):
            yield Launch("tile", block_n, block_k, block_m, 1, warps, stages)
    for block_n, block_k, split_k in itertools.product((16, 32, 64), (128, 256), (2, 4, 8)):
        yield Launch("tile", block_n, block_k, block_m, split_k, 4 if block_n > 16 else 2, 4)
