"""What the page shows, and the interface of its sources: a node robobrain, or a model without ROS."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from robobrain_ros.bounds.texts import clean, shortened
from robobrain_ros.core.clouds import Cloud
from robobrain_ros.core.query import Answer, PlanStep, RgbImage, Task

LONGEST_INSTRUCTION = 8000
"""Maximum characters of an instruction. The node has the same limit."""
MOST_ANSWERS = 20
"""Number of previous answers on the page."""
MOST_STEPS = 64
THIS_PAGE = "this page"
"""Source of an answer to a viewer's question."""
_LONGEST_TEXT = 4000
_LONGEST_NOTE = 500
_MOST_NOTES = 8
_MOST_PROGRESS = 600
_DONE = 0.95
"""Progress at which a step of a plan counts as done. It is the default of ~/watch_task."""


@dataclass(frozen=True)
class Shape:
    """A part of the 3D scene, in the frame of the page's scene.

    :param kind: "spheres", "lines" (pairs of points), "arrows" (pairs of points), "text" or "axes".
    :param points: (n, 3), metres.
    :param colours: (n, 3), 0..255. For lines and arrows: one colour for each pair.
    :param size: diameter of spheres, of shafts and of lines, height of letters or length of axes, in metres.
    :param wxyz: rotation of axes.
    """

    kind: str
    points: npt.NDArray[np.float64]
    colours: npt.NDArray[np.uint8]
    size: float
    text: str = ""
    wxyz: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Frame:
    """An image of the camera.

    :param number: differs from that of the previous image.
    :param age: seconds since the image was recorded, or None if unknown.
    """

    number: int
    image: RgbImage
    age: float | None = None


@dataclass(frozen=True)
class Status:
    """State of the engine, the cameras and the requests.

    :param level: "ok", "warn" or "error".
    :param ready: whether questions can be asked.
    :param rows: names and values.
    """

    level: str
    message: str
    ready: bool = False
    rows: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Question:
    """The question that a viewer asked last, and its answer so far.

    :param answer: the parts that are complete so far.
    :param finished: whether the request has ended.
    :param outcome: name of the outcome, or empty before the end.
    :param message: reason of a failure.
    """

    task: Task
    text: str
    think: bool = False
    written: str = ""
    thinking: bool = False
    answer: Answer | None = None
    finished: bool = False
    outcome: str = ""
    message: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Entry:
    """A previous answer.

    :param key: identifies the answer. A second answer with the same key is ignored.
    :param source: the standing query, `THIS_PAGE` or another client.
    :param when: time of ``time.time()``.
    :param arrival: time of ``time.monotonic()``.
    """

    key: tuple[object, ...]
    text: str
    answer: Answer
    source: str
    when: float = field(default_factory=time.time)
    arrival: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class StepState:
    """A step of the plan. ``progress`` is 0 to 1, or None if nothing watches the step."""

    step: PlanStep
    progress: float | None = None

    @property
    def state(self) -> str:
        """Return "done", "running" or "open"."""
        if self.progress is None:
            return "open"
        return "done" if self.progress >= _DONE else "running"


class Source(Protocol):
    """Source of images and answers. Every method returns at once, and can be called from any thread."""

    live: bool
    """Whether new images arrive automatically. Then an answer stays on the image for a limited time."""

    def choices(self) -> Sequence[str]:
        """Return the names of the cameras or images that a viewer can choose."""

    def choose(self, name: str) -> None:
        """Show another camera or image. Unknown names are ignored."""

    def watch(self, watching: bool) -> None:
        """Start or stop receiving. Without viewers, a source receives nothing."""

    def frame(self) -> Frame | None:
        """Return the newest image, or None."""

    def cloud(self) -> Cloud | None:
        """Return the newest cloud, or None."""

    def ask(self, question: Question) -> None:
        """Send a request. Its progress and its answer arrive in the feed."""

    def cancel(self) -> None:
        """Cancel the request of this page."""

    def close(self) -> None:
        """Stop, and free everything."""


