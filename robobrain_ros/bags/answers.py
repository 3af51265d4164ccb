"""Answers to the questions about one image of a bag, as messages and as rows of a table."""

import asyncio
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from robobrain_ros.bags.errors import BagError
from robobrain_ros.bags.frames import Frame
from robobrain_ros.bags.markers import markers_message
from robobrain_ros.bags.messages import COMPRESSED, PACKAGE, answer_messages, message_type, serialized
from robobrain_ros.bags.moments import Moment
from robobrain_ros.bags.positions import PositionSettings, locate
from robobrain_ros.bags.questions import Question
from robobrain_ros.bags.tables import Row
from robobrain_ros.bounds.texts import clean
from robobrain_ros.core.brain import Brain
from robobrain_ros.core.formats.jpeg import encode_jpeg
from robobrain_ros.core.messages.answers import AnswerMessages, Origin
from robobrain_ros.core.messages.positions import Positions
from robobrain_ros.core.overlay import draw
from robobrain_ros.core.query import Answer, Query, RgbImage, Task
from robobrain_ros.core.surfaces import Lifted
from robobrain_ros.errors import NoImageError, OutcomeCode, RoboBrainError

_THREADS = 4
"""Threads that decode, compute positions and draw."""

Result = TypeVar("Result")
ToMessage = Callable[[AnswerMessages, Origin, Answer, Any, Positions], Any]


@dataclass(frozen=True)
class ResultTopic:
    """A result topic of the node: its name after the node's name, and its type."""

    name: str
    type_name: str
    to_message: ToMessage


def _located(task: Task) -> ResultTopic:
    return ResultTopic("affordances", "Affordances", lambda to, *parts: to.affordances(task, *parts))


RESULT_TOPICS = {
    Task.POINT: _located(Task.POINT),
    Task.AFFORDANCE: _located(Task.AFFORDANCE),
    Task.GROUND: _located(Task.GROUND),
    Task.TRAJECTORY: ResultTopic("trajectory", "Trajectory", lambda to, *parts: to.trajectory(*parts)),
    Task.PLAN: ResultTopic("plan", "Plan", lambda to, *parts: to.plan(*parts)),
    Task.ASK: ResultTopic("answer", "TextAnswer", lambda to, *parts: to.text_answer(*parts)),
}
"""The topic of each task, as in `robobrain_ros.ros.tasks`. A test compares both."""
OVERLAY_TOPIC = "overlay/compressed"
VIEW_PROFILE = (10, 10)
"""Depth, and lifespan in seconds, of the node's topics for viewers: overlay and markers."""
_FORMAT = "rgb8; jpeg compressed bgr8"


@dataclass
class Reply:
    """The end of one question about one image.

    :param note: which positions are missing and why, or empty.
    """

    question: Question
    code: OutcomeCode
    message: str
    seconds: float
    tokens: int = 0
    note: str = ""
    answer: Answer | None = None
    positions: Positions | None = None
    rows: list[Row] = field(default_factory=list)
    result: tuple[str, bytes] | None = None
    """Name of the result topic after the node's name, and the message."""


@dataclass
class MomentReplies:
    """All replies about one image.

    :param overlay: the image with the answers drawn on it as a JPEG message, or None.
    :param markers: the answers as a MarkerArray message, or None.
    :param drawn: the annotated image as an RGB image, or None.
    """

    number: int
    time: int
    replies: list[Reply]
    overlay: bytes | None = None
    markers: bytes | None = None
    drawn: RgbImage | None = None


async def ask(brain: Brain, question: Question, frames: Sequence[Frame], images: Sequence[RgbImage]) -> Answer:
    """Ask the model, and ask once more if the engine fails.

    :param frames: the frames of the images, the newest one last.
    :raises RoboBrainError: see `Brain.run`.
    """
    ends = [(frame.moment - frames[-1].moment) * 1e-9 for frame in frames]
    query = Query(
        question.task, question.text, images, image_ids=[frame.name for frame in frames], think=question.think,
        timeout=question.timeout, max_tokens=question.max_tokens, plan=question.plan,
        image_times=ends if question.history_seconds and len(frames) > 1 else (),
    )  # fmt: skip
    try:
        return await brain.run(query)
    except RoboBrainError as error:
        if error.code not in (OutcomeCode.ENGINE_FAILED, OutcomeCode.BUSY, OutcomeCode.CANCELED):
            raise
    return await brain.run(query)


