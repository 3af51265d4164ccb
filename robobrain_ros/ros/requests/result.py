"""The result of a request."""

from dataclasses import dataclass
from functools import cached_property

from robobrain_ros.core.messages.answers import Origin
from robobrain_ros.core.messages.positions import Positions
from robobrain_ros.core.query import Answer, Report, RgbImage, Task
from robobrain_ros.errors import OutcomeCode, RoboBrainError
from robobrain_ros.ros.messages.conversions import to_report
from robobrain_ros.ros.tasks import TASKS, ResultMessage


@dataclass
class Result:
    """The result of a request, whether it succeeded or not.

    :param task: the task, or None if the request named an unknown task.
    :param answer: the answer, or None if there is none.
    :param error: the error, or None if the request succeeded.
    :param image: the image that the answer is about, or None if no image was read.
    :param positions: positions of the answer's points, bounding boxes and waypoints; None: the image came with the request, or
        the task is not spatial.
    :param images_note: see `SelectedImages.note`.
    :param rejected: a trajectory that ``strict_traces`` rejects. Only the markers show it.
    """

    task: Task | None
    origin: Origin
    report: Report
    answer: Answer | None = None
    error: RoboBrainError | None = None
    image: RgbImage | None = None
    positions: Positions | None = None
    images_note: str = ""
    rejected: Answer | None = None

    @property
    def note(self) -> str:
        """Why positions or images are missing, or positions are not in ``target_frame``. Empty: everything is complete."""
        return self.positions.note if self.positions else self.images_note

    @property
    def answered(self) -> bool:
        """Whether the model gave an answer of the task's form. NOTHING_FOUND is such an answer."""
        return self.error is None or self.error.code is OutcomeCode.NOTHING_FOUND

    @cached_property
    def message(self) -> ResultMessage:
        """The task's message. Without an answer, it contains only the report."""
        assert self.task is not None, "a request of an unknown task has no message"
        report = to_report(self.report, self.answer.thinking if self.answer else "")
        return TASKS[self.task].to_message(self.origin, self.answer, report, self.positions)
