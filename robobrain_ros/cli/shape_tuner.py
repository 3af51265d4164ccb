"""Measure matrix products by shape in the worker of a started engine, and collect the faster kernels in a table."""

import asyncio
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

from robobrain_ros.cli.budget import Budget, Report
from robobrain_ros.engine.flagos.by_shape import launches, table
from robobrain_ros.engine.flagos.by_shape.shape_measurement import CountedShape, MeasuredShape, ShapeRequest, WorkerShapes
from robobrain_ros.engine.flagos.by_shape.table import Launch, ShapeEntry, ShapeTable, Weights
from robobrain_ros.errors import EngineConfigError, EngineFailedError

CallWorkers = Callable[..., Awaitable[list[Any]]]
"""Calls a method of each worker, as `EmbeddedEngine.call_workers`."""
_ROWS_FIRST = (1, 8, 4, 2, 16)
"""Row ranges in the order of measurement: the usual numbers of requests first."""
_LONGEST_CALL = 30.0
"""Seconds after which a worker tries no further launch of a shape class."""
_FLAG_GEMS_TIME = 90.0
"""Seconds that FlagGems' first product may need. On an H100, FlagGems 5.0.2 compiled kernels for 55 s."""
_REPLY_TIME, _FLAG_GEMS_REPLY_TIME = 60.0, 150.0
"""Seconds in which a worker must reply after its last launch, without and with FlagGems' operator."""


@dataclass
class MeasuredShapes:
    """The measured shape classes of a model.

    :param table: entries of the faster kernels, and the model's weights. Classes that were not measured have the entry of this
        package's table, if there is one.
    :param measured: the measurement of each shape class.
    :param missing: shape classes for which no time was left.
    """

    table: ShapeTable
    measured: dict[CountedShape, MeasuredShape] = field(default_factory=dict)
    missing: list[CountedShape] = field(default_factory=list)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The measurements for the tune file."""
        return [{"shape": counted.values, **measured.values} for counted, measured in self.measured.items()]


class ShapeTuner:
    """Measures the shape classes of a started engine.

    :param flag_gems: whether FlagGems' operator is a candidate.
    """

    def __init__(self, call: CallWorkers, report: Report, *, flag_gems: bool) -> None:
        self._call = call
        self._report = report
        self._flag_gems = flag_gems
        self._wins: Counter[Launch] = Counter()

    async def run(self, budget: Budget, reserve: float) -> MeasuredShapes:
        """Measure the shape classes, those that take most of a decoding step first.

        :param reserve: seconds of the budget that must remain afterwards.
        :raises EngineConfigError: there is nothing to measure.
        :raises EngineFailedError: the engine died.
        """
        found = WorkerShapes.of(await self._reply("shape_classes", seconds=_REPLY_TIME))
        if not found.shapes:
            reason = found.obstacle or "The model calls no matrix products of at most 16 rows in bf16 or fp16."
            raise EngineConfigError(f"No shape classes were found in the engine. {reason}")
        result = MeasuredShapes(_empty_table(found))
        seeds = launches.seeds(found.device)
        unknown_gpu = not table.table_file(found.device).is_file()
        self._report(f"Measuring {len(found.shapes)} shape classes of matrix products on {found.device} ...")
        for number, counted in enumerate(_in_order(found.shapes), 1):
            if not budget.has(reserve):
                result.missing.append(counted)
                continue
            seconds = min(_LONGEST_CALL, budget.left - reserve)
            measured = await self._measure(counted, seeds, neighbours=unknown_gpu, seconds=seconds)
            result.measured[counted] = measured
            self._report(f"{number} of {len(found.shapes)}: {counted.shape.name}: {_sentence(measured)}")
        if self._flag_gems:
            await self._try_flag_gems(result, budget, reserve)
        result.table = replace(result.table, entries=(*_entries(result), *_shipped_entries(result, found)))
        if result.missing:
            self._report(f"No time was left for {len(result.missing)} shape classes. The package's table applies to them.")
        return result

    async def _measure(
        self, counted: CountedShape, seeds: Sequence[Launch], *, neighbours: bool, seconds: float, flag_gems: bool = False
    ) -> MeasuredShape:
        fitting = [launch for launch in seeds if launches.fits(launch, counted.shape.rows)]
        fitting.sort(key=lambda launch: -self._wins[launch])
        request = ShapeRequest(counted.shape, tuple(fitting), flag_gems, neighbours, seconds)
        limit = seconds + (_FLAG_GEMS_REPLY_TIME if flag_gems else _REPLY_TIME)
        measured = MeasuredShape.of(await self._reply("measure_shape", request.values, seconds=limit))
        if measured.entry is not None:
            self._wins[measured.entry.launch] += 1
        return measured

    async def _reply(self, method: str, *values: Any, seconds: float) -> Any:
        """Return the reply of the first worker. All workers have the same GPU and the same part of the model.

        :raises EngineFailedError: the engine died, or did not reply.
        """
        try:
            replies = await asyncio.wait_for(self._call(method, *values, timeout=seconds), seconds)
        except asyncio.TimeoutError as error:
            raise EngineFailedError(f"The engine did not reply within {seconds:.0f} s.") from error
        return replies[0]

    async def _try_flag_gems(self, result: MeasuredShapes, budget: Budget, reserve: float) -> None:
        """Compare FlagGems' operator with the selected kernels, as long as time is left, the largest products first."""
        tried = faster = 0
        for counted, before in list(result.measured.items()):
            if not budget.has(reserve + (0.0 if tried else _FLAG_GEMS_TIME)):
                break
            seeds = [before.entry.launch] if before.entry is not None else []
            measured = await self._measure(counted, seeds, neighbours=False, seconds=_LONGEST_CALL, flag_gems=True)
            tried += 1
            if measured.entry is not None and measured.entry.implementation == "flag_gems":
                result.measured[counted] = measured
                faster += 1
        self._report(f"FlagGems' matrix products were tried for {tried} shape classes, and are the fastest for {faster}.")


