"""The page: its panels, and the loop that updates them while it has viewers."""

import logging
import threading
import time
from collections.abc import Iterable
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO

import cv2
import numpy as np
import viser
from viser import uplot

from robobrain_ros.core.geometry import GeometryError
from robobrain_ros.core.overlay import draw
from robobrain_ros.core.query import CAMERA_TASKS, Answer, RgbImage, Task
from robobrain_ros.errors import RoboBrainError
from robobrain_ros.live import html
from robobrain_ros.live.feed import LONGEST_INSTRUCTION, THIS_PAGE, Entry, Feed, Frame, Question, Snapshot, Source
from robobrain_ros.live.guard import Gate
from robobrain_ros.live.scene import SceneView

_log = logging.getLogger(__name__)

_KEPT = 10.0
"""Seconds for which an answer is drawn on the images that follow."""
_JPEG_QUALITY = 80
_WIDEST = 960
"""Width in pixels of the image on the page. Wider images are scaled down."""
_LEAST_PAUSE = 1.0
"""Seconds between two questions of a viewer."""
_IDLE = 0.5
"""Seconds between two updates of texts that change with time only."""
_LEFT, _RIGHT = 440, 360
"""Widths of the panels in pixels."""


class Page:
    """The page for all viewers of one source.

    :param rate: images and clouds per second, at most.
    """

    def __init__(self, gate: Gate, source: Source, feed: Feed, rate: float) -> None:
        self._gate, self._source, self._feed = gate, source, feed
        self._period = 1.0 / rate
        self._changed = threading.Event()
        feed.on_change = self._changed.set
        self._viewers: set[int] = set()
        self._asked: dict[int, float] = {}
        self._ended = threading.Event()
        self._drawn: tuple[object, ...] = ()
        self._plotted: tuple[tuple[float, float], ...] = ()
        self._last_question: Question | None = None
        self._question_at = self._texts_at = 0.0
        self._cloud_number = 0
        with gate.around_viser(), redirect_stdout(StringIO()):  # viser prints an address without the token.
            self._server = viser.ViserServer(host=gate.address, port=gate.port, label="RoboBrain", verbose=False)
        self._scene = SceneView(self._server)
        self._build()
        self._server.on_client_connect(self._welcome)
        self._server.on_client_disconnect(self._part)
        self._loop = threading.Thread(target=self._run, name="live page", daemon=True)
        self._loop.start()

    def close(self) -> None:
        """Stop the server."""
        self._ended.set()
        self._changed.set()
        self._loop.join(timeout=5.0)
        with redirect_stdout(StringIO()):
            self._server.stop()
        self._gate.close()

    def _build(self) -> None:
        gui = self._server.gui
        gui.configure_theme(show_logo=False, show_share_button=False, control_width="medium")
        blank = np.full((48, 64, 3), 40, np.uint8)
        panel = gui.add_panel()
        self._ask_tab = panel.add_tab("Camera")
        with self._ask_tab:
            self._image = gui.add_image(blank, format="jpeg", jpeg_quality=_JPEG_QUALITY, order=1.0)
            self._caption = gui.add_html("", order=2.0)
            self._question = gui.add_html("", order=4.0)
        panel.dock_left()
        panel.set_width(_LEFT)
        gui.main_panel.dock_right()
        gui.main_panel.set_width(_RIGHT)
        with gui.add_folder("State", order=1.0):
            self._status = gui.add_html("")
        with gui.add_folder("Plan", order=2.0):
            self._plan = gui.add_html("")
        with gui.add_folder("Progress", order=3.0):
            self._progress_text = gui.add_html("")
            self._progress = gui.add_uplot(
                data=(np.array([-60.0, 0.0]), np.array([np.nan, np.nan])),
                series=(uplot.Series(label="seconds"), uplot.Series(label="progress", stroke="#1971c2", width=2)),
                scales={"x": uplot.Scale(time=False), "y": uplot.Scale(range=(0.0, 1.0))},
                height=130,
                visible=False,
            )
        with gui.add_folder("Answers", order=4.0):
            self._answers = gui.add_html("")

    def _welcome(self, client: viser.ClientHandle) -> None:
        """Add the inputs of a new viewer. Each viewer has its own, so that two viewers can type at the same time."""
        with self._ask_tab, client.gui.add_form(None, order=3.0) as form:
            choices = list(self._source.choices())
            if len(choices) > 1:
                chosen = client.gui.add_dropdown("Camera" if self._source.live else "Image", choices)
                chosen.on_update(lambda _: self._source.choose(chosen.value))
            task = client.gui.add_dropdown("Task", [task.value for task in CAMERA_TASKS], initial_value=Task.POINT.value)
            text = client.gui.add_text("Instruction", "")
            think = client.gui.add_checkbox("Think first", False)
            send = client.gui.add_button("Ask")
            cancel = client.gui.add_button("Cancel", color="gray")

        def ask(_: object) -> None:
            self._ask(client, task.value, text.value, think.value)

        form.on_submit(ask)
        send.on_click(ask)
        cancel.on_click(lambda _: self._source.cancel())
        self._viewers.add(client.client_id)
        self._source.watch(True)
        self._changed.set()

    def _part(self, client: viser.ClientHandle) -> None:
        self._viewers.discard(client.client_id)
        self._asked.pop(client.client_id, None)
        self._changed.set()
        if not self._viewers:
            # A question goes on. Its answer is among the previous answers when a viewer returns.
            self._source.watch(False)

    def _ask(self, client: viser.ClientHandle, task: str, text: str, think: bool) -> None:
        now = time.monotonic()
        if now - self._asked.get(client.client_id, -_LEAST_PAUSE) < _LEAST_PAUSE:
            return  # The button and Enter, or a double click.
        self._asked[client.client_id] = now
        text = text.strip()[:LONGEST_INSTRUCTION]
        if not text:
            client.add_notification("The instruction is empty", "Type one, such as: the red mug", auto_close_seconds=5.0)
            return
        question = Question(Task(task), text, think)
        if self._feed.begin(question):
            self._source.ask(question)
        else:
            client.add_notification("Busy", "The previous question has not ended. Cancel it, or wait.", auto_close_seconds=5.0)

    def _run(self) -> None:
        while not self._ended.is_set():
            if not self._viewers:
                self._changed.wait()
                self._changed.clear()
                continue
            began = time.monotonic()
            try:
                self._update(began)
            except Exception:
                _log.exception("The page could not be updated")
            self._ended.wait(max(0.0, began + self._period - time.monotonic()))

    def _update(self, now: float) -> None:
        snapshot = self._feed.snapshot()
        self._show_image(snapshot, now)
        self._show_cloud()
        if not self._changed.is_set() and now - self._texts_at < _IDLE:
            return
        self._changed.clear()
        self._texts_at = now
        self._scene.show_shapes(self._feed.shapes)
        self._set(self._question, html.question_html(snapshot.question))
        self._set(self._status, html.status_html(self._feed.status, snapshot.notes, len(self._viewers)))
        self._set(self._plan, html.plan_html(snapshot.plan_task, snapshot.plan))
        self._set(self._answers, html.answers_html(snapshot))
        self._show_progress(snapshot)

    @staticmethod
    def _set(element: viser.GuiHtmlHandle, content: str) -> None:
        if element.content != content:
            element.content = content

    def _show_image(self, snapshot: Snapshot, now: float) -> None:
        frame = self._source.frame()
        if frame is None:
            self._set(self._caption, html.caption_html(None, self._feed.position_note))
            return
        entries = self._entries_on(frame, snapshot, now)
        question = snapshot.question if self._is_shown(snapshot.question, now) else None
        self._set(self._caption, html.caption_html(frame.age, self._feed.position_note))
        drawing = (frame.number, question, entries)
        if drawing == self._drawn:
            return
        self._drawn = drawing
        self._image.image = _fitted(_drawn(frame, question, entries))

    def _is_shown(self, question: Question | None, now: float) -> bool:
        if question is None or question.answer is None:
            return False
        if question is not self._last_question:
            self._last_question, self._question_at = question, now
        return not self._source.live or now - self._question_at < _KEPT

    def _entries_on(self, frame: Frame, snapshot: Snapshot, now: float) -> tuple[Entry, ...]:
        """Return the newest answer of each standing query and of each other client that is drawn on the image."""
        newest = {
            (entry.source, entry.answer.task, entry.text): entry
            for entry in snapshot.entries
            if entry.source != THIS_PAGE and entry.answer.task.spatial and now - entry.arrival < _KEPT
        }
        return tuple(newest.values())

    def _show_cloud(self) -> None:
        try:
            cloud = self._source.cloud()
        except GeometryError as error:
            self._feed.position_note = str(error)
            return
        number = cloud.number if cloud else 0
        if number != self._cloud_number:
            self._cloud_number = number
            self._scene.show_cloud(cloud)

    def _show_progress(self, snapshot: Snapshot) -> None:
        if not snapshot.progress:
            self._set(self._progress_text, html.progress_html("", None))
            self._progress.visible = False
            return
        if snapshot.progress == self._plotted:
            return
        self._plotted = snapshot.progress
        times, values = np.array(snapshot.progress).T
        times = times - times[0]
        self._set(self._progress_text, html.progress_html(snapshot.watched, float(values[-1])))
        if len(values) == 1:  # A line needs two points.
            times, values = np.array([times[0], times[0] + 0.1]), np.repeat(values, 2)
        with self._server.atomic():
            self._progress.data = (times, values)
            self._progress.scales = {"x": uplot.Scale(time=False), "y": uplot.Scale(range=(0.0, 1.0))}
            self._progress.visible = True


