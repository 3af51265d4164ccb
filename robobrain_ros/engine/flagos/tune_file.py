"""The tune file, which tune_flagos writes and ``flagos.mode: auto`` reads: operators of FlagGems that are correct and not slower.

It is JSON: ``{"format": 2, "entries": [...]}``, with one entry for each measured combination of chip, driver, model, settings and
versions.
"""

import hashlib
import json
import os
import platform
import re
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from robobrain_ros.bounds.files import NoSuchFileError, UnreadableFileError, home_expanded, read_small_json
from robobrain_ros.engine.embedded.checkpoint import Checkpoint
from robobrain_ros.engine.embedded.compat import DISTRIBUTIONS
from robobrain_ros.engine.flagos import plugin
from robobrain_ros.engine.flagos.ledger import write_atomically
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.errors import EngineConfigError

FORMAT = 2
_LARGEST_FILE = 64 << 20
"""Bytes of a tune file."""
_PARTS = {
    "chip": "chip",
    "driver": "driver",
    "model": "model",
    "settings": "way of running the model",
    "versions": "set of versions",
}
"""Parts of a key with their names in messages, the most important difference first."""
_MEASURED_WITH = {
    "vllm": DISTRIBUTIONS,
    "torch": ("torch",),
    "triton": ("triton",),
    "flagtree": ("flagtree",),
    "flag-gems": ("flag-gems",),
}


@dataclass(frozen=True)
class Key:
    """The conditions of a measurement, as readable texts.

    :param chip: the accelerator's name, or the processor's.
    :param driver: version of the accelerator's driver, or empty if unknown.
    :param model: model type, hash of config.json, and size of the weights.
    :param settings: settings that affect which operators run, or their shapes: dtype, quantization, parallelism.
    :param versions: versions of vLLM, PyTorch, Triton, FlagGems and FlagTree, and of vllm-plugin-FL if its platform runs the
        model.
    """

    chip: str
    driver: str
    model: str
    settings: str
    versions: str


@dataclass(frozen=True)
class TuningResult:
    """The result of tune_flagos for one key.

    :param operators: names of the operators to use; without names, the native operators are used.
    :param graphs: whether they were measured in an engine with CUDA graphs of native operators, and are registered after vLLM has
        captured the graphs; otherwise in eager mode.
    :param table: the measurements of all operators and of complete engines. The node does not read them.
    :param shapes: the measurements of matrix products by shape. The node does not read them: their table is a file of its own
        (`by_shape.own_table`).
    """

    key: Key
    operators: tuple[str, ...]
    graphs: bool = False
    table: list[dict[str, Any]] = field(default_factory=list)
    shapes: list[dict[str, Any]] = field(default_factory=list)


def tune_file(options: EngineOptions) -> Path:
    """Return the path of the tune file."""
    if options.flagos.tune_file:
        return home_expanded(options.flagos.tune_file)
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return home_expanded(cache) / "robobrain_ros" / "flagos.json"


def key_of(options: EngineOptions, checkpoint: Checkpoint) -> Key:
    """Return the key of a measurement on this machine with this model. Imports vLLM."""
    from vllm.platforms import current_platform

    on_cpu, embedded = current_platform.is_cpu(), options.embedded
    platform_name = plugin.active_platform()
    config = hashlib.sha256((checkpoint.path / "config.json").read_bytes()).hexdigest()[:12]
    sizes = "x".join(
        str(size) for size in (embedded.tensor_parallel_size, embedded.pipeline_parallel_size, embedded.data_parallel_size)
    )
    extra = f", extra {embedded.extra}" if embedded.extra else ""
    versions_here = versions() | ({plugin.NAME: version_of(*plugin.DISTRIBUTIONS)} if platform_name else {})
    return Key(
        chip=_processor() if on_cpu else (platform_name and plugin.chip()) or str(current_platform.get_device_name()),
        driver="" if on_cpu else _driver(),
        model=f"{checkpoint.model_type} {config} {checkpoint.gigabytes:.3f} GB",
        settings=f"dtype {embedded.dtype}, quantization {embedded.quantization or 'none'}, parallel {sizes}{extra}",
        versions=", ".join(f"{name} {version}" for name, version in versions_here.items()),
    )


