"""Reports of workers about their table of matrix products: one small file for each worker, readable after the worker died."""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from robobrain_ros.engine.flagos.ledger import write_atomically

VARIABLE = "ROBOBRAIN_ROS_BY_SHAPE"
"""Environment variable with the folder of the files. Without it, nothing is written."""
_SUFFIX = ".by_shape"


@dataclass(frozen=True)
class TableReport:
    """The report of one worker.

    :param in_use: whether kernels of the table run, because they are in use or their check has begun.
    :param operators: names of the operators with such kernels, such as ("addmm", "mm").
    :param details: see `StartResult.details`.
    """

    in_use: bool
    operators: tuple[str, ...] = ()
    details: Mapping[str, str] = field(default_factory=dict)


def write(report: TableReport) -> None:
    """Write this worker's report. If this fails, log a warning."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        return
    path = Path(folder) / f"{os.getpid()}{_SUFFIX}"
    try:
        write_atomically(path, json.dumps(asdict(report)))
    except OSError as error:
        logging.getLogger(__name__).warning("The report on matrix products by shape cannot be written: %s", error)


def read(folder: Path) -> list[TableReport]:
    """Return the reports of all workers."""
    files = sorted(folder.glob(f"*{_SUFFIX}"))
    contents: list[dict[str, Any]] = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    return [TableReport(content["in_use"], tuple(content["operators"]), content["details"]) for content in contents]
