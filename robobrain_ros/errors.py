"""The one hierarchy of errors, shared by the core, the engines and the node.

Every error has a code, whose number is the constant of the same name in ``robobrain_ros/msg/Outcome``, and a message: one
sentence that says what is wrong and what to do about it. This module imports nothing of the package, so that engines can
raise these errors without knowing the core.
"""

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robobrain_ros.core.query import Report


class OutcomeCode(IntEnum):
    """How a request ended; the same names and numbers as the constants of ``robobrain_ros/msg/Outcome``.

    ``NOT_SET`` is what a message holds that nobody filled; the node sends no such outcome.
    """

    NOT_SET = 0
    OK = 1
    NOT_READY = 2
    BUSY = 3
    NO_IMAGE = 4
    STALE_IMAGE = 5
    BAD_IMAGE = 6
    BAD_REQUEST = 7
    UNSUPPORTED_TASK = 8
    UNPARSABLE_ANSWER = 9
    NOTHING_FOUND = 10
    TIMEOUT = 11
    CANCELED = 12
    ENGINE_FAILED = 13
    INFEASIBLE_PLAN = 14


class RoboBrainError(Exception):
    """Base of all errors of this package.

    :param message: one sentence for the person at the other end.
    :param raw_text: what the model wrote, where it wrote anything.

    ``report`` is set by `core.brain.Brain.run`: how far the request got, for the one who asked. None: nothing was begun.
    """

    code: OutcomeCode = OutcomeCode.ENGINE_FAILED
    report: "Report | None" = None

    def __init__(self, message: str, raw_text: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.raw_text = raw_text


class NotReadyError(RoboBrainError):
    """The model is still loading, or the node is not active."""

    code = OutcomeCode.NOT_READY


class BusyError(RoboBrainError):
    """As many requests wait as may wait."""

    code = OutcomeCode.BUSY


class NoImageError(RoboBrainError):
    """No image has arrived from the camera yet."""

    code = OutcomeCode.NO_IMAGE


class StaleImageError(RoboBrainError):
    """The newest image is older than the request allows."""

    code = OutcomeCode.STALE_IMAGE


class BadImageError(RoboBrainError):
    """An image cannot be read: unknown encoding, wrong size, broken data, impossible shape."""

    code = OutcomeCode.BAD_IMAGE


class BadRequestError(RoboBrainError):
    """A request contradicts its own description."""

    code = OutcomeCode.BAD_REQUEST


class UnsupportedTaskError(RoboBrainError):
    """The loaded model family was not trained for this task."""

    code = OutcomeCode.UNSUPPORTED_TASK


class UnparsableAnswerError(RoboBrainError):
    """The model's answer does not have the form that the task asks for; ``raw_text`` holds it."""

    code = OutcomeCode.UNPARSABLE_ANSWER


class NothingFoundError(RoboBrainError):
    """The model answered, in form, that what was asked for is not in the image."""

    code = OutcomeCode.NOTHING_FOUND


class RequestTimeoutError(RoboBrainError):
    """The request's deadline has passed; the engine no longer works on it."""

    code = OutcomeCode.TIMEOUT


class CanceledError(RoboBrainError):
    """The request was cancelled by its caller or by a shutdown."""

    code = OutcomeCode.CANCELED


class EngineFailedError(RoboBrainError):
    """The engine died or refused to work; the message says what happens next."""

    code = OutcomeCode.ENGINE_FAILED


class InfeasiblePlanError(RoboBrainError):
    """The plan has its form, but contradicts itself or what the request says of the robots; the message names the step."""

    code = OutcomeCode.INFEASIBLE_PLAN


class EngineConfigError(EngineFailedError):
    """The engine cannot be started as configured: wrong value, missing weights, no memory, wrong version."""