def versions() -> dict[str, str]:
    """Return the versions of the installed packages that affect the operators."""
    found = {name: version_of(*distributions) for name, distributions in _MEASURED_WITH.items()}
    return {name: version for name, version in found.items() if version}


def version_of(*distributions: str) -> str:
    """Return the version of the first of these distributions that is installed, or an empty string if none is."""
    for distribution in distributions:
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return ""


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.machine()


def _driver() -> str:
    """Return the version of NVIDIA's driver. For other vendors, the version of PyTorch identifies the driver."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        return ""
    found = re.search(r"\b\d+\.\d+(\.\d+)?\b", text)
    return found.group(0) if found else ""


def read(path: Path) -> list[TuningResult]:
    """Return all entries of a file; empty if the file does not exist.

    :raises EngineConfigError: the file is damaged, or has another format.
    """
    try:
        content = read_small_json(path, _LARGEST_FILE)
    except NoSuchFileError:
        return []
    except UnreadableFileError as error:
        raise EngineConfigError(f"The tune file {path} is damaged ({error}). Run tune_flagos again.") from error
    if not isinstance(content.get("entries"), list):
        raise EngineConfigError(f"The tune file {path} is damaged (no list of entries). Run tune_flagos again.")
    if content.get("format") != FORMAT:
        raise EngineConfigError(
            f"The tune file {path} has format {content.get('format')!r}, but this version reads {FORMAT}. Run tune_flagos again."
        )
    return [_entry(path, entry) for entry in content["entries"]]


def _entry(path: Path, entry: Any) -> TuningResult:
    try:
        key = Key(**{name: str(entry["key"][name]) for name in _PARTS})
        operators, graphs, table, shapes = (entry[name] for name in ("operators", "graphs", "table", "shapes"))
    except (TypeError, KeyError) as error:
        raise EngineConfigError(f"The tune file {path} is damaged (an entry has no {error}). Run tune_flagos again.") from error
    names = isinstance(operators, list) and all(isinstance(name, str) for name in operators)
    if not names or not isinstance(graphs, bool) or not isinstance(table, list) or not isinstance(shapes, list):
        raise EngineConfigError(f"The tune file {path} is damaged (an entry's operators). Run tune_flagos again.")
    return TuningResult(key, tuple(operators), graphs, table, shapes)


def find(path: Path, key: Key) -> TuningResult:
    """Return the entry for a key.

    :raises EngineConfigError: there is no such entry. The message states how the most similar entry differs.
    """
    entries = read(path)
    if not entries:
        raise EngineConfigError(f"Nothing was measured yet ({path} does not exist). Run tune_flagos to select operators.")
    for entry in entries:
        if entry.key == key:
            return entry
    nearest = min(entries, key=lambda entry: [getattr(entry.key, part) != getattr(key, part) for part in _PARTS])
    part = next(part for part in _PARTS if getattr(nearest.key, part) != getattr(key, part))
    theirs, ours = getattr(nearest.key, part), getattr(key, part)
    raise EngineConfigError(
        f"The tune file {path} is for another {_PARTS[part]} ({theirs or 'unknown'}; here {ours or 'unknown'}). "
        "Run tune_flagos here."
    )


def write(path: Path, tuned: TuningResult) -> None:
    """Write an entry to a file. It replaces an entry with the same key. A damaged file is overwritten.

    :raises OSError: the file cannot be written.
    """
    try:
        entries = [entry for entry in read(path) if entry.key != tuned.key]
    except EngineConfigError:
        entries = []
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"format": FORMAT, "entries": [asdict(entry) for entry in [*entries, tuned]]}
    write_atomically(path, json.dumps(content, indent=1) + "\n")
