"""The errors of the core, the engines and the node.

Every error has a code and a message. The code's number is the constant with the same name in ``robobrain_ros/msg/Outcome``. The
message states what happened, and what to do. This module imports no other module of this package, so that engines can raise these
errors without a dependency on the core.
"""

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robobrain_ros.core.query import Report


class OutcomeCode(IntEnum):
    """How a request ended. The names and numbers are those of the constants in ``robobrain_ros/msg/Outcome``.

    ``NOT_SET`` is the default of a message. The node never sends it.
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
    NO_POSE = 15
    UNSAFE_TRAJECTORY = 16


class RoboBrainError(Exception):
    """The base class of all errors of this package.

    :param message: what happened and what to do, for users. It can quote file names and texts of a server, so lone surrogates,
        which neither a log nor a ROS message can contain, are replaced by question marks.
    :param raw_text: text that the model has written, or empty if there is none.

    `core.brain.Brain.run` sets ``report`` to the measurements of the failed request. None: the brain did not start the request.
    """

    code: OutcomeCode = OutcomeCode.ENGINE_FAILED
    report: "Report | None" = None

    def __init__(self, message: str, raw_text: str = "") -> None:
        message = message.encode("utf-8", "replace").decode("utf-8")
        super().__init__(message)
        self.message = message
        self.raw_text = raw_text


class NotReadyError(RoboBrainError):
    """The model is still loading, or the node is not active."""

    code = OutcomeCode.NOT_READY


class BusyError(RoboBrainError):
    """The maximum number of requests is already waiting."""

    code = OutcomeCode.BUSY


class NoImageError(RoboBrainError):
    """No image has arrived from the camera."""

    code = OutcomeCode.NO_IMAGE


class StaleImageError(RoboBrainError):
    """The newest image is older than the request allows."""

    code = OutcomeCode.STALE_IMAGE


class BadImageError(RoboBrainError):
    """An image cannot be read: its encoding is unknown, its size or shape is wrong, or its data is broken."""

    code = OutcomeCode.BAD_IMAGE


class BadRequestError(RoboBrainError):
    """A request is invalid: a value is wrong, or values contradict each other."""

    code = OutcomeCode.BAD_REQUEST


class UnsupportedTaskError(RoboBrainError):
    """The loaded model family was not trained for this task."""

    code = OutcomeCode.UNSUPPORTED_TASK


class UnparsableAnswerError(RoboBrainError):
    """The model's answer does not have the form that the task requires. ``raw_text`` contains the answer."""

    code = OutcomeCode.UNPARSABLE_ANSWER


class NothingFoundError(RoboBrainError):
    """The model reports that the requested object is not in the image, or that the task is impossible."""

    code = OutcomeCode.NOTHING_FOUND


class RequestTimeoutError(RoboBrainError):
    """The deadline of the request has passed. The engine no longer computes the request."""

    code = OutcomeCode.TIMEOUT


class CanceledError(RoboBrainError):
    """The request was cancelled by its caller or because of a shutdown."""

    code = OutcomeCode.CANCELED


class EngineFailedError(RoboBrainError):
    """The engine died, or failed to compute an answer. The message states what happens next."""

    code = OutcomeCode.ENGINE_FAILED


class InfeasiblePlanError(RoboBrainError):
    """The plan has the correct form, but contradicts itself or the robots in the request. The message names the step."""

    code = OutcomeCode.INFEASIBLE_PLAN


class NoPoseError(RoboBrainError):
    """The object has no approach pose. The message states the reason."""

    code = OutcomeCode.NO_POSE


class UnsafeTrajectoryError(RoboBrainError):
    """The trajectory has issues or is not checked completely, and the parameter ``strict_traces`` is set."""

    code = OutcomeCode.UNSAFE_TRAJECTORY


class EngineConfigError(EngineFailedError):
    """The engine cannot start as configured: wrong value, missing weights, too little memory, wrong version."""


def outcome_code(number: int) -> OutcomeCode:
    """Return the code of a message. A code of a newer version, which this version does not know, is NOT_SET."""
    return OutcomeCode(number) if number in list(OutcomeCode) else OutcomeCode.NOT_SET


def error_of(code: OutcomeCode, message: str) -> RoboBrainError:
    """Return the error that a node reported with this code and message."""
    kind = next((kind for kind in RoboBrainError.__subclasses__() if kind.code is code), RoboBrainError)
    return kind(message)
