"""The live view's page without ROS: questions of viewers about the demo's table and about a folder of images."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("viser", reason="the live view needs viser")

from fakes import Script, ScriptedEngine
from viewer import LIMIT, Viewer

from robobrain_ros.core.brain import Brain
from robobrain_ros.core.profiles import profile_for
from robobrain_ros.core.query import Answer, PlanStep, Point, Task
from robobrain_ros.demo.world import make_scene
from robobrain_ros.engine.base import ProgressCallback
from robobrain_ros.errors import EngineConfigError
from robobrain_ros.live import html
from robobrain_ros.live.feed import Entry, Feed, Question, Status
from robobrain_ros.live.guard import Gate, LiveViewError
from robobrain_ros.live.local_source import DEMO_SEED, LocalSource, Views
from robobrain_ros.live.page import Page

MUG = "[(341, 121)]"
"""The purple mug of the demo's table."""


@dataclass
class Shown:
    """A page in this process."""

    page: Page
    feed: Feed
    gate: Gate
    source: LocalSource

    def release(self, event: asyncio.Event) -> None:
        """Set an event of the engine's script."""
        self.source._loop.call_soon_threadsafe(event.set)


@contextmanager
def shown(engine: ScriptedEngine, folder: Path | None = None) -> Iterator[Shown]:
    """Show the demo's table, or a folder, with a scripted engine."""

    async def open_brain(progress: ProgressCallback) -> Brain:
        info = await engine.start(progress)
        return Brain(engine, profile_for("qwen2_5_vl"), info=info)

    feed, gate = Feed(), Gate("127.0.0.1", 0)
    with closing(LocalSource(feed, Views(folder, 5000), open_brain)) as source, closing(Page(gate, source, feed, 20.0)) as page:
        yield Shown(page, feed, gate, source)


def spheres(viewer: Viewer) -> list[str]:
    return [name for name, node in viewer.nodes.items() if node["kind"] == "IcosphereMessage"]


def test_an_answer_appears_in_the_image_in_3d_and_among_the_answers() -> None:
    with shown(ScriptedEngine([MUG])) as it, closing(Viewer(it.gate.address)) as viewer:
        viewer.until_text("● ready")
        cloud = viewer.until(lambda: viewer.nodes.get("/cloud"), "the cloud")
        assert cloud["kind"] == "PointCloudMessage"
        image = viewer.find("GuiImageMessage")
        before = viewer.until(lambda: viewer.elements[image]["_data"], "the image")
        viewer.ask("point", "the purple mug")
        viewer.until_text("OK after")
        viewer.until(lambda: spheres(viewer), "a sphere")
        viewer.until(lambda: viewer.elements[image]["_data"] != before, "the answer in the image")
        drawn = cv2.imdecode(np.frombuffer(viewer.elements[image]["_data"], np.uint8), cv2.IMREAD_COLOR)
        assert drawn is not None
        scene = make_scene(DEMO_SEED)
        difference = np.abs(drawn[:, :, ::-1].astype(int) - scene.image).max(axis=2) > 60
        rows, columns = np.nonzero(difference[:440])  # Below, there is the caption.
        assert (np.median(columns), np.median(rows)) == pytest.approx((339, 122), abs=6)
        viewer.until_text("this page")
        labels = [node["text"] for node in viewer.nodes.values() if node["kind"] == "LabelMessage"]
        assert labels == ["the purple mug"]


def test_text_streams_and_a_plan_is_a_checklist_while_it_is_written() -> None:
    event = asyncio.Event()
    plan = Script(["1. pick up the red ball\n", "2.", event, " put it into the bowl\n"])
    with shown(ScriptedEngine([plan])) as it, closing(Viewer(it.gate.address)) as viewer:
        viewer.until_text("● ready")
        viewer.ask("plan", "tidy up")
        viewer.until_text("The model is answering ...")
        viewer.until_text("pick up the red ball")
        assert "put it into the bowl" not in viewer.text
        it.release(event)
        viewer.until_text("OK after")
        viewer.until_text("2. put it into the bowl")
        it.feed.add_progress("pick up the red ball", 0.5)
        viewer.until_text("(50%)")
        viewer.until_text("<b>pick up the red ball</b>: 50%")
        it.feed.add_progress("pick up the red ball", 0.97)
        viewer.until_text("☑")
        plots = [element for element in viewer.elements.values() if element["kind"] == "GuiUplotMessage"]
        viewer.until(lambda: plots[0]["visible"], "the plot")


def test_a_viewer_that_leaves_during_an_answer_finds_it_later() -> None:
    """Without viewers, the page draws nothing."""
    event = asyncio.Event()
    with shown(ScriptedEngine([Script([event, MUG])])) as it:
        with closing(Viewer(it.gate.address)) as viewer:
            viewer.until_text("● ready")
            viewer.ask("point", "the purple mug")
            viewer.until_text("The model is answering ...")
        until(lambda: not it.page._viewers, "the end of the connection")
        it.release(event)
        until(lambda: it.feed.question is not None and it.feed.question.finished, "the answer")
        drawn = it.page._drawn
        with closing(Viewer(it.gate.address)) as viewer:
            viewer.until_text("OK after")
            viewer.until_text("this page")
            until(lambda: it.page._drawn != drawn, "a new drawing")


