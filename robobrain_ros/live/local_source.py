"""Source without ROS: a model in this process or on a server, and the demo's table or a folder of images."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

from robobrain_ros.core.brain import Brain
from robobrain_ros.core.clouds import Cloud, CloudMaker
from robobrain_ros.core.geometry import CameraModel, GeometryError
from robobrain_ros.core.imaging import read_image
from robobrain_ros.core.query import Answer, PartialAnswer, Query, RgbImage
from robobrain_ros.core.surfaces import DepthImage
from robobrain_ros.demo.world import make_scene
from robobrain_ros.engine.base import LoadProgress, ProgressCallback
from robobrain_ros.errors import BadImageError, OutcomeCode, RoboBrainError
from robobrain_ros.live.answer_shapes import answer_shapes
from robobrain_ros.live.feed import THIS_PAGE, Entry, Feed, Frame, Question, Status
from robobrain_ros.live.guard import LiveViewError

_log = logging.getLogger(__name__)

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
_MOST_IMAGES = 500
_CLOSING = 20.0
DEMO_SEED = 12

OpenBrain = Callable[[ProgressCallback], Awaitable[Brain]]


class Views:
    """The images that a viewer can choose: the demo's table with its depth, or the files of a folder.

    :param folder: None: the demo's table.
    :raises LiveViewError: the folder does not exist, or has no images.
    """

    def __init__(self, folder: Path | None, most_points: int) -> None:
        self._clouds = CloudMaker(most_points)
        self._files: dict[str, Path] = {}
        self._lock = threading.Lock()
        self._number = 0
        self.depth: DepthImage | None = None
        self.camera: CameraModel | None = None
        self.cloud: Cloud | None = None
        if folder is None:
            self._show_table()
        else:
            self._files = _image_files(folder)
            self.choose(next(iter(self._files)))

    @property
    def names(self) -> list[str]:
        """Names of the images."""
        return list(self._files) or ["table"]

    def choose(self, name: str) -> None:
        """Show the image of a file. If it cannot be read, raise BadImageError."""
        if name in self._files:
            image = read_image(self._files[name])
            with self._lock:
                self._number += 1
                self.frame = Frame(self._number, image)

    def _show_table(self) -> None:
        scene = make_scene(DEMO_SEED)
        lens = scene.intrinsics
        self.depth = DepthImage(scene.depth)
        self.camera = CameraModel(scene.width, scene.height, lens.fx, lens.fy, lens.cx, lens.cy)
        self.frame = Frame(1, scene.image)
        self.cloud = self._clouds.make(1, scene.image, self.depth, self.camera)


def _image_files(folder: Path) -> dict[str, Path]:
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES and path.is_file())
    except OSError as error:
        raise LiveViewError(f"The folder {folder} cannot be read: {error.strerror}.") from error
    if not found:
        raise LiveViewError(f"The folder {folder} has no images ({', '.join(sorted(_SUFFIXES))}).")
    return {path.name: path for path in found[:_MOST_IMAGES]}


class LocalSource:
    """Loads a model in the background, and answers questions about the chosen image. See `feed.Source`.

    :param open_brain: loads the model.
    """

    live = False

    def __init__(self, feed: Feed, views: Views, open_brain: OpenBrain) -> None:
        self._feed, self._views, self._open_brain = feed, views, open_brain
        self._brain: Brain | None = None
        self._request: Future[None] | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="live model", daemon=True)
        self._thread.start()
        self._loading = asyncio.run_coroutine_threadsafe(self._load(), self._loop)

    def choices(self) -> Sequence[str]:
        """See `feed.Source.choices`."""
        return self._views.names

    def choose(self, name: str) -> None:
        """See `feed.Source.choose`."""
        try:
            self._views.choose(name)
        except BadImageError as error:
            self._feed.note(error.message)
        self._feed.set_shapes({})

    def watch(self, watching: bool) -> None:
        """See `feed.Source.watch`. The images are in memory, so there is nothing to do."""

    def frame(self) -> Frame | None:
        """See `feed.Source.frame`."""
        return self._views.frame

    def cloud(self) -> Cloud | None:
        """See `feed.Source.cloud`."""
        return self._views.cloud

    def ask(self, question: Question) -> None:
        """See `feed.Source.ask`."""
        self._request = asyncio.run_coroutine_threadsafe(self._answer(question, self._views.frame.image), self._loop)

    def cancel(self) -> None:
        """See `feed.Source.cancel`."""
        if self._request is not None:
            self._request.cancel()

    def close(self) -> None:
        """Stop the model."""
        self._loading.cancel()
        self.cancel()
        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(timeout=_CLOSING)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=_CLOSING)

    async def _load(self) -> None:
        def show(progress: LoadProgress) -> None:
            self._feed.set_status(Status("warn", progress.message))

        try:
            self._brain = await self._open_brain(show)
        except RoboBrainError as error:
            self._feed.set_status(Status("error", error.message))
            return
        except Exception as error:
            _log.exception("The model could not be loaded")
            self._feed.set_status(Status("error", f"The model could not be loaded: {error}. The log has the details."))
            return
        report = self._brain.new_report()
        rows = (("model", report.model), ("profile", report.profile), ("engine", report.engine))
        self._feed.set_status(Status("ok", "ready", True, tuple(row for row in rows if row[1])))

    async def _close(self) -> None:
        if self._brain is not None:
            await self._brain.close()

    async def _answer(self, question: Question, image: RgbImage) -> None:
        if self._brain is None:
            self._feed.finish("NOT_READY", self._feed.status.message, None)
            return
        collected = _Collected(self._feed)
        try:
            query = Query(question.task, question.text, [image], think=question.think or None)
            answer = await self._brain.run(query, collected.add)
        except asyncio.CancelledError:
            self._feed.finish(OutcomeCode.CANCELED.name, "Canceled.", None)
            return
        except RoboBrainError as error:
            self._feed.finish(error.code.name, error.message, None, error.report.total_time if error.report else 0.0)
            return
        except Exception as error:  # Otherwise, the page would wait for the answer forever.
            _log.exception("The question could not be answered")
            self._feed.finish(OutcomeCode.ENGINE_FAILED.name, f"{error}. The log has the details.", None)
            return
        self._show(question, answer)

    def _show(self, question: Question, answer: Answer) -> None:
        self._feed.finish(OutcomeCode.OK.name, "", answer)
        self._feed.add(Entry((id(answer),), question.text, answer, THIS_PAGE))
        depth, camera = self._views.depth, self._views.camera
        if depth is None or camera is None or not answer.task.spatial:
            return
        try:
            self._feed.set_shapes(answer_shapes(answer, question.text, depth, camera))
        except GeometryError as error:
            self._feed.set_shapes({}, str(error))


class _Collected:
    """The answer so far."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._text = ""
        self._answer: Answer | None = None

    def add(self, partial: PartialAnswer) -> None:
        """Add new parts of the answer."""
        self._text += partial.text
        question = self._feed.question
        if question is None:
            return
        before = self._answer or Answer(question.task)
        self._answer = replace(
            before,
            points=before.points + partial.points,
            boxes=before.boxes + partial.boxes,
            waypoints=before.waypoints + partial.waypoints,
            steps=before.steps + partial.steps,
        )
        self._feed.partial(self._text, partial.thinking, self._answer)
