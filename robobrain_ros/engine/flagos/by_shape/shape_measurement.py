"""The requests of tune_flagos to a worker and its replies, as values that vLLM's calls to workers can carry."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from robobrain_ros.engine.flagos.by_shape.table import Launch, ShapeClass, ShapeEntry, as_entry, as_launch


@dataclass(frozen=True)
class CountedShape:
    """A shape class of a model.

    :param count: number of weights with this size in the worker.
    """

    shape: ShapeClass
    count: int

    @property
    def values(self) -> dict[str, Any]:
        """The fields as plain values."""
        return {**asdict(self.shape), "count": self.count}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "CountedShape":
        """Return the shape class with these fields."""
        return cls(ShapeClass(**{name: value for name, value in values.items() if name != "count"}), values["count"])


@dataclass(frozen=True)
class ShapeRequest:
    """A request to measure one shape class.

    :param launches: launches of this package's kernel to try, the preferred one first.
    :param flag_gems: whether to try FlagGems' operator too. Its first call with a shape can take a minute.
    :param neighbours: whether to also try launches that differ a little from the fastest one.
    :param seconds: after this time, no further launch is tried.
    """

    shape: ShapeClass
    launches: tuple[Launch, ...]
    flag_gems: bool = False
    neighbours: bool = False
    seconds: float = 30.0

    @property
    def values(self) -> dict[str, Any]:
        """The fields as plain values."""
        return {**asdict(self), "launches": [asdict(launch) for launch in self.launches]}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "ShapeRequest":
        """Return the request with these fields."""
        fields = dict(values)
        launches = tuple(map(as_launch, fields.pop("launches")))
        return cls(ShapeClass(**fields.pop("shape")), launches, **fields)


@dataclass(frozen=True)
class MeasuredShape:
    """The measurement of a shape class.

    :param entry: the table's entry, or None if no kernel was faster than PyTorch's.
    :param native_us: time of PyTorch's operator in µs.
    :param us: time of the selected kernel in µs; 0: there is none.
    :param ratio: speed-up of the selected kernel; 0: there is none.
    :param low: lower end of the 95 % interval of ``ratio``.
    :param high: upper end of this interval.
    :param tried: number of kernels that were tried.
    :param faults: wrong and failing kernels, and what happened.
    """

    entry: ShapeEntry | None
    native_us: float
    us: float = 0.0
    ratio: float = 0.0
    low: float = 0.0
    high: float = 0.0
    tried: int = 0
    faults: tuple[str, ...] = ()

    @property
    def values(self) -> dict[str, Any]:
        """The fields as plain values."""
        return {**asdict(self), "faults": list(self.faults)}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "MeasuredShape":
        """Return the measurement with these fields.

        :raises ValueError: the entry is invalid.
        """
        fields = dict(values)
        entry, faults = fields.pop("entry"), fields.pop("faults")
        return cls(None if entry is None else as_entry(entry), faults=tuple(faults), **fields)


@dataclass(frozen=True)
class WorkerShapes:
    """The GPU of a worker, and the shape classes of its model.

    :param device: name of the GPU in PyTorch.
    :param torch: full version of PyTorch.
    :param triton: full version of Triton.
    :param obstacle: why nothing can be measured, a sentence, or empty.
    """

    device: str
    torch: str
    triton: str
    shapes: tuple[CountedShape, ...]
    obstacle: str = ""

    @property
    def values(self) -> dict[str, Any]:
        """The fields as plain values."""
        return {**asdict(self), "shapes": [shape.values for shape in self.shapes]}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "WorkerShapes":
        """Return the description with these fields."""
        shapes: Sequence[Mapping[str, Any]] = values["shapes"]
        return cls(**{**values, "shapes": tuple(map(CountedShape.of, shapes))})
