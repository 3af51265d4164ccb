"""The state of a condition from a sequence of answers, of which some are wrong."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

DEFAULT_STABLE_FRAMES = 3


@dataclass(frozen=True)
class Change:
    """A change of the state.

    :param holds: the new state.
    :param initial: whether the state was unknown before.
    :param frames: number of consecutive answers that agree with the new state.
    :param confidence: mean confidence of these answers (0.5 to 1). None: the confidence of no answer is known.
    """

    holds: bool
    initial: bool
    frames: int
    confidence: float | None


class Hysteresis:
    """Changes its state only after several consecutive answers that agree.

    :param frames: number of consecutive answers for a change, at least 1.
    """

    def __init__(self, frames: int = DEFAULT_STABLE_FRAMES) -> None:
        self.frames = frames
        self.state: bool | None = None
        """Whether the condition holds. None: unknown."""
        self._candidate: bool | None = None
        self._confidences: list[float | None] = []

    @property
    def candidate(self) -> bool | None:
        """The state to which the newest answers agree, if it differs from the current state; otherwise None."""
        return self._candidate

    @property
    def agreeing(self) -> int:
        """Number of consecutive answers for the candidate, less than ``frames``."""
        return len(self._confidences)

    def add(self, holds: bool, confidence: float | None = None) -> Change | None:
        """Add an answer. Return the change of the state, or None if the state does not change.

        :param holds: whether the condition holds according to the answer.
        :param confidence: confidence of the answer, 0.5 to 1; None: unknown.
        """
        if holds != self._candidate:
            self._candidate, self._confidences = holds, []
        if holds == self.state:
            self._candidate = None
            return None
        self._confidences.append(confidence)
        if len(self._confidences) < self.frames:
            return None
        change = Change(holds, self.state is None, self.frames, _mean(self._confidences))
        self.state = holds
        self._candidate, self._confidences = None, []
        return change

    def reset(self) -> None:
        """Forget the state and all answers."""
        self.state, self._candidate, self._confidences = None, None, []


def _mean(confidences: Sequence[float | None]) -> float | None:
    known = [confidence for confidence in confidences if confidence is not None]
    return math.fsum(known) / len(known) if known else None
