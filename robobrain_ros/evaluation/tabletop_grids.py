"""The scores of recorded answers about the tabletop world, with their coordinates read on other grids."""

from dataclasses import dataclass, field
from typing import Protocol

from robobrain_ros.core.grids import Grid, raw_answer, read_as
from robobrain_ros.core.imaging import FittedSize
from robobrain_ros.core.profiles import Profile
from robobrain_ros.core.query import Answer, ParsedAnswer, Query
from robobrain_ros.errors import RoboBrainError, UnparsableAnswerError

_Key = tuple[str, str, str]


def _key(query: Query) -> _Key:
    return query.task.value, query.text, query.image_ids[0]


class OfFamily(Protocol):
    """A `core.brain.Brain`, or another source of answers of one model family."""

    @property
    def profile(self) -> Profile:
        """The profile of the family."""
        ...

    async def run(self, query: Query) -> Answer:
        """See `core.brain.Brain.run`."""
        ...


@dataclass
class Recorder:
    """Answers queries with a brain, and keeps the answers to spatial tasks. Queries need image ids."""

    brain: OfFamily
    answers: dict[_Key, tuple[ParsedAnswer | None, FittedSize | None]] = field(default_factory=dict)

    async def run(self, query: Query) -> Answer:
        """See `Brain.run`."""
        key, raw, sizes = _key(query), "", []
        try:
            answer = await self.brain.run(query)
            raw, sizes = answer.report.raw_text, answer.report.model_image_sizes
            return answer
        except RoboBrainError as error:
            raw, sizes = error.raw_text, error.report.model_image_sizes if error.report is not None else []
            raise
        finally:
            if query.task.spatial:
                height, width = query.images[0].shape[:2]
                size = FittedSize(width, height, *sizes[0]) if sizes else None
                self.answers[key] = raw_answer(query.task, raw, self.brain.profile) if raw else None, size


@dataclass
class OnGrid:
    """Answers queries with recorded answers, read on a grid. No model is asked."""

    recorder: Recorder
    grid: Grid

    async def run(self, query: Query) -> Answer:
        """Return the recorded answer.

        :raises UnparsableAnswerError: there is none, or its numbers cannot be of this grid.
        """
        parsed, size = self.recorder.answers.get(_key(query), (None, None))
        if parsed is None or size is None or (self.grid is Grid.FRACTIONS) != parsed.normalized:
            raise UnparsableAnswerError("There is no answer on this grid.", "")
        return read_as(parsed, self.grid, size)
