"""The live view's page in a real browser: a headless Chromium that renders the 3D scene in software."""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("viser", reason="the live view needs viser")

from browser import CHROMIUM, LIMIT, Browser, open_browser
from fakes import ScriptedEngine
from ros_rig import rig

from robobrain_ros.core.brain import Brain
from robobrain_ros.core.profiles import profile_for
from robobrain_ros.engine.base import ProgressCallback
from robobrain_ros.live import ros_source
from robobrain_ros.live.feed import Feed
from robobrain_ros.live.guard import Gate
from robobrain_ros.live.local_source import LocalSource, Views
from robobrain_ros.live.page import Page
from robobrain_ros.live.ros_source import RosSource

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.timeout(3 * LIMIT),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium"),
]

REFERENCE = Path(__file__).with_name("live_view.jpg")
"""The page with the answer at half its size, without the panel of states: inspected once. If it is missing, a test writes it."""
SIZE = (1100, 640)
FIELD = "[...document.querySelectorAll('form input')].find(e => e.type == 'text' && e.value == '')"
MUG = "[(341, 121)]"


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with open_browser(tmp_path) as browser:
        browser.resize(*SIZE)
        yield browser


def ask(browser: Browser, text: str) -> None:
    browser.until(f"!!{FIELD}", "the field for the instruction")
    browser.run(f"{FIELD}.focus()")
    browser.type(text)
    browser.press_enter()


def close_notifications(browser: Browser) -> None:
    """Close viser's note about software rendering."""
    browser.run("document.querySelectorAll('[class*=CloseButton]').forEach(e => e.click())")


def still(browser: Browser) -> npt.NDArray[np.uint8]:
    """Return a screenshot when two in succession are the same."""
    before, end = browser.image(), time.monotonic() + LIMIT
    while True:
        time.sleep(0.5)
        now = browser.image()
        if np.abs(now.astype(int) - before).mean() < 0.05:
            return now
        assert time.monotonic() < end, "the page keeps changing"
        before = now


def small(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the page without details that depend on fonts and on the renderer."""
    return cv2.resize(image, (60, 50), interpolation=cv2.INTER_AREA).astype(int)


def test_a_question_and_its_answer_in_the_image_and_in_3d(browser: Browser) -> None:
    engine = ScriptedEngine([MUG])

    async def open_brain(progress: ProgressCallback) -> Brain:
        info = await engine.start(progress)
        return Brain(engine, profile_for("qwen2_5_vl"), info=info)

    feed, gate = Feed(), Gate("127.0.0.1", 0)
    with closing(LocalSource(feed, Views(None, 20_000), open_brain)) as source, closing(Page(gate, source, feed, 5.0)):
        browser.open(gate.address)
        browser.until_text("● ready")
        browser.until("document.querySelector('img').naturalWidth == 640", "the image")
        close_notifications(browser)
        before = still(browser)
        ask(browser, "the purple mug")
        browser.until_text("OK after")
        after = still(browser)
    changed = np.abs(after.astype(int) - before).max(axis=2) > 60
    left = browser.run("document.querySelector('img').getBoundingClientRect().left")
    top = browser.run("document.querySelector('img').getBoundingClientRect().top")
    scale = browser.run("document.querySelector('img').getBoundingClientRect().width") / 640
    u, v = round(left + 339 * scale), round(top + 122 * scale)
    assert changed[v - 8 : v + 8, u - 8 : u + 8].any(), "the answer is in the image"
    assert changed[:, 450 : SIZE[0] - 370].any(), "the answer is in the 3D scene"
    page = after[:, : SIZE[0] - 360]
    if not REFERENCE.exists():
        half = cv2.resize(page, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(REFERENCE), half[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 75])
    reference = cv2.imread(str(REFERENCE))
    assert reference is not None
    assert np.abs(small(page) - small(reference[:, :, ::-1])).mean() < 8, "the page looks like its reference"


def test_the_page_survives_and_reports_a_restart_of_the_node(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ros_source, "_SILENT", 1.5)
    namespace = f"/live_browser_{time.time_ns()}"
    feed, gate = Feed(), Gate("127.0.0.1", 0)
    with closing(RosSource(feed, f"{namespace}/robobrain", 1000, [])) as source, closing(Page(gate, source, feed, 5.0)):
        browser.open(gate.address)
        browser.until_text("Waiting for the node")
        with rig(ScriptedEngine([MUG]), namespace=namespace):
            browser.until_text("● ready")
        browser.until_text(f"The node {namespace}/robobrain is not running.")
        with rig(ScriptedEngine([MUG]), namespace=namespace):
            browser.until_text(f"The node {namespace}/robobrain runs again.")
            browser.until_text("● ready")
            ask(browser, "the mug")
            browser.until_text("NO_IMAGE")