def _in_order(shapes: Sequence[CountedShape]) -> list[CountedShape]:
    def key(counted: CountedShape) -> tuple[int, int]:
        shape = counted.shape
        return _ROWS_FIRST.index(shape.rows), -shape.k * shape.n * max(1, counted.count)

    return sorted(shapes, key=key)


def _empty_table(found: WorkerShapes) -> ShapeTable:
    about = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "torch": found.torch,
        "triton": found.triton,
        "python": sys.version.split()[0],
        "command": "tune_flagos",
    }
    weights = {Weights(counted.shape.dtype, counted.shape.k, counted.shape.n): None for counted in found.shapes}
    return ShapeTable(found.device, table.major(found.torch), table.major(found.triton), (), about, tuple(weights))


def _entries(result: MeasuredShapes) -> list[ShapeEntry]:
    return [measured.entry for measured in result.measured.values() if measured.entry is not None]


def _shipped_entries(result: MeasuredShapes, found: WorkerShapes) -> list[ShapeEntry]:
    """Return the entries of this package's table for the classes that were not measured."""
    missing = {counted.shape for counted in result.missing}
    if not missing:
        return []
    try:
        shipped = table.find(found.device, found.torch, found.triton)
    except EngineConfigError:
        return []
    return [entry for entry in shipped.entries if entry.shape in missing]


def _sentence(measured: MeasuredShape) -> str:
    faults = f"; {len(measured.faults)} wrong or failing: {measured.faults[0]}" if measured.faults else ""
    if not measured.us:
        return f"no kernel can be used, {measured.tried} were tried{faults}"
    speed = f"{measured.us:.1f} µs, {measured.native_us:.1f} µs with PyTorch, {measured.ratio:.3f} times the native speed"
    interval = f"({measured.low:.3f} to {measured.high:.3f})"
    use = "" if measured.entry is not None else ", not used"
    return f"{speed} {interval}{use}, {measured.tried} kernels tried{faults}"