class Responder:
    """Asks the questions about images.

    :param limit: largest number of requests at the same time.
    :param overlay: whether to make overlay messages. ``markers``: likewise. ``drawn``: whether to keep the drawn images.
    """

    def __init__(
        self, brain: Brain, settings: PositionSettings, *, limit: int, overlay: bool = False, markers: bool = False,
        drawn: bool = False,
    ) -> None:  # fmt: skip
        self._brain = brain
        self._settings = settings
        self._slots = asyncio.Semaphore(limit)
        # The next images are decoded while the engine works on the current ones.
        self._places = asyncio.Semaphore(2 * limit)
        # These threads are separate, because the brain resizes images in those of asyncio, and must not wait for one.
        self._threads = ThreadPoolExecutor(_THREADS, "bag-answers")
        self._overlay = overlay
        self._markers = markers
        self._drawn = drawn

    async def answer(self, moment: Moment) -> MomentReplies:
        """Ask all questions about an image, and return the replies."""
        replies = await asyncio.gather(*(self._ask(moment, question, images) for question, images in moment.questions))
        done = MomentReplies(moment.number, moment.frame.time, list(replies))
        if self._overlay or self._drawn:
            await self._in_thread(self._draw, moment, done)
        if self._markers:
            await self._in_thread(self._mark, moment, done)
        return done

    async def _in_thread(self, function: Callable[..., Result], *arguments: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    async def _ask(self, moment: Moment, question: Question, frames: Sequence[Frame] | BagError) -> Reply:
        async with self._places:
            try:
                if isinstance(frames, BagError):
                    raise NoImageError(str(frames))
                answer = await self._run(question, frames)
            except RoboBrainError as error:
                seconds = 0.0 if error.report is None else error.report.total_time
                reply = Reply(question, error.code, error.message, seconds)
                reply.rows = [_cleaned(_row(moment, reply))]
                return reply
        return await self._in_thread(self._reply, moment, question, frames, answer)

    async def _run(self, question: Question, frames: Sequence[Frame]) -> Answer:
        images = [await self._in_thread(frame.image) for frame in frames]
        async with self._slots:
            return await ask(self._brain, question, frames, images)

    def _reply(self, moment: Moment, question: Question, frames: Sequence[Frame], answer: Answer) -> Reply:
        height, width = moment.frame.image().shape[:2]
        positions = locate(answer, moment, (width, height), self._settings) if question.task.spatial else None
        report = answer.report
        report.image_age = math.nan
        report.stamps = [(frame.header.stamp.sec, frame.header.stamp.nanosec) for frame in frames]
        reply = Reply(question, OutcomeCode.OK, "", report.total_time, report.answer_tokens + report.thinking_tokens)
        reply.positions = positions
        reply.answer, reply.note = answer, positions.note if positions else ""
        to, topic = answer_messages(), RESULT_TOPICS[question.task]
        origin = Origin(moment.frame.header, question.text, moment.camera.name, question.name, width, height)
        placed = positions or Positions(moment.frame.header)
        message = topic.to_message(to, origin, answer, to.report(report, answer.thinking), placed)
        reply.result = topic.name, serialized(message, f"{PACKAGE}/msg/{topic.type_name}")
        rows = [_row(moment, reply) | part for part in _parts(answer, placed)] or [_row(moment, reply)]
        reply.rows = [_cleaned(row) for row in rows]
        return reply

    def _draw(self, moment: Moment, done: MomentReplies) -> None:
        answered = [reply for reply in done.replies if reply.answer is not None]
        try:
            image = moment.frame.image()
        except RoboBrainError:
            return
        for reply in answered:
            assert reply.answer is not None
            image = draw(image, reply.answer, instruction=reply.question.text if len(answered) == 1 else "")
        if self._drawn:
            done.drawn = image
        if self._overlay and answered:
            overlay = message_type(COMPRESSED)
            data = message_type_data(encode_jpeg(image))
            done.overlay = serialized(
                overlay(header=moment.frame.header, format="rgb8; jpeg compressed bgr8", data=data), COMPRESSED
            )

    @staticmethod
    def _mark(moment: Moment, done: MomentReplies) -> None:
        answers = (
            (reply.question.name, reply.question.text, reply.answer, reply.positions)
            for reply in done.replies
            if reply.answer is not None and reply.positions is not None
        )
        done.markers = markers_message(answers, moment.frame.header.frame_id)


def message_type_data(data: bytes) -> Any:
    """Return bytes as the array that rosbags serializes."""
    return np.frombuffer(data, np.uint8)


def _cleaned(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row whose texts can be written as UTF-8."""
    return {name: clean(value) if isinstance(value, str) else value for name, value in row.items()}


def _row(moment: Moment, reply: Reply) -> dict[str, Any]:
    question = reply.question
    return {
        "image": moment.number,
        "stamp": moment.frame.stamp,
        "time": moment.frame.time,
        "camera": moment.camera.name,
        "query": question.name,
        "task": question.task.value,
        "instruction": question.text,
        "outcome": reply.code.name,
        "message": reply.message or reply.note,
        "total_time": round(reply.seconds, 6),
    }


def _parts(answer: Answer, positions: Positions) -> list[dict[str, Any]]:
    """Return the parts of an answer as parts of rows."""
    rows: list[dict[str, Any]] = []
    for part, points, lifted in (
        ("point", answer.points, positions.points),
        ("waypoint", answer.waypoints, positions.waypoints),
    ):
        for index, point in enumerate(points):
            own = {
                "u": round(point.u, 3),
                "v": round(point.v, 3),
                "depth": point.depth,
                "label": point.label,
                "clamped": point.clamped,
            }
            rows.append({"part": part, "index": index, **own, **_position(lifted, index, positions)})
    for index, box in enumerate(answer.boxes):
        corners = {name: round(getattr(box, name), 3) for name in ("u_min", "v_min", "u_max", "v_max")}
        corners |= {"label": box.label, "clamped": box.clamped}
        rows.append({"part": "area", "index": index, **corners, **_position(positions.boxes, index, positions)})
    for index, step in enumerate(answer.steps):
        names = ("order", "robot", "skill", "arguments", "text")
        rows.append({"part": "step", "index": index, **{name: getattr(step, name) for name in names}})
    if answer.task is Task.ASK:
        rows.append({"part": "text", "index": 0, "text": answer.text})
    return rows


def _position(lifted: Lifted | None, index: int, positions: Positions) -> dict[str, Any]:
    if lifted is None or not all(map(math.isfinite, lifted.positions[index])):
        return {}
    x, y, z = (round(value, 6) for value in lifted.positions[index].tolist())
    return {"x": x, "y": y, "z": z, "frame_id": positions.header.frame_id}
