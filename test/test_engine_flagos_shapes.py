"""Operators by shape: the table file, the registration in PyTorch's dispatcher, the check at the start, and the kernels' results.

The registration is real and uses the CPU dispatch key, with an implementation in PyTorch. The kernels run in Triton's
interpreter.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from shape_entries import GPU, SHAPES, Computed, entry

from robobrain_ros.engine.flagos.by_shape import check as flagos_check
from robobrain_ros.engine.flagos.by_shape import start as flagos_start
from robobrain_ros.engine.flagos.by_shape import table as flagos_table
from robobrain_ros.engine.flagos.by_shape.operators import ShapeOperators
from robobrain_ros.engine.flagos.by_shape.start import Device
from robobrain_ros.engine.flagos.by_shape.table import ROWS, ShapeEntry, ShapeTable


@contextmanager
def installed(entries: Sequence[ShapeEntry], implementation: Any) -> Iterator[ShapeOperators]:
    """Register the operators on the CPU."""
    operators = ShapeOperators(entries, {"skinny": implementation}, key="CPU")
    operators.install()
    try:
        yield operators
    finally:
        operators.remove()


def inputs(rows: int, k: int = 32, n: int = 48, dtype: Any = torch.bfloat16) -> tuple[Any, Any, Any]:
    """Return x, the transposed view of the weights, and a bias."""
    generator = torch.Generator().manual_seed(rows + k + n)
    x, weight, bias = (torch.randn(size, generator=generator).to(dtype) for size in ((rows, k), (n, k), (n,)))
    return x, weight.t(), bias


def test_forms_with_an_entry_are_computed_by_it_and_nothing_else() -> None:
    implementation = Computed()
    x, weight, bias = inputs(4)
    expected, expected_with_bias = torch.mm(x, weight), torch.addmm(bias, x, weight)
    with installed([entry(4), entry(4, operator="addmm")], implementation) as operators:
        out = torch.empty_like(expected)
        results = [torch.mm(x, weight), torch.mm(x, weight, out=out), torch.nn.functional.linear(x, weight.t())]
        with_bias = [torch.addmm(bias, x, weight), torch.addmm(bias, x, weight, out=torch.empty_like(expected))]
        with_bias.append(torch.nn.functional.linear(x, weight.t(), bias))
        assert len(implementation.calls) == 6
        assert {known.operator for known in operators.called} == {"mm", "addmm"}
        assert results[1] is out
    for result in results:
        torch.testing.assert_close(result, expected, rtol=0.02, atol=0.02)
    for result in with_bias:
        torch.testing.assert_close(result, expected_with_bias, rtol=0.02, atol=0.02)
    torch.mm(x, weight)
    assert len(implementation.calls) == 6, "removed, and still called"


@pytest.mark.parametrize(
    ("rows", "k", "n", "dtype", "options"),
    [
        (5, 32, 48, torch.bfloat16, {}),
        (17, 32, 48, torch.bfloat16, {}),
        (4, 48, 32, torch.bfloat16, {}),
        (4, 32, 48, torch.float16, {}),
        (4, 32, 48, torch.float32, {}),
        (4, 32, 48, torch.bfloat16, {"alpha": 2}),
        (4, 32, 48, torch.bfloat16, {"beta": 0.5}),
    ],
)
def test_everything_without_an_entry_is_pytorchs_to_the_bit(
    rows: int, k: int, n: int, dtype: Any, options: dict[str, Any]
) -> None:
    implementation = Computed()
    x, weight, bias = inputs(rows, k, n, dtype)

    def all_forms() -> list[Any]:
        out = torch.empty(rows, n, dtype=dtype)
        results = [torch.addmm(bias, x, weight, **options), torch.addmm(bias, x, weight, out=out, **options)]
        return results if options else [*results, torch.mm(x, weight), torch.mm(x, weight, out=torch.empty(rows, n, dtype=dtype))]

    expected = all_forms()
    with installed([entry(4), entry(4, operator="addmm")], implementation):
        results = all_forms()
    assert implementation.calls == []
    assert all(torch.equal(*pair) for pair in zip(results, expected, strict=True))


def test_errors_are_pytorchs() -> None:
    with installed([entry(4), entry(4, operator="addmm")], Computed()):
        for wrong in ((torch.randn(3), torch.randn(3, 3)), (torch.randn(2, 3), torch.randn(4, 3)), (torch.tensor(1.0),) * 2):
            with pytest.raises(RuntimeError, match=r"matri|shapes|2D|2-D"):
                torch.mm(*wrong)
        assert torch.mm(torch.randn(0, 32), torch.randn(32, 48)).shape == (0, 48)


def test_rows_belong_to_the_smallest_class_that_holds_them() -> None:
    entries = [entry(rows) for rows in ROWS if rows != 8]
    operators = ShapeOperators(entries, {"skinny": Computed()}, key="CPU")
    found = [operators.find("mm", *inputs(rows)[:2]) for rows in range(1, 18)]
    classes = [None if known is None else known.rows for known in found]
    assert classes == [1, 2, 4, 4, None, None, None, None, *([16] * 8), None]


def test_tensors_that_the_implementation_cannot_take_are_native_and_the_reason_is_kept() -> None:
    x, weight, _ = inputs(4)
    implementation = Computed(obstacle="strides")
    with installed([entry(4)], implementation) as operators:
        torch.mm(x, weight)
        assert implementation.calls == []
        assert operators.refused == {entry(4): "strides"}


def test_a_kernel_that_raises_is_native_from_then_on(caplog: pytest.LogCaptureFixture) -> None:
    def fail(result: Any, k: int, n: int) -> None:
        raise RuntimeError("out of resource: shared memory")

    implementation = Computed(fail)
    x, weight, _ = inputs(4)
    expected = torch.mm(x, weight)
    with installed([entry(4), entry(16)], implementation) as operators:
        told: list[int] = []
        operators.on_failure = lambda: told.append(len(operators.failed))
        results = [torch.mm(x, weight) for _ in range(3)]
        assert told == [1]
        assert len(implementation.calls) == 1
        assert list(operators.failed.values()) == ["RuntimeError: out of resource: shared memory"]
        assert operators.find("mm", *inputs(9)[:2]) == entry(16), "only the shape class that failed"
    assert all(torch.equal(result, expected) for result in results)
    assert "mm bfloat16 4x32x48" in caplog.text


def test_a_shape_survives_a_moment_without_memory() -> None:
    def fail(result: Any, k: int, n: int) -> None:
        if len(implementation.calls) == 1:
            raise torch.OutOfMemoryError("2 MiB")

    implementation = Computed(fail)
    x, weight, _ = inputs(4)
    expected = torch.mm(x, weight)
    with installed([entry(4)], implementation) as operators:
        assert torch.equal(torch.mm(x, weight), expected)
        torch.mm(x, weight)
        assert operators.called == {entry(4)}
        assert operators.failed == {}
        assert operators.refused == {entry(4): "out of memory: 2 MiB"}


def test_gradients_and_fake_tensors_pass() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with installed([entry(4, dtype="float16")], Computed()):
        x, weight, _ = inputs(4, dtype=torch.float16)
        x.requires_grad_()
        torch.mm(x, weight).sum().backward()
        assert x.grad is not None
        mode = FakeTensorMode()
        fakes = mode.from_tensor(x.detach()), mode.from_tensor(weight)
        with mode:
            assert torch.mm(*fakes).shape == (4, 48)


PLANTED = {
    "one element": lambda result: result.view(-1)[-1:].add_(1.0),
    "missing": lambda result: result.view(-1)[-1:].fill_(torch.nan),
    "scale": lambda result: result.mul_(1.01),
    "rows": lambda result: result.copy_(result.flip(1)),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_kernel_that_is_wrong_for_one_shape_is_found_by_shape(fault: str) -> None:
    def spoil(result: Any, k: int, n: int) -> None:
        if (k, n) == (64, 16):
            PLANTED[fault](result)

    verdict = flagos_check.check(SHAPES, {"skinny": Computed(spoil)}, "cpu", None)
    assert {found.entry for found in verdict.faults} == {known for known in SHAPES if (known.k, known.n) == (64, 16)}
    assert "64x16" in verdict.obstacle
    assert "32x48" not in verdict.obstacle


def test_an_answer_that_changes_and_a_kernel_that_does_not_compile_are_found() -> None:
    seen = iter(range(10_000))

    def drift(result: Any, k: int, n: int) -> None:
        result[0, 0] *= 1.0 + (next(seen) % 2) * 0.01

    def fail(result: Any, k: int, n: int) -> None:
        raise RuntimeError("PTXAS error")

    one = [entry(1, k=512)]
    assert "two answers differ" in flagos_check.check(one, {"skinny": Computed(drift)}, "cpu", None).obstacle
    assert "RuntimeError: PTXAS error" in flagos_check.check(one, {"skinny": Computed(fail)}, "cpu", None).obstacle
    assert "strides" in flagos_check.check(one, {"skinny": Computed(obstacle="strides")}, "cpu", None).obstacle


def test_right_kernels_pass_and_three_shapes_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flagos_check, "_COLD_BYTES", 20_000)
    timed: list[int] = []

    def timer(functions: Sequence[Callable[[], Any]]) -> float:
        functions[0]()
        timed.append(len(functions))
        return 1.0

    verdict = flagos_check.check(SHAPES, {"skinny": Computed()}, "cpu", timer)
    assert verdict.obstacle == ""
    assert set(verdict.ratios) == {"mm bfloat16 1x64x16", "mm bfloat16 1x32x48", "mm bfloat16 1x16x96"}
    assert min(timed) > 1, "weights that a cache may hold"


def test_a_slower_kernel_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flagos_check, "_COLD_BYTES", 20_000)
    implementation = Computed()

    def timer(functions: Sequence[Callable[[], Any]]) -> float:
        before = len(implementation.calls)
        functions[0]()
        return 1.1 if len(implementation.calls) > before else 1.0

    verdict = flagos_check.check([entry()], {"skinny": implementation}, "cpu", timer)
    assert "slower than native: mm bfloat16 1x32x48 at 0.91" in verdict.obstacle


def stub(implementation: Any, **changes: Any) -> Callable[[], Device]:
    """A finder of devices that returns this CPU under another name."""
    device = Device(GPU, "cpu", "CPU", "2.11.0", "3.6.0", {"skinny": implementation}, None)
    return lambda: replace(device, **changes)


def test_start_prepares_the_entries_of_the_model_and_reports_them(tmp_path: Path) -> None:
    flagos_table.write(flagos_table.table_file(GPU, tmp_path), ShapeTable(GPU, "2", "3", tuple(SHAPES), {}))
    implementation = Computed()
    started = flagos_start.start([(64, 16), (999, 999)], "bfloat16", stub(implementation), tmp_path)
    assert "10 shape classes" in started.why
    implementation.calls.clear()
    with started.installed():
        torch.mm(*inputs(2, 64, 16)[:2])
        torch.mm(*inputs(2, 32, 48)[:2])
    torch.mm(*inputs(2, 64, 16)[:2])
    assert implementation.calls == [(2, 64, 16, False)], "only in between, and only what the model has"
    assert started.names == ("mm",)
    assert started.details()["flagos_shapes_in_use"] == "mm bfloat16 64x16: 2 rows"


def _wrong_for_one(result: Any, k: int, n: int) -> None:
    if (k, n) == (64, 16):
        result.mul_(2.0)


@pytest.mark.parametrize(
    ("dtype", "implementation", "changes", "words"),
    [
        ("bfloat16", Computed(_wrong_for_one), {}, "wrong or failing for 10 of the shape classes: addmm bfloat16 1x64x16"),
        ("float16", Computed(), {}, "no entry for this model's weights in float16"),
        ("bfloat16", Computed(), {"name": "Other GPU"}, "no measured table for Other GPU"),
        ("bfloat16", Computed(), {"torch": "3.0"}, "for PyTorch 2; this is PyTorch 3"),
        ("bfloat16", Computed(), {"implementations": {}}, "KeyError"),
        ("bfloat16", Computed(), {"place": "nowhere"}, "RuntimeError"),
    ],
)
def test_start_stays_native_with_the_reason(
    tmp_path: Path, dtype: str, implementation: Computed, changes: dict[str, Any], words: str
) -> None:
    flagos_table.write(flagos_table.table_file(GPU, tmp_path), ShapeTable(GPU, "2", "3", tuple(SHAPES), {}))
    started = flagos_start.start([(64, 16), (32, 48)], dtype, stub(implementation, **changes), tmp_path)
    assert started.operators is None
    assert started.why.startswith("Native matrix products: ")
    assert words in started.why
    assert started.details() == {"flagos_shapes": started.why}
    implementation.calls.clear()
    torch.mm(*inputs(1, 64, 16)[:2])
    assert implementation.calls == []


def test_start_without_a_gpu_is_native() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert flagos_start.start([(64, 16)], "bfloat16").why == "Native matrix products: this process has no GPU."


@pytest.fixture(scope="module")
def interpreted() -> list[dict[str, Any]]:
    """Return what skinny_interpreted.py printed."""
    pytest.importorskip("triton")
    program = Path(__file__).with_name("skinny_interpreted.py")
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(program)], env=one_thread, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_kernels_agree_with_float64_and_repeat_to_the_bit(interpreted: list[dict[str, Any]]) -> None:
    assert len(interpreted) == 60
    assert [case["name"] for case in interpreted if not case["same"]] == []
    bounds = {"torch.float16": 2**-10, "torch.bfloat16": 2**-7}
    wrong = [case for case in interpreted if not case["error"] <= bounds[case["name"].split()[2]]]
    assert wrong == []


def test_obstacles_of_the_skinny_product() -> None:
    pytest.importorskip("triton")
    from robobrain_ros.engine.flagos.by_shape.matmul import obstacle

    x, weight, bias = inputs(4)
    out = torch.empty(4, 48, dtype=torch.bfloat16)
    assert not obstacle(x, weight, bias, out)
    assert not obstacle(x[:, :16], weight[:16], bias.expand(4, 48), out)
    assert not obstacle(x, weight, out.clone(), out)
    for case, words in (
        ((torch.randn(17, 32).bfloat16(), weight), "sizes"),
        ((x, weight.contiguous()), "strides"),
        ((x.t().contiguous().t(), weight), "strides"),
        ((x.float(), weight.float()), "types"),
        ((x, weight.half()), "types"),
        ((x[:1].expand(4, 32), weight), "strides"),
        ((x, weight, bias.float()), "bias"),
        ((x, weight, bias[:1]), "bias"),
        ((x, weight, torch.randn(48, 4).bfloat16().t()), "bias"),
        ((x, weight, torch.randn(3, 48).bfloat16()), "bias"),
        ((x, weight, None, torch.empty(48, 4, dtype=torch.bfloat16).t()), "out"),
        ((x, weight, None, torch.empty(4, 48)), "out"),
        ((x, weight, None, torch.empty(0, dtype=torch.bfloat16)), "out"),
        ((x, x.t(), None, x.view(-1)[:16].view(4, 4)), "out"),
    ):
        assert words in obstacle(*case)


def test_without_get_kernel_nothing_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.library, "get_kernel")
    with pytest.raises(RuntimeError, match="get_kernel"):
        ShapeOperators([entry()], {"skinny": Computed()}, key="CPU").install()
