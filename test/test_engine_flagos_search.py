"""The search for the fastest kernel of a shape class, with an implementation in PyTorch and a scripted timer, on the CPU."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from shape_entries import GPU, TILE, VECTOR, Computed

from robobrain_ros.engine.flagos.by_shape import launches, table
from robobrain_ros.engine.flagos.by_shape.recording import Recorder
from robobrain_ros.engine.flagos.by_shape.search import Candidate, Timed, Trial
from robobrain_ros.engine.flagos.by_shape.shape_measurement import CountedShape, MeasuredShape, ShapeRequest, WorkerShapes
from robobrain_ros.engine.flagos.by_shape.start import Device
from robobrain_ros.engine.flagos.by_shape.table import ROWS, Launch, ShapeClass


class Kernels(Computed):
    """An implementation whose launches have scripted times in µs; PyTorch's operator takes 10 µs."""

    def __init__(self, us: Callable[[Launch], float], broken: Launch | None = None, how: str = "wrong") -> None:
        super().__init__()
        self.us, self.broken, self.how = us, broken, how
        self.last: Launch | None = None

    def multiply(self, launch: Launch, x: Any, weight: Any, bias: Any = None, out: Any = None) -> Any:
        self.last = launch
        result = super().multiply(launch, x, weight, bias, out)
        if launch != self.broken:
            return result
        if self.how == "wrong":
            return result.mul_(1.5)
        raise RuntimeError(self.how)

    def timer(self, functions: Sequence[Callable[[], Any]]) -> float:
        self.last = None
        for function in functions:
            function()
        return len(functions) * 1e-6 * (10.0 if self.last is None else self.us(self.last))


def trial(kernels: Kernels, rows: int = 4, operator: str = "mm", *, residual: bool = False) -> Trial:
    shape = ShapeClass(operator, "bfloat16", rows, 32, 48, residual)
    weights = [torch.randn(48, 32).bfloat16().t() for _ in range(3)]
    return Trial(shape, weights, {"skinny": kernels}, kernels.timer)


def candidates(*given: Launch) -> list[Candidate]:
    return [Candidate("skinny", launch) for launch in given]


SLOW, FAST, NEARLY = (replace(TILE, stages=stages) for stages in (1, 2, 4))


def scripted(launch: Launch) -> float:
    return {SLOW: 12.0, FAST: 8.0, NEARLY: 8.05}.get(launch, 20.0)


@pytest.mark.parametrize(("operator", "residual"), [("mm", False), ("addmm", False), ("addmm", True)])
def test_the_preferred_of_the_fast_kernels_gets_the_entry(operator: str, residual: bool) -> None:
    kernels, timed = Kernels(scripted), Timed()
    measured = trial(kernels, 4, operator, residual=residual)
    measured.time(candidates(SLOW, NEARLY, FAST), timed)
    assert timed.faults == {}
    assert measured.native_us() == pytest.approx(10.0)
    assert timed.fastest == Candidate("skinny", FAST)
    chosen = timed.first_near(candidates(SLOW, NEARLY, FAST))
    assert chosen == Candidate("skinny", NEARLY), "it is within 1 %, and other shape classes use it"
    found = measured.confirm(chosen)
    assert found.faster
    assert (found.entry(measured.shape).us, found.entry(measured.shape).native_us) == (8.05, 10.0)
    assert measured.shape.residual == residual
    assert {call[0] for call in kernels.calls} == {4}


@pytest.mark.parametrize("us", [10.5, 9.95])
def test_a_kernel_that_is_not_surely_faster_gets_none(us: float) -> None:
    assert not trial(Kernels(lambda launch: us)).confirm(Candidate("skinny", FAST)).faster


@pytest.mark.parametrize(
    ("how", "words"), [("wrong", "differ"), ("PTXAS error", "RuntimeError: PTXAS error"), ("out of resource: shared memory", "")]
)
def test_wrong_and_failing_kernels_are_never_selected(how: str, words: str) -> None:
    timed = Timed()
    trial(Kernels(scripted, FAST, how)).time(candidates(FAST, SLOW), timed)
    assert timed.fastest == Candidate("skinny", SLOW)
    assert [words in fault for fault in timed.faults.values()] == ([True] if words else [])


def test_without_a_usable_kernel_nothing_is_selected() -> None:
    timed = Timed()
    trial(Kernels(scripted, FAST)).time(candidates(FAST), timed)
    assert timed.first_near(candidates(FAST)) is None


