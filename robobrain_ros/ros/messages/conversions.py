"""Convert image messages to images, and answers to the messages that ROS generates."""

from array import array
from collections.abc import Iterable, Sequence

from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point as PointMessage
from sensor_msgs.msg import CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header

from robobrain_ros.bounds.texts import clean
from robobrain_ros.core.messages.answers import AnswerMessages, MessageTypes, Origin, short_sentence
from robobrain_ros.core.messages.images import ImageReader
from robobrain_ros.core.messages.positions import Positions
from robobrain_ros.core.progress import FULL_SCORE, ProgressEstimate
from robobrain_ros.core.query import Answer, Box, PlanStep, Point, Report, RgbImage, Task
from robobrain_ros.core.surfaces import Lifted
from robobrain_ros.errors import OutcomeCode, RoboBrainError
from robobrain_ros.msg import (
    AffordanceArea,
    AffordancePoint,
    Affordances,
    InferenceReport,
    Outcome,
    Plan,
    Progress,
    TextAnswer,
    Trajectory,
    Waypoint,
)
from robobrain_ros.msg import PlanStep as PlanStepMessage
from robobrain_ros.ros.messages.poses import along_path, to_trace_issues
from robobrain_ros.ros.messages.unknown import unknown

_MESSAGES = AnswerMessages(
    MessageTypes(
        Affordances=Affordances,
        AffordanceArea=AffordanceArea,
        AffordancePoint=AffordancePoint,
        InferenceReport=InferenceReport,
        Plan=Plan,
        PlanStep=PlanStepMessage,
        TextAnswer=TextAnswer,
        Trajectory=Trajectory,
        Waypoint=Waypoint,
        Point=PointMessage,
        RegionOfInterest=RegionOfInterest,
        Time=Time,
    )
)

_reader = ImageReader()


def read_image_message(message: Image | CompressedImage) -> RgbImage:
    """Return a copy of the image of a request: RGB, (height, width, 3), uint8.

    :raises BadImageError: the message cannot be read.
    """
    return _reader.read(message)


def to_affordances(
    task: Task, origin: Origin, answer: Answer | None, report: InferenceReport, positions: Positions | None = None
) -> Affordances:
    """Return the message of point, affordance or ground. Without an answer, it has no points and bounding boxes."""
    return _MESSAGES.affordances(task, origin, answer, report, positions)


def to_trajectory(
    origin: Origin, answer: Answer | None, report: InferenceReport, positions: Positions | None = None
) -> Trajectory:
    """Return the message of trajectory. Without an answer, it has no waypoints and no poses."""
    message: Trajectory = _MESSAGES.trajectory(origin, answer, report, positions)
    if positions is not None and positions.followed is not None:
        followed = positions.followed
        message.poses = along_path(followed.positions) if answer else []
        message.issues = to_trace_issues(followed.report.issues)
        message.unchecked = [short_sentence(reason) for reason in followed.report.unchecked]
    return message


def to_text_answer(
    origin: Origin, answer: Answer | None, report: InferenceReport, positions: Positions | None = None
) -> TextAnswer:
    """Return the message of ask. Without an answer, it has no text."""
    return _MESSAGES.text_answer(origin, answer, report, positions)


def to_plan(origin: Origin, answer: Answer | None, report: InferenceReport, positions: Positions | None = None) -> Plan:
    """Return the message of plan. Without an answer, it has no steps."""
    return _MESSAGES.plan(origin, answer, report, positions)


def to_progress(origin: Origin, answer: Answer | None, report: InferenceReport, positions: Positions | None = None) -> Progress:
    """Return the message of a single comparison. Without an answer, its change is unknown."""
    message = _progress_of(origin, report)
    if answer is not None and answer.score is not None:
        message.change = answer.score / FULL_SCORE
    return message


def to_estimate(origin: Origin, estimate: ProgressEstimate, report: InferenceReport) -> Progress:
    """Return the message of an estimate from several perspectives."""
    message = _progress_of(origin, report)
    message.progress, message.change, message.uncertainty = estimate.progress, estimate.change, estimate.uncertainty
    for perspective, progress in estimate.by_perspective.items():
        setattr(message, perspective.value, progress)
    return message


def _progress_of(origin: Origin, report: InferenceReport) -> Progress:
    message = unknown(Progress)
    message.header, message.task, message.camera, message.report = origin.header, clean(origin.text), origin.camera, report
    return message


def to_points(points: Sequence[Point], lifted: Lifted | None = None) -> list[AffordancePoint]:
    """Return messages of points. Without ``lifted``, positions are unknown."""
    return _MESSAGES.points(points, lifted)


def to_areas(boxes: Sequence[Box], width: int, height: int, lifted: Lifted | None = None) -> list[AffordanceArea]:
    """Return messages of bounding boxes in an image of this size in pixels. Without ``lifted``, positions are unknown."""
    return _MESSAGES.areas(boxes, width, height, lifted)


def to_waypoints(points: Sequence[Point], lifted: Lifted | None = None) -> list[Waypoint]:
    """Return messages of waypoints with the depth that the model estimated. Without ``lifted``, positions are unknown."""
    return _MESSAGES.waypoints(points, lifted)


def to_steps(steps: Iterable[PlanStep]) -> list[PlanStepMessage]:
    """Return messages of plan steps in the same order."""
    return _MESSAGES.steps(steps)


def to_report(report: Report, thinking: str = "") -> InferenceReport:
    """Return the message of a report; ``thinking`` is the text of the thinking."""
    return _MESSAGES.report(report, thinking)


def to_outcome(error: RoboBrainError | None, note: str = "") -> Outcome:
    """Return the outcome of a request.

    :param error: None: the request succeeded.
    :param note: states which positions or images of a successful request are missing.
    """
    if error is None:
        return Outcome(code=int(OutcomeCode.OK), message=short_sentence(note))
    return Outcome(code=int(error.code), message=short_sentence(error.message))


def to_image(image: RgbImage, header: Header) -> Image:
    """Return an RGB image (height, width, 3), uint8, as a message with encoding rgb8."""
    height, width = image.shape[:2]
    message = Image(header=header, height=height, width=width, encoding="rgb8", is_bigendian=0, step=width * 3)
    # The message does not check an array. It would check each byte of a bytes object, which takes 20 ms for a full-HD image.
    message.data = array("B", image.tobytes())
    return message