def test_two_viewers_see_the_same_and_only_one_question_runs() -> None:
    event = asyncio.Event()
    with shown(ScriptedEngine([Script(["[(341,", event, "121)]"])])) as it, closing(Viewer(it.gate.address)) as one:
        one.until_text("● ready")
        with closing(Viewer(it.gate.address)) as two:
            two.until_text("viewers: 2")
            one.ask("point", "the purple mug")
            two.until_text("the purple mug")
            two.ask("point", "the red ball")
            two.until(lambda: two.notifications, "a notification")
            assert "The previous question has not ended" in two.notifications[0]
            two.set("GuiButtonMessage", "Cancel", True)
            one.until_text("CANCELED")
            two.until_text("CANCELED")


def test_an_empty_instruction_is_not_sent() -> None:
    engine = ScriptedEngine([MUG])
    with shown(engine) as it, closing(Viewer(it.gate.address)) as viewer:
        viewer.until_text("● ready")
        viewer.ask("point", "   ")
        viewer.until(lambda: viewer.notifications, "a notification")
        assert engine.generations == []


def test_a_model_that_cannot_load_is_one_sentence_on_the_page() -> None:
    engine = ScriptedEngine([MUG], start_error=EngineConfigError("There is no checkpoint in /nowhere."))
    with shown(engine) as it, closing(Viewer(it.gate.address)) as viewer:
        viewer.until_text("There is no checkpoint in /nowhere.")
        viewer.ask("point", "the mug")
        viewer.until_text("NOT_READY: There is no checkpoint in /nowhere.")


def test_an_unexpected_error_ends_the_question() -> None:
    with shown(ScriptedEngine([Script([ZeroDivisionError("a fault")])])) as it, closing(Viewer(it.gate.address)) as viewer:
        viewer.until_text("● ready")
        viewer.ask("point", "the mug")
        viewer.until_text("ENGINE_FAILED")


def test_a_folder_of_images(tmp_path: Path) -> None:
    for name, value in (("a.png", 50), ("b.jpg", 200)):
        cv2.imwrite(str(tmp_path / name), np.full((60, 80, 3), value, np.uint8))
    (tmp_path / "c.png").write_text("no image")
    with shown(ScriptedEngine(["[(40, 30)]"]), tmp_path) as it, closing(Viewer(it.gate.address)) as viewer:
        image = viewer.find("GuiImageMessage")

        def brightness() -> int:
            data = viewer.elements[image]["_data"]
            decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
            return 0 if decoded is None else int(decoded[10, 10].mean())

        viewer.until(lambda: abs(brightness() - 50) < 4, "the first image")
        viewer.set("GuiDropdownMessage", "Image", "b.jpg")
        viewer.until(lambda: abs(brightness() - 200) < 4, "the second image")
        viewer.set("GuiDropdownMessage", "Image", "c.png")
        viewer.until_text("is not an image that OpenCV can read")
        viewer.set("GuiDropdownMessage", "Image", "../../etc/passwd")
        viewer.until_text("● ready")
        assert abs(brightness() - 200) < 4


def test_a_folder_without_images_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(LiveViewError, match=r"^The folder .* has no images \(\.bmp, \.jpeg, .*\)\.$"):
        Views(tmp_path, 1000)
    with pytest.raises(LiveViewError, match=r"^The folder .*/missing cannot be read: No such file or directory\.$"):
        Views(tmp_path / "missing", 1000)


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>"])
def test_texts_of_models_and_nodes_are_no_html(text: str) -> None:
    step = PlanStep(1, text, robot=text, skill=text, arguments=text)
    answer = Answer(Task.ASK, text, points=(Point(1, 2, label=text),), steps=(step,))
    feed = Feed()
    feed.begin(Question(Task.ASK, text))
    feed.partial(text, False, answer)
    shows = [html.question_html(feed.question)]
    feed.finish(text, text, answer)
    feed.note(text)
    feed.add(Entry((1,), text, answer, text))
    feed.add_progress(text, 0.5)
    snapshot = feed.snapshot()
    shows += [
        html.question_html(snapshot.question),
        html.status_html(Status("ok", text, rows=((text, text),)), snapshot.notes, 1),
        html.plan_html(snapshot.plan_task, snapshot.plan),
        html.answers_html(snapshot),
        html.caption_html(1.0, text),
        html.progress_html(text, 0.5),
    ]
    for shown_text in shows:
        assert text not in shown_text
        assert "&lt;" in shown_text


def test_everything_on_the_page_is_bounded() -> None:
    feed = Feed()
    huge = "x" * 1_000_000
    steps = [PlanStep(number, huge) for number in range(1000)]
    feed.begin(Question(Task.PLAN, "tidy up"))
    feed.partial(huge, False, Answer(Task.PLAN, steps=tuple(steps)))
    feed.finish("OK", huge, Answer(Task.PLAN, huge, steps=tuple(steps), points=(Point(1, 1, label=huge),) * 1000))
    feed.set_status(Status("ok", huge, rows=((huge, huge),)))
    for number in range(1000):
        feed.note(huge)
        feed.add(Entry((number,), huge, Answer(Task.POINT, points=(Point(1, 1, label=huge),) * 100), huge))
        feed.add_progress("tidy up", 0.1)
    snapshot = feed.snapshot()
    assert len(snapshot.progress) == 600
    sizes = {
        "question": len(html.question_html(snapshot.question)),
        "status": len(html.status_html(feed.status, snapshot.notes, 1)),
        "plan": len(html.plan_html(snapshot.plan_task, snapshot.plan)),
        "answers": len(html.answers_html(snapshot)),
    }
    assert all(size < 50_000 for size in sizes.values()), sizes


def until(condition: Any, what: str) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, f"{what} has not come"
        time.sleep(0.01)
