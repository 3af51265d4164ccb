"""Find the fastest implementation of a shape class on this device: time candidates in CUDA graphs with cold weights.

tune_flagos measures the shape classes of an engine in its worker. ``benchmark/skinny_matmul.py`` measures this package's tables.
Importing this module imports PyTorch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

import torch

from robobrain_ros.engine.flagos.by_shape import check
from robobrain_ros.engine.flagos.by_shape.launches import neighbours
from robobrain_ros.engine.flagos.by_shape.operators import Implementation
from robobrain_ros.engine.flagos.by_shape.table import Launch, ShapeClass, ShapeEntry
from robobrain_ros.engine.flagos.intervals import interval_of_median

NEAR = 1.01
"""Candidates that take at most this multiple of the fastest one's time count as equally fast. So a few kernels serve many shapes,
and the first start compiles only these."""
_LEAST_GAIN = 1.01
"""Smallest speed-up of an entry."""
_CONFIRM_ROUNDS = 7
_TOO_LARGE = "resource"
"""Part of Triton's message about a launch that needs more shared memory than the GPU has."""


@dataclass(frozen=True)
class Candidate:
    """An implementation with a launch configuration.

    :param implementation: one of `table.IMPLEMENTATIONS`.
    """

    implementation: str
    launch: Launch


@dataclass(frozen=True)
class Confirmed:
    """A candidate that was timed alternately with PyTorch's operator.

    :param native_us: median time of PyTorch's operator in µs.
    :param us: median time of the candidate in µs.
    :param ratio: median speed-up of the candidate: native time divided by its time.
    :param low: lower end of the 95 % interval of ``ratio``.
    :param high: upper end of this interval.
    """

    candidate: Candidate
    native_us: float
    us: float
    ratio: float
    low: float
    high: float

    @property
    def faster(self) -> bool:
        """Whether the candidate is at least 1 % faster, and the whole interval is above 1."""
        return self.native_us / self.us >= _LEAST_GAIN and self.low > 1.0

    def entry(self, shape: ShapeClass) -> ShapeEntry:
        """Return the table's entry for this candidate."""
        found = self.candidate
        native_us, us = round(self.native_us, 3), round(self.us, 3)
        return ShapeEntry(
            shape.operator, shape.dtype, shape.rows, shape.k, shape.n, found.implementation, found.launch, native_us, us
        )


@dataclass
class Timed:
    """The measured candidates of a shape class.

    :param us: time of each correct candidate in µs.
    :param faults: candidates with a wrong result or an exception, and what happened. Candidates that are too large for the GPU,
        or that do not support the tensors, are not faults.
    """

    us: dict[Candidate, float] = field(default_factory=dict)
    faults: dict[Candidate, str] = field(default_factory=dict)
    tried: set[Candidate] = field(default_factory=set)

    @property
    def fastest(self) -> Candidate | None:
        """The fastest candidate, or None if none is correct."""
        return min(self.us, key=lambda candidate: self.us[candidate], default=None)

    def first_near(self, candidates: Sequence[Candidate]) -> Candidate | None:
        """Return the first of these candidates that is nearly as fast as the fastest one, otherwise the fastest one."""
        if self.fastest is None:
            return None
        most = NEAR * self.us[self.fastest]
        return next((candidate for candidate in candidates if self.us.get(candidate, most + 1.0) <= most), self.fastest)


class Trial:
    """Random inputs of a shape class, and the times of its products.

    :param weights: matrices (k, n), transposed views of row-major matrices on the device. Reading them in turn evicts each from
        the GPU's cache before it is read again (`check.cold_copies`).
    :param implementations: implementations by their name in a table.
    :param timer: measures the time of calls.
    """

    def __init__(
        self, shape: ShapeClass, weights: Sequence[Any], implementations: Mapping[str, Implementation], timer: check.Timer
    ) -> None:
        self.shape = shape
        self._weights = weights
        self._implementations = implementations
        self._timer = timer
        self._like = weights[0]
        self._x = self._random(shape.rows, shape.k)
        bias = (shape.rows, shape.n) if shape.residual else (shape.n,)
        self._bias = self._random(*bias) if shape.operator == "addmm" else None
        self._out = self._like.new_empty((shape.rows, shape.n))

    def _random(self, *size: int) -> Any:
        return torch.randn(size, dtype=self._like.dtype, device=self._like.device)

    def _native(self, weight: Any) -> Any:
        return check.native(self._x, weight, self._bias)

    def _compute(self, candidate: Candidate, weight: Any, out: Any = None) -> Any:
        implementation = self._implementations[candidate.implementation]
        return implementation.multiply(candidate.launch, self._x, weight, self._bias, self._out if out is None else out)

    def _us(self, call: Callable[[Any], Any]) -> float:
        return self._timer([partial(call, weight) for weight in self._weights]) / len(self._weights) * 1e6

    def native_us(self) -> float:
        """Return the time of PyTorch's operator in µs."""
        return self._us(self._native)

    def us(self, candidate: Candidate) -> float:
        """Return the time of a candidate in µs."""
        return self._us(partial(self._compute, candidate))

    def fault(self, candidate: Candidate) -> str:
        """Return how the candidate's result is wrong, or an empty string.

        :raises Exception: any exception of the implementation.
        """
        weight = self._weights[0]
        outs = [torch.full_like(self._out, torch.nan) for _ in range(2)]
        for out in outs:
            self._compute(candidate, weight, out)
        return check.difference(outs[0], outs[1], self._native(weight))

    def time(self, candidates: Sequence[Candidate], timed: Timed, more: Callable[[], bool] = lambda: True) -> None:
        """Time candidates that were not tried before, while ``more`` returns True."""
        for candidate in candidates:
            if candidate in timed.tried or not more():
                continue
            timed.tried.add(candidate)
            implementation = self._implementations.get(candidate.implementation)
            if implementation is None or implementation.obstacle(self._x, self._like, self._bias, self._out):
                continue
            try:
                fault = self.fault(candidate)
                if not fault:
                    timed.us[candidate] = self.us(candidate)
            except Exception as error:
                fault = f"{type(error).__name__}: {error}"[:300]
                if _TOO_LARGE in fault:
                    continue
            if fault:
                timed.faults[candidate] = fault

    def time_neighbours(self, timed: Timed, more: Callable[[], bool]) -> None:
        """Time the neighbours of the fastest launch of this package's kernel, as long as they are faster."""
        while more():
            best = timed.fastest
            if best is None or best.implementation != "skinny":
                return
            new = [Candidate("skinny", launch) for launch in neighbours(best.launch)]
            self.time([one for one in new if one.launch.most_rows >= self.shape.rows], timed, more)
            if timed.fastest == best:
                return

    def confirm(self, candidate: Candidate) -> Confirmed:
        """Time a candidate alternately with PyTorch's operator."""
        pairs = []
        for index in range(_CONFIRM_ROUNDS):
            if index % 2 == 0:
                native, ours = self.native_us(), self.us(candidate)
            else:
                ours, native = self.us(candidate), self.native_us()
            pairs.append((native, ours))
        ratios = [native / ours for native, ours in pairs]
        low, high = interval_of_median(ratios)
        native_us, us = (median(pair[side] for pair in pairs) for side in range(2))
        return Confirmed(candidate, native_us, us, median(ratios), low, high)
