"""The file that tune_flagos writes and ``flagos.mode: auto`` reads: which operators of FlagGems are right and not slower, here.

It is JSON: ``{"format": 1, "entries": [...]}``, an entry for each chip, driver, model and set of versions that was measured.
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

from robobrain_ros.bounds.files import NoSuchFileError, UnreadableFileError, read_small_json
from robobrain_ros.engine.embedded.checkpoint import Checkpoint
from robobrain_ros.engine.embedded.compat import DISTRIBUTIONS
from robobrain_ros.engine.flagos import plugin
from robobrain_ros.engine.flagos.ledger import write_atomically
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.errors import EngineConfigError

FORMAT = 1
_LARGEST_FILE = 64 << 20
"""Bytes of a tune file."""
_PARTS = {
    "chip": "chip",
    "driver": "driver",
    "model": "model",
    "settings": "way of running the model",
    "versions": "set of versions",
}
"""Parts of a key, and what people call them; the earlier differs the more."""
_TAKING_PART = {
    "vllm": DISTRIBUTIONS,
    "torch": ("torch",),
    "triton": ("triton",),
    "flagtree": ("flagtree",),
    "flag-gems": ("flag-gems",),
}


@dataclass(frozen=True)
class Key:
    """What a measurement holds for. All texts, as people read them.

    :param chip: the accelerator's name, or the processor's.
    :param driver: its driver's version, as far as it is known.
    :param model: type, a hash of config.json, and the weights' size.
    :param settings: what changes which operators run, or their shapes: types, quantization, parallelism.
    :param versions: of vLLM, PyTorch, Triton, FlagGems and FlagTree, and of vllm-plugin-FL where its platform runs the model.
    """

    chip: str
    driver: str
    model: str
    settings: str
    versions: str


@dataclass(frozen=True)
class Tuned:
    """What was found for one key.

    :param operators: names to use; empty: none is worth it.
    :param graphs: they were measured with CUDA graphs, too, and that was fastest; else the engine runs them eagerly.
    :param table: what was measured, for people.
    """

    key: Key
    operators: tuple[str, ...]
    graphs: bool = False
    table: list[dict[str, Any]] = field(default_factory=list)


def tune_file(options: EngineOptions) -> Path:
    """Where the file is."""
    if options.flagos.tune_file:
        return Path(options.flagos.tune_file).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "robobrain_ros" / "flagos.json"


def key_of(options: EngineOptions, checkpoint: Checkpoint) -> Key:
    """What a measurement on this machine, with this model, holds for. Imports vLLM."""
    from vllm.platforms import current_platform

    on_cpu, embedded = current_platform.is_cpu(), options.embedded
    platform_name = plugin.in_charge()
    config = hashlib.sha256((checkpoint.path / "config.json").read_bytes()).hexdigest()[:12]
    sizes = "x".join(
        str(size) for size in (embedded.tensor_parallel_size, embedded.pipeline_parallel_size, embedded.data_parallel_size)
    )
    extra = f", extra {embedded.extra}" if embedded.extra else ""
    taking_part = versions() | ({plugin.NAME: version_of(*plugin.DISTRIBUTIONS)} if platform_name else {})
    return Key(
        chip=_processor() if on_cpu else (platform_name and plugin.chip()) or str(current_platform.get_device_name()),
        driver="" if on_cpu else _driver(),
        model=f"{checkpoint.model_type} {config} {checkpoint.gigabytes:.3f} GB",
        settings=f"dtype {embedded.dtype}, quantization {embedded.quantization or 'none'}, parallel {sizes}{extra}",
        versions=", ".join(f"{name} {version}" for name, version in taking_part.items()),
    )


def versions() -> dict[str, str]:
    """Installed versions of what takes part."""
    found = {name: version_of(*distributions) for name, distributions in _TAKING_PART.items()}
    return {name: version for name, version in found.items() if version}


def version_of(*distributions: str) -> str:
    """The version of the first of these distributions that is installed; empty: none is."""
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
    """Return the version of NVIDIA's driver. For other makers, the version of PyTorch identifies the driver."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        return ""
    found = re.search(r"\b\d+\.\d+(\.\d+)?\b", text)
    return found.group(0) if found else ""


def read(path: Path) -> list[Tuned]:
    """All entries of a file; none where there is no file.

    :raises EngineConfigError: it cannot be read as what it should be.
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


def _entry(path: Path, entry: Any) -> Tuned:
    try:
        key = Key(**{name: str(entry["key"][name]) for name in _PARTS})
        operators, graphs, table = entry["operators"], entry["graphs"], entry["table"]
    except (TypeError, KeyError) as error:
        raise EngineConfigError(f"The tune file {path} is damaged (an entry has no {error}). Run tune_flagos again.") from error
    names = isinstance(operators, list) and all(isinstance(name, str) for name in operators)
    if not names or not isinstance(graphs, bool) or not isinstance(table, list):
        raise EngineConfigError(f"The tune file {path} is damaged (an entry's operators). Run tune_flagos again.")
    return Tuned(key, tuple(operators), graphs, table)


def find(path: Path, key: Key) -> Tuned:
    """The entry for a key.

    :raises EngineConfigError: there is none; the message says what there is instead.
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


def write(path: Path, tuned: Tuned) -> None:
    """Put an entry into a file, in the place of one with its key; a damaged file is replaced.

    :raises OSError: it cannot be written.
    """
    try:
        entries = [entry for entry in read(path) if entry.key != tuned.key]
    except EngineConfigError:
        entries = []
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"format": FORMAT, "entries": [asdict(entry) for entry in [*entries, tuned]]}
    write_atomically(path, json.dumps(content, indent=1) + "\n")