class Feed:
    """The newest state of everything that the page shows. Sources write it, and the page reads it, from any thread.

    :param on_change: called after each change, without arguments.
    """

    def __init__(self, on_change: Callable[[], None] = lambda: None) -> None:
        self.on_change = on_change
        self._lock = threading.Lock()
        self.status = Status("warn", "Starting.")
        self.question: Question | None = None
        self.entries: deque[Entry] = deque(maxlen=MOST_ANSWERS)
        self.notes: deque[str] = deque(maxlen=_MOST_NOTES)
        self.plan_task = ""
        self.plan: tuple[StepState, ...] = ()
        self.watched = ""
        """Task of the progress."""
        self.progress: deque[tuple[float, float]] = deque(maxlen=_MOST_PROGRESS)
        """Time of ``time.monotonic()``, and progress 0 to 1."""
        self.shapes: dict[str, Shape] = {}
        self.position_note = ""
        """Why positions of answers are not shown."""

    def set_status(self, status: Status) -> None:
        """Replace the state of engine, cameras and requests."""
        if status != self.status:
            self.status = replace(status, message=shortened(clean(status.message), _LONGEST_NOTE))
            self.on_change()

    def note(self, text: str) -> None:
        """Add a sentence about an event, such as a restart of the node."""
        line = f"{time.strftime('%H:%M:%S')} {shortened(clean(text), _LONGEST_NOTE)}"
        with self._lock:
            self.notes.append(line)
        self.on_change()

    def begin(self, question: Question) -> bool:
        """Show a new question. Return False if the previous one has not ended."""
        with self._lock:
            if self.question is not None and not self.question.finished:
                return False
            self.question = question
        self.on_change()
        return True

    def partial(self, written: str, thinking: bool, answer: Answer) -> None:
        """Show the text and the parts of the answer so far."""
        with self._lock:
            if self.question is None or self.question.finished:
                return
            self.question = replace(
                self.question, written=_tail(written), thinking=thinking, answer=replace(answer, task=self.question.task)
            )
        if answer.steps:
            self.set_plan(self.question.text, answer.steps)
        self.on_change()

    def finish(self, outcome: str, message: str, answer: Answer | None, seconds: float = 0.0) -> None:
        """End the question with its outcome."""
        with self._lock:
            question = self.question
            if question is None or question.finished:
                return
            # The parts so far are preliminary. They are not part of an answer that failed.
            self.question = replace(
                question,
                finished=True,
                outcome=outcome,
                message=shortened(clean(message), _LONGEST_TEXT),
                answer=answer,
                written=_tail(answer.report.raw_text) if answer and answer.report.raw_text else question.written,
                seconds=seconds or (answer.report.total_time if answer else 0.0),
            )
        self.on_change()

    def add(self, entry: Entry) -> bool:
        """Add an answer to the previous answers. Return False if it is already there."""
        with self._lock:
            if any(other.key == entry.key for other in self.entries):
                return False
            self.entries.append(entry)
        if entry.answer.steps:
            self.set_plan(entry.text, entry.answer.steps)
        self.on_change()
        return True

    def set_plan(self, task: str, steps: Sequence[PlanStep]) -> None:
        """Show a plan as a checklist. Steps with the same text keep their state."""
        with self._lock:
            known = {state.step.text: state.progress for state in self.plan} if task == self.plan_task else {}
            self.plan_task = task
            self.plan = tuple(StepState(step, known.get(step.text)) for step in steps[:MOST_STEPS])
        self.on_change()

    def add_progress(self, task: str, value: float) -> None:
        """Add an estimate of a watched task. If the task is a step of the plan, the step shows it."""
        with self._lock:
            if task != self.watched:
                self.watched = task
                self.progress.clear()
            self.progress.append((time.monotonic(), value))
            self.plan = tuple(
                replace(state, progress=max(value, state.progress or 0.0)) if state.step.text.strip() == task.strip() else state
                for state in self.plan
            )
        self.on_change()

    def set_shapes(self, shapes: dict[str, Shape], note: str = "") -> None:
        """Replace the answers in the 3D scene.

        :param note: why positions are missing, or empty.
        """
        self.shapes, self.position_note = shapes, shortened(clean(note), _LONGEST_NOTE)
        self.on_change()

    def snapshot(self) -> "Snapshot":
        """Return a consistent copy of the parts that change together."""
        with self._lock:
            return Snapshot(
                self.question,
                tuple(self.entries),
                tuple(self.notes),
                self.plan_task,
                self.plan,
                self.watched,
                tuple(self.progress),
            )


@dataclass(frozen=True)
class Snapshot:
    """See `Feed`."""

    question: Question | None
    entries: tuple[Entry, ...]
    notes: tuple[str, ...]
    plan_task: str
    plan: tuple[StepState, ...]
    watched: str
    progress: tuple[tuple[float, float], ...]


def _tail(text: str) -> str:
    """Return the end of a long text."""
    text = clean(text)
    return text if len(text) <= _LONGEST_TEXT else f"... {text[-_LONGEST_TEXT:]}"