def test_neighbours_are_tried_as_long_as_they_are_faster() -> None:
    def us(launch: Launch) -> float:
        return 10.0 - launch.warps / 4 if launch == replace(TILE, warps=launch.warps) else 20.0

    timed = Timed()
    measured = trial(Kernels(us))
    measured.time(candidates(replace(TILE, warps=1)), timed)
    measured.time_neighbours(timed, lambda: True)
    assert timed.fastest == Candidate("skinny", replace(TILE, warps=16))
    assert len(timed.tried) == len(set(timed.tried)) > 5


def test_when_no_time_is_left_no_kernel_is_tried() -> None:
    timed = Timed()
    measured = trial(Kernels(scripted))
    measured.time(candidates(FAST), timed, lambda: False)
    measured.time_neighbours(timed, lambda: False)
    assert timed.tried == set()


def test_neighbours_and_seeds_can_stand_in_a_table() -> None:
    assert all(table.is_valid(near) for launch in (VECTOR, TILE) for near in launches.neighbours(launch))
    assert launches.neighbours(TILE)
    for device in ("NVIDIA H200", "Other GPU"):
        found = launches.seeds(device)
        assert len(found) == len(set(found)) > 20
        for rows in ROWS:
            fitting = [launch for launch in found if launches.fits(launch, rows)]
            assert fitting
            assert all(launch.most_rows >= rows for launch in fitting)
    h200 = {entry.launch for entry in table.read(table.table_file("NVIDIA H200")).entries}
    assert set(launches.seeds("NVIDIA H200")) == h200, "only its own table"


def test_a_damaged_table_has_no_seeds(tmp_path: Path) -> None:
    (tmp_path / "gpu.json").write_text("{")
    assert launches.seeds("GPU", tmp_path) == []


def test_the_recorder_notes_each_product_and_changes_nothing() -> None:
    x, weight, bias = torch.randn(3, 32).bfloat16(), torch.randn(48, 32).bfloat16().t(), torch.randn(48).bfloat16()
    matrix = torch.randn(3, 48).bfloat16()

    def products() -> list[Any]:
        return [
            torch.mm(x, weight),
            torch.mm(x, weight, out=torch.empty(3, 48, dtype=torch.bfloat16)),
            torch.nn.functional.linear(x[:1], weight.t(), bias),
            torch.addmm(bias, x, weight),
            torch.addmm(matrix, x, weight),
            torch.mm(torch.randn(17, 32).bfloat16(), weight)[:0],
            torch.mm(x.float(), weight.float())[:0],
            torch.mm(x, weight.contiguous()),
        ]

    expected = products()
    recorder = Recorder("CPU")
    recorder.install()
    try:
        recorded = products()
    finally:
        recorder.remove()
    assert all(torch.equal(*pair) for pair in zip(expected, recorded, strict=True))
    noted = {(shape.name, shape.residual) for shape in recorder.classes}
    assert noted == {("mm bfloat16 4x32x48", False), ("addmm bfloat16 1x32x48", False), ("addmm bfloat16 4x32x48", True)}


def test_requests_and_replies_survive_the_way_as_plain_values() -> None:
    shape = ShapeClass("addmm", "float16", 8, 64, 32, residual=True)
    request = ShapeRequest(shape, (VECTOR, TILE), flag_gems=True, seconds=3.5)
    assert ShapeRequest.of(request.values) == request
    assert ShapeRequest.of(request.values).shape.residual
    kernels = Kernels(scripted)
    entry = trial(kernels).confirm(Candidate("skinny", FAST)).entry(ShapeClass("mm", "bfloat16", 4, 32, 48))
    measured = MeasuredShape(entry, 10.0, 8.0, 1.25, 1.2, 1.3, 7, ("one",))
    assert MeasuredShape.of(measured.values) == measured
    with pytest.raises(ValueError, match="operator"):
        MeasuredShape.of({**measured.values, "entry": {"rows": 4}})
    worker = WorkerShapes("GPU", "2.11", "3.6", (CountedShape(shape, 28),))
    assert WorkerShapes.of(worker.values) == worker


def test_a_worker_that_cannot_record_reports_why(monkeypatch: pytest.MonkeyPatch) -> None:
    from robobrain_ros.engine.flagos.by_shape.tuning_worker import TuningWorkerMixin

    class Worker:
        def compile_or_warm_up_model(self) -> str:
            return "captured"

    class Tuning(TuningWorkerMixin, Worker):
        def _find_device(self) -> Device:
            return Device(GPU, "cpu", "CPU", torch.__version__, "3.6.0", {}, None)

    def install(recorder: Recorder) -> None:
        raise RuntimeError("the operators are taken")

    monkeypatch.setattr(Recorder, "install", install)
    worker = Tuning()
    assert worker.compile_or_warm_up_model() == "captured"
    shapes = WorkerShapes.of(worker.shape_classes())
    assert (shapes.shapes, shapes.obstacle) == ((), "RuntimeError: the operators are taken")
