"""Check a table's entries on this machine: each must be correct, and three of them must not be slower than PyTorch's operators.

The reference is PyTorch's operator with the same random inputs. A result is wrong if an element differs by more than two
rounding errors, or if elements differ by more than half a rounding error on average. A result is also wrong if an element is not
written, or if a second call gives another result. Times are measured in CUDA graphs, with weights that are not in the GPU's
cache. Run the check before `ShapeOperators.install`. Otherwise, it would compare the operators with themselves. Importing this
module imports PyTorch.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import median
from typing import Any

import torch

from robobrain_ros.engine.flagos.by_shape.operators import Implementation
from robobrain_ros.engine.flagos.by_shape.table import OPERATORS, ROWS, ShapeEntry

_MOST_SLOWER = 1.03
"""Largest allowed ratio to the native time. Two measurements of the same kernel differ by about this factor."""
_TIMED_SHAPES = 3
_ROUNDS = 5
_COLD_BYTES = 200_000_000
"""Bytes of other weights that are read before the same weights are read again. The caches of current GPUs are smaller."""

Timer = Callable[[Sequence[Callable[[], Any]]], float]
"""Returns the time in seconds of functions that are called one after the other on the device."""


@dataclass(frozen=True)
class EntryFault:
    """An entry with a wrong result or an exception."""

    entry: ShapeEntry
    how: str

    def __str__(self) -> str:
        return f"{self.entry.name}: {self.how}"


@dataclass(frozen=True)
class CheckResult:
    """The result of the check.

    :param ratios: native time divided by the kernel's time, for the timed shapes.
    :param seconds: duration of the check. Compiling kernels takes most of it if they are not in Triton's cache.
    """

    faults: tuple[EntryFault, ...]
    ratios: dict[str, float]
    seconds: float

    @property
    def obstacle(self) -> str:
        """Why the entries must not be used, or an empty string if they are correct and not slower."""
        if self.faults:
            shown = "; ".join(map(str, self.faults[:3]))
            more = f", and {len(self.faults) - 3} more" if len(self.faults) > 3 else ""
            return f"wrong or failing for {len(self.faults)} of the shape classes: {shown}{more}"
        slow = [f"{name} at {ratio:.2f} of the native speed" for name, ratio in self.ratios.items() if ratio * _MOST_SLOWER < 1.0]
        return f"slower than native: {'; '.join(slow)}" if slow else ""


def check(
    entries: Sequence[ShapeEntry], implementations: Mapping[str, Implementation], device: str, timer: Timer | None
) -> CheckResult:
    """Check entries on a device.

    :param timer: measures times. With None, only the results are checked.
    """
    start = time.monotonic()
    if not entries:
        return CheckResult((), {}, 0.0)
    numbers = _Numbers(entries, device)
    faults = [
        EntryFault(entry, how) for entry in entries if (how := _fault(entry, implementations[entry.implementation], numbers))
    ]
    ratios: dict[str, float] = {}
    if timer is not None and not faults:
        ratios = {entry.name: _ratio(entry, implementations[entry.implementation], numbers, timer) for entry in _timed(entries)}
    return CheckResult(tuple(faults), ratios, time.monotonic() - start)


class _Numbers:
    """Random inputs. All entries share their memory."""

    def __init__(self, entries: Iterable[ShapeEntry], device: str) -> None:
        self._generator = torch.Generator(device).manual_seed(0)
        self._device = device
        self._most = max(entry.k * entry.n for entry in entries)
        self._pools: dict[str, Any] = {}

    def weights(self, entry: ShapeEntry, count: int = 1) -> list[Any]:
        """Return ``count`` matrices (k, n): transposed views of row-major matrices."""
        size = entry.k * entry.n
        pool = self._pools.get(entry.dtype)
        if pool is None or pool.numel() < size * count:
            self._pools[entry.dtype] = pool = self.random(max(self._most, size * count), entry.dtype)
        return [pool[index * size : (index + 1) * size].view(entry.n, entry.k).t() for index in range(count)]

    def random(self, size: int | tuple[int, int], dtype: str) -> Any:
        """Return normally distributed random numbers."""
        shape = (size,) if isinstance(size, int) else size
        return torch.empty(shape, dtype=getattr(torch, dtype), device=self._device).normal_(generator=self._generator)

    def inputs(self, entry: ShapeEntry, rows: int) -> tuple[Any, list[Any]]:
        """Return the first matrix and the biases: a row and a matrix, or only None for an operator without bias."""
        sizes = (entry.n, (rows, entry.n))
        biases = [self.random(size, entry.dtype) for size in sizes] if entry.operator == "addmm" else [None]
        return self.random((rows, entry.k), entry.dtype), biases


def native(x: Any, weight: Any, bias: Any) -> Any:
    """Compute a product (rows, n) with PyTorch's operator."""
    return torch.mm(x, weight) if bias is None else torch.addmm(bias, x, weight)