def _drawn(frame: Frame, question: Question | None, entries: Iterable[Entry]) -> RgbImage:
    """Return the image with the answers drawn on it."""
    image = frame.image
    for entry in entries:
        image = _try_to_draw(image, _named(entry.answer, entry.text))
    if question is not None and question.answer is not None:
        answer = question.answer
        if answer.task is Task.PLAN:  # The steps are beside the image.
            answer = Answer(Task.PLAN)
        image = _try_to_draw(image, answer, question.text)
    return image


def _named(answer: Answer, text: str) -> Answer:
    """Return the answer with the instruction as the label of a single part without a name: several answers share an image."""
    if len(answer.points) == 1 and not answer.points[0].label:
        return replace(answer, points=(replace(answer.points[0], label=text),))
    if len(answer.boxes) == 1 and not answer.boxes[0].label:
        return replace(answer, boxes=(replace(answer.boxes[0], label=text),))
    return answer


def _try_to_draw(image: RgbImage, answer: Answer, instruction: str = "") -> RgbImage:
    try:
        return draw(image, answer, instruction=instruction)
    except RoboBrainError:
        return image


def _fitted(image: RgbImage) -> RgbImage:
    height, width = image.shape[:2]
    if width <= _WIDEST:
        return image
    size = _WIDEST, max(1, round(height * _WIDEST / width))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
