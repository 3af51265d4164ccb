"""Judge on which grid a model answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import median

from robobrain_ros.core.grids.grid import Grid, centre, read_as
from robobrain_ros.core.grids.targets import REACH, TargetImage
from robobrain_ros.core.imaging import FittedSize
from robobrain_ros.core.query import AnswerContent, ParsedAnswer, Point

_CLEAR_LEAD = 3
"""Hits by which a grid must lead all others before the check ends early."""
_LEAST_SHARE = 0.25
"""Least share of the answers that must hit on the grid that fits."""
_MOST_CHANCE_HITS = 1
"""Most hits of 12 that a grid on which the model does not answer gets by chance."""
_NEAR = 2.0
"""Distance in units of `REACH` within which an answer is near its target."""
_LEAST_RESCALE = 1.15
"""Least factor, or divisor, by which images must seem to have been resized again."""
_MOST_ANISOTROPY = 0.15
"""Largest relative difference of the scales to the right and downwards, if an image was resized."""


class GridVerdict(Enum):
    """The result of a grid check."""

    RIGHT = "right"
    """The model answers on the grid of its profile."""
    WRONG = "wrong"
    """The model answers on another grid."""
    NONE_FITS = "none fits"
    """The model gives coordinates, and they hit the targets on no grid."""
    UNCLEAR = "unclear"
    """There are too few answers with coordinates, or they contradict each other."""
    NO_COORDINATES = "no coordinates"
    """The model family answers no task with coordinates."""


@dataclass(frozen=True)
class TargetAnswer:
    """The answer to the question for one target.

    :param size: the image before and after resizing for the model. None: the image was not resized, because the request failed.
    :param parsed: coordinates as the model wrote them. None: there are none.
    :param fault: why there are none, otherwise empty.
    """

    image: TargetImage
    target: str
    size: FittedSize | None = None
    parsed: ParsedAnswer | None = None
    fault: str = ""

    @property
    def located(self) -> bool:
        """Whether the answer has coordinates."""
        return self.size is not None and bool(_places(self.parsed))

    def hits(self, grid: Grid, reaches: float = 1.0) -> bool:
        """Return whether at least half of the coordinates are on the target if they are read on this grid.

        Fractions are only read as fractions, and other numbers never.

        :param reaches: largest distance of a hit in units of `REACH`.
        """
        if self.size is None or self.parsed is None or (grid is Grid.FRACTIONS) != self.parsed.normalized:
            return False
        return self._near([point for point in _places(read_as(self.parsed, grid, self.size)) if not point.clamped], reaches)

    def hits_scaled(self, scale: float) -> bool:
        """Return whether the answer hits if its image was resized by this factor after resizing for the model."""
        if self.size is None or self.parsed is None:
            return False
        size = self.size
        across, down = size.width / (scale * size.model_width), size.height / (scale * size.model_height)
        return self._near([Point(point.u * across, point.v * down) for point in _places(self.parsed)])

    def scales(self) -> tuple[float, float]:
        """Return the ratios of the answer to the target in pixels of the resized image, to the right and downwards."""
        assert self.size is not None, "the answer is located"
        (u, v), points = self.image.centre(self.target), _places(self.parsed)
        x, y = u * self.size.model_width / self.size.width, v * self.size.model_height / self.size.height
        return median(point.u for point in points) / x, median(point.v for point in points) / y

    def _near(self, points: Sequence[Point], reaches: float = 1.0) -> bool:
        (u, v), reach = self.image.centre(self.target), reaches * REACH * self.image.mean_side
        close = sum((point.u - u) ** 2 + (point.v - v) ** 2 <= reach**2 for point in points)
        return 2 * close >= len(_places(self.parsed)) and close > 0


@dataclass(frozen=True)
class GridCheck:
    """The result of a grid check.

    :param own: the grid of the profile.
    :param asked: number of questions.
    :param located: number of answers with coordinates.
    :param hits: number of answers that hit their target, by grid.
    :param fits: the grid that fits, if the verdict is RIGHT or WRONG.
    :param scale: if the answers fit an image that was resized again: its scale relative to the image that the engine received.
    :param fault: an example of the reasons why answers have no coordinates.
    """

    verdict: GridVerdict
    profile: str
    own: Grid
    asked: int = 0
    located: int = 0
    hits: tuple[tuple[Grid, int], ...] = ()
    fits: Grid | None = None
    scale: float | None = None
    fault: str = ""

    @property
    def suspicious(self) -> bool:
        """Whether answers with coordinates are probably wrong."""
        return self.verdict in (GridVerdict.WRONG, GridVerdict.NONE_FITS)

    @property
    def acceptable(self) -> bool:
        """Whether a node that requires the check may become ready."""
        return self.verdict in (GridVerdict.RIGHT, GridVerdict.NO_COORDINATES)

    def __str__(self) -> str:
        counts = dict(self.hits)
        if self.verdict is GridVerdict.NO_COORDINATES:
            return f"no coordinates: the profile {self.profile} has no task with coordinates."
        if self.verdict is GridVerdict.RIGHT:
            return f"right: {counts[self.own]} of {self.asked} answers hit their targets as {self.own.value}."
        if self.verdict is GridVerdict.WRONG and self.fits is not None:
            return (
                f"wrong: the model answers in {self.fits.value} ({counts[self.fits]} of {self.asked} targets hit), but the "
                f"profile {self.profile} reads {self.own.value} ({counts[self.own]} of {self.asked}). Coordinates in answers are "
                "wrong. Set model_profile to the family of this checkpoint (docs/reference/models.md)."
            )
        if self.verdict is GridVerdict.NONE_FITS:
            if self.scale is not None:
                return (
                    f"none fits: the answers fit images of {self.scale:.2f} times the size that the engine received. Coordinates "
                    "in answers are wrong. Check whether the server resizes images (max_pixels of its processor), and set "
                    "engine.max_pixels to its limit."
                )
            most = max(counts.values(), default=0)
            return (
                f"none fits: at most {most} of {self.located} answers with coordinates hit their targets, on every grid. Check "
                "the checkpoint and model_profile (docs/reference/models.md)."
            )
        why = f" For example: {self.fault}" if self.fault else ""
        return (
            f"unclear: {self.located} of {self.asked} answers have coordinates, {counts.get(self.own, 0)} hit their targets.{why}"
        )


def judge(answers: Sequence[TargetAnswer], own: Grid, profile: str, last: bool) -> GridCheck | None:
    """Return the result, or None if further questions can make it clearer.

    :param own: the grid of the profile.
    :param last: whether there are no further questions.
    """
    located = sum(answer.located for answer in answers)
    hits = {grid: sum(answer.hits(grid) for answer in answers) for grid in Grid}
    # Two grids can read alike if the image is not resized. Then it does not matter which of them is meant.
    best = max(Grid, key=lambda grid: (hits[grid], grid is own))
    others = [hits[grid] for grid in Grid if not _alike(answers, grid, best)]
    lead = hits[best] - max(others, default=0)
    fault = next((answer.fault for answer in answers if answer.fault), "")

    def result(verdict: GridVerdict, fits: Grid | None = None, scale: float | None = None) -> GridCheck:
        return GridCheck(verdict, profile, own, len(answers), located, tuple(hits.items()), fits, scale, fault)

    # A majority of the first round is enough. Later, a grid must lead clearly: the model may often miss the targets.
    enough = hits[best] >= _LEAST_SHARE * len(answers) and (
        lead >= _CLEAR_LEAD or (last and hits[best] >= 2 * max(others, default=0))
    )
    if enough and lead > _MOST_CHANCE_HITS:
        return result(GridVerdict.RIGHT if best is own else GridVerdict.WRONG, best)
    if not located:
        return result(GridVerdict.UNCLEAR)
    if not last:
        return None
    if 3 * located >= 2 * len(answers):
        if not hits[own] and hits[best] <= _MOST_CHANCE_HITS and (scale := _scale(answers)) is not None:
            return result(GridVerdict.NONE_FITS, scale=scale)
        # On the right grid, even a model that misses often has a hit, or at least some answers near their targets.
        near = sum(answer.hits(own, _NEAR) for answer in answers)
        if not hits[own] and max(near, hits[best]) <= _MOST_CHANCE_HITS:
            return result(GridVerdict.NONE_FITS)
    return result(GridVerdict.UNCLEAR)


def _alike(answers: Sequence[TargetAnswer], one: Grid, other: Grid) -> bool:
    return all(answer.hits(one) == answer.hits(other) for answer in answers)


def _scale(answers: Sequence[TargetAnswer]) -> float | None:
    """Return the factor by which all images seem to have been resized again, or None if no factor explains the answers."""
    located = [answer for answer in answers if answer.located]
    across, down = (median(scales) for scales in zip(*(answer.scales() for answer in located), strict=True))
    if min(across, down) <= 0 or abs(across - down) > _MOST_ANISOTROPY * max(across, down):
        return None
    scale = (across + down) / 2
    if 1 / _LEAST_RESCALE < scale < _LEAST_RESCALE:
        return None
    return scale if 3 * sum(answer.hits_scaled(scale) for answer in located) >= 2 * len(located) else None


def _places(answer: AnswerContent | None) -> list[Point]:
    """Return the points of an answer, the centres of its boxes, and the end of its trajectory."""
    if answer is None:
        return []
    return [*answer.points, *map(centre, answer.boxes), *answer.waypoints[-1:]]