def _fault(entry: ShapeEntry, implementation: Implementation, numbers: _Numbers) -> str:
    """Check an entry with the most and the fewest rows of its row range. Return the fault or an empty string."""
    fewest = max((rows for rows in ROWS if rows < entry.rows), default=0) + 1
    try:
        for rows in dict.fromkeys((entry.rows, fewest)):
            x, biases = numbers.inputs(entry, rows)
            weight = numbers.weights(entry)[0]
            for bias in biases:
                first, second = (torch.full((rows, entry.n), torch.nan, dtype=x.dtype, device=x.device) for _ in range(2))
                if why := implementation.obstacle(x, weight, bias, first):
                    return f"it does not take {rows} rows ({why})"
                for out in (first, second):
                    implementation.multiply(entry.launch, x, weight, bias, out)
                if how := difference(first, second, native(x, weight, bias)):
                    return f"{how} with {rows} rows"
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    return ""


def difference(first: Any, second: Any, native: Any) -> str:
    """Return how two results of a kernel differ from each other or from the native result, or an empty string.

    All three have the shape (rows, n) and the same dtype.
    """
    if not bool(torch.isfinite(first).all()):
        return "elements are missing or not finite"
    if not torch.equal(first, second):
        return "two answers differ"
    rounding = torch.finfo(native.dtype).eps
    expected = native.float()
    off = (first.float() - expected).abs_()
    typical = float(expected.square().mean().sqrt())
    if bool((off > 2 * rounding * (expected.abs() + typical)).any()):
        return f"an element differs by {float(off.max()):.3g}"
    average = float(off.square().mean().sqrt()) / max(typical, 1e-30)
    return f"elements differ by {average:.2g} on average" if average > rounding / 2 else ""


def _timed(entries: Sequence[ShapeEntry]) -> list[ShapeEntry]:
    """Return three entries with the same operator and the fewest rows. They have the smallest, middle and largest weights."""
    first = min(entries, key=lambda entry: (entry.rows, OPERATORS.index(entry.operator)))
    like_it = [entry for entry in entries if (entry.rows, entry.operator) == (first.rows, first.operator)]
    ordered = sorted(like_it, key=lambda entry: entry.k * entry.n)
    last = len(ordered) - 1
    return [ordered[index] for index in sorted({last * part // (_TIMED_SHAPES - 1) for part in range(_TIMED_SHAPES)})]


def _ratio(entry: ShapeEntry, implementation: Implementation, numbers: _Numbers, timer: Timer) -> float:
    x, (bias, *_) = numbers.inputs(entry, entry.rows)
    out = torch.empty((entry.rows, entry.n), dtype=x.dtype, device=x.device)
    weights = numbers.weights(entry, cold_copies(entry.k * entry.n * x.element_size()))
    sides = (
        [lambda weight=weight: native(x, weight, bias) for weight in weights],
        [lambda weight=weight: implementation.multiply(entry.launch, x, weight, bias, out) for weight in weights],
    )
    times = [tuple(timer(side) for side in sides) for _ in range(_ROUNDS)]
    return median(theirs for theirs, _ in times) / median(ours for _, ours in times)


def cold_copies(size: int) -> int:
    """Return how many copies of weights of this size in bytes must be read in turn so that none stays in the GPU's cache."""
    return max(1, -(-_COLD_BYTES // size))


def graph_timer(functions: Sequence[Callable[[], Any]], milliseconds: float = 2.0) -> float:
    """Return the time in seconds of functions in a CUDA graph: the median of three measurements."""
    stream = _side_stream(torch.cuda.current_device())
    with torch.cuda.stream(stream):
        for function in functions:
            function()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Other threads of a running engine may use the GPU meanwhile.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            for function in functions:
                function()
        once = replayed(graph, stream, 2)
        count = max(1, min(20, int(milliseconds / 1e3 / once)))
        return median(replayed(graph, stream, count) for _ in range(3))


@cache
def _side_stream(device: int) -> Any:
    """Return the same stream for all measurements, because cuBLAS keeps a workspace of 32 MB for each stream."""
    return torch.cuda.Stream(device)


def replayed(graph: Any, stream: Any, count: int) -> float:
    """Return the time in seconds of one replay, averaged over ``count`` replays."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record(stream)
    for _ in range(count):
        graph.replay()
    end.record(stream)
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / count
