"""Result topics and standing queries."""

import asyncio
import dataclasses
import gc
import math
import warnings
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from fakes import Script, ScriptedEngine
from lifecycle_msgs.msg import Transition
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_rig import Rig, image, image_message, rig, scripted
from sensor_msgs.msg import Image

from robobrain_ros.core.query import Task
from robobrain_ros.errors import StaleImageError
from robobrain_ros.msg import Affordances, Outcome, Plan, QueryOptions, TextAnswer, Trajectory
from robobrain_ros.srv import Ask, Locate, MakePlan, PredictTrajectory, SetStandingQuery

LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def set_query(it: Rig, **fields: Any) -> SetStandingQuery.Response:
    defaults: dict[str, Any] = {"name": "mugs", "enabled": True, "task": "point", "instruction": "mugs"}
    return it.call(SetStandingQuery, "set_standing_query", SetStandingQuery.Request(**(defaults | fields)))


def test_late_subscribers_get_the_last_answer_on_its_topic() -> None:
    with scripted("[(10, 10)]", "[(1, 2), (30, 40)]", "1. Reach", "Two mugs.") as (it, _):
        it.call(Locate, "point", Locate.Request(instruction="mugs"))
        it.call(PredictTrajectory, "trajectory", PredictTrajectory.Request(instruction="reach"))
        it.call(MakePlan, "plan", MakePlan.Request(task="clear up"))
        it.call(Ask, "ask", Ask.Request(question="how many?"))
        types = {"affordances": Affordances, "trajectory": Trajectory, "plan": Plan, "answer": TextAnswer}
        heard = {name: it.listen(message_type, f"{it.name}/{name}", LATCHED) for name, message_type in types.items()}
        it.until(lambda: all(heard.values()), "the latched answers")
    assert len(heard["affordances"][0].points) == 1
    assert len(heard["trajectory"][0].waypoints) == 2
    assert heard["plan"][0].steps[0].text == "Reach"
    assert heard["answer"][0].text == "Two mugs."
    assert {message.header.frame_id for (message,) in heard.values()} == {"camera_optical"}


def test_the_overlay_is_the_image_with_the_answer_on_it() -> None:
    with scripted("[(10, 10)]") as (it, _):
        message = image_message(width=320, height=240)
        it.show(message)
        overlays = it.listen(Image, f"{it.name}/overlay", LATCHED)
        it.call(Locate, "point", Locate.Request(instruction="mugs"))
        it.until(lambda: overlays, "the overlay")
    drawn = np.frombuffer(overlays[0].data, np.uint8).reshape(240, 320, 3)
    assert overlays[0].header == message.header
    changed = (drawn != image(320, 240)).any(axis=2)
    assert changed.any()
    assert changed.mean() < 0.5


def test_a_standing_query_of_rate_0_asks_once_about_each_image() -> None:
    with scripted("[(10, 10)]") as (it, engine):
        answers = it.listen(Affordances, f"{it.name}/affordances", LATCHED)
        assert set_query(it, rate=0.0).names == ["mugs"]
        for number in (1, 2, 3):
            message = image_message()
            it.show(message)
            it.until(lambda: answers and answers[-1].header == message.header, "the answer about it")  # noqa: B023
            assert len(answers) == number
        assert {answer.query for answer in answers} == {"mugs"}
        assert len(engine.generations) == 3
        assert engine.generations[0].priority > 0


@pytest.mark.parametrize("replaced", [False, True])
def test_a_query_of_rate_0_that_goes_while_it_is_asked_is_not_asked_again(replaced: bool) -> None:
    gate = asyncio.Event()
    with scripted(Script([gate, "[(10, 10)]"]), "[(20, 20)]") as (it, engine):
        set_query(it, rate=0.0)
        it.show(image_message())
        it.until(lambda: engine.generations, "the question about the first image")
        # The other query has such a low rate that it does not ask again before the end of this test.
        response = set_query(it, rate=0.001) if replaced else set_query(it, enabled=False)
        assert response.outcome.code == Outcome.OK
        it.show(image_message())
        it.on_loop(gate.set)
        it.until(lambda: it.node.statistics.served + it.node.statistics.failed, "the end of the first question")
        assert it.call(Ask, "ask", Ask.Request(question="How many?")).outcome.code == Outcome.OK
        assert len(engine.generations) == 2


def test_a_standing_query_waits_for_the_model(capfd: pytest.CaptureFixture[str]) -> None:
    gate = asyncio.Event()
    engine = ScriptedEngine(["[(10, 10)]"], start_gate=gate)
    query = {"task": "point", "instruction": "mugs", "rate": 0.0}
    parameters: dict[str, Any] = {f"standing_query__mugs__{key}": value for key, value in query.items()}
    with rig(engine, standing_queries=["mugs"], **parameters) as it:
        answers = it.listen(Affordances, f"{it.name}/affordances", LATCHED)
        it.until(lambda: it.node.model.health().state == "loading", "loading")
        it.show(image_message())
        it.on_loop(gate.set)
        it.until_ready()
        message = image_message()
        it.show(message)
        it.until(lambda: answers, "the answer about the first image after loading")
    assert answers[0].header == message.header
    assert "NOT_READY" not in capfd.readouterr().err


def test_a_standing_query_never_waits_behind_itself_and_then_takes_the_newest_image() -> None:
    gate = asyncio.Event()
    with scripted(Script([gate, "[(10, 10)]"])) as (it, engine):
        answers = it.listen(Affordances, f"{it.name}/affordances", LATCHED)
        set_query(it, rate=50.0)
        it.until(lambda: engine.running, "the first question")
        images = [image_message() for _ in range(3)]
        for image in images:
            it.show(image)
        assert len(engine.generations) == 1
        it.on_loop(gate.set)
        it.until(lambda: len(answers) == 2, "the second answer")
        assert answers[1].header == images[-1].header
        assert len(engine.generations) == 2


def test_a_standing_query_is_about_the_image_that_triggered_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second image arrives before the question about the first one is sent."""
    with scripted("[(10, 10)]") as (it, _):
        answers = it.listen(Affordances, f"{it.name}/affordances", LATCHED)
        set_query(it, rate=0.0)
        start, held = it.node.start_task, list[Any]()

        def hold_questions(callback: Any, *arguments: Any) -> None:
            if callback.__name__ == "_ask":
                held.append((callback, *arguments))
            else:
                start(callback, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(it.node, "start_task", hold_questions)
            images = [image_message() for _ in range(2)]
            for message in images:
                it.show(message)
        assert len(held) == 1, "the second image waits until the first is answered"
        start(*held[0])
        it.until(lambda: len(answers) == 2, "the answers about both images")
        assert [answer.header for answer in answers] == [message.header for message in images]
        assert it.node._standing.statistics["mugs"].skipped == 0


def test_an_image_that_became_too_old_is_not_asked_about() -> None:
    with scripted("[(10, 10)]") as (it, engine):
        newest = it.node.cameras["camera"].newest
        assert newest is not None
        old = dataclasses.replace(newest, message=image_message(stamp=Time(sec=1)))
        selection = it.node._standing._selection
        assert selection.select(QueryOptions(), Task.POINT, newest).frames == [newest]
        with pytest.raises(StaleImageError):
            selection.select(QueryOptions(), Task.POINT, old)
        assert not engine.generations


def test_a_node_that_ends_with_a_queued_question_warns_of_no_coroutine(monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with rig(ScriptedEngine(["[(10, 10)]"]), autostart=False) as it:

            async def question() -> None:
                pass

            def stop_then_start() -> None:
                # The executor is in this call, and its thread ends with it.
                monkeypatch.setattr(it.node.executor, "spin_once", lambda timeout_sec: None)
                it.node.start_task(question)
                queued.append(True)

            queued = list[bool]()
            it.node.start_task(stop_then_start)
            it.until(lambda: queued, "the queued question")
        gc.collect()
    assert [str(one.message) for one in caught if "never awaited" in str(one.message)] == []


def test_standing_queries_outlive_the_lifecycle_and_can_be_removed() -> None:
    parameters = {"standing_queries": ["blocks"], "standing_query__blocks__instruction": "blocks"}
    with scripted("[(10, 10)]", **parameters) as (it, _):
        answers = it.listen(Affordances, f"{it.name}/affordances", LATCHED)
        it.until(lambda: answers, "an answer to the query of the parameters")
        assert answers[0].query == "blocks"
        assert set_query(it, name="blocks", enabled=False).names == []
        assert set_query(it).names == ["mugs"]
        for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP):
            assert it.transition(transition)
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            assert it.transition(transition)
        it.until_ready()
        answers.clear()
        it.show(image_message())
        it.until(lambda: any(answer.query == "mugs" for answer in answers), "an answer after the second round")
        assert set_query(it, enabled=False).names == ["blocks"]


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"instruction": " "},
        {"task": "dance"},
        {"rate": -1.0},
        {"rate": math.nan},
        {"options": QueryOptions(camera="wrist")},
        {"options": QueryOptions(images=[Image()])},
        {"name": "unknown", "enabled": False},
    ],
)
def test_an_invalid_standing_query_is_rejected(fields: dict[str, Any]) -> None:
    with scripted("[(10, 10)]") as (it, _):
        refused = set_query(it, **fields)
    assert refused.outcome.code == Outcome.BAD_REQUEST
    assert refused.outcome.message
    assert not refused.names


def test_a_parameter_query_that_is_named_no_longer_ends() -> None:
    """It ends with the next configure. [""] stands for no query."""
    with rig(
        lambda: ScriptedEngine(["[(1, 2)]"]), autostart=False, standing_queries=["mugs"], standing_query__mugs__instruction="mugs"
    ) as it:
        it.node.trigger_configure()
        assert set_query(it, name="blocks").names == ["mugs", "blocks"]
        it.node.trigger_cleanup()
        assert it.set_parameter("standing_queries", [""]).successful
        it.node.trigger_configure()
        assert set_query(it, name="bowls").names == ["blocks", "bowls"]


@pytest.mark.parametrize("by_parameters", [False, True])
def test_a_query_whose_camera_was_removed_waits_for_it(by_parameters: bool, capfd: pytest.CaptureFixture[str]) -> None:
    """It is kept, logged once and shown as a warning, and it continues when the camera is back."""
    described = {"standing_queries": ["mugs"], "standing_query__mugs__rate": 0.0, "standing_query__mugs__camera": "wrist"}
    parameters: dict[str, Any] = described | {"standing_query__mugs__instruction": "mugs"} if by_parameters else {}
    with rig(lambda: ScriptedEngine(["[(1, 2)]"]), autostart=False, cameras=["camera", "wrist"], **parameters) as it:
        heard = it.listen(DiagnosticArray, "/diagnostics")

        def clean_up() -> None:
            assert it.transition(Transition.TRANSITION_DEACTIVATE)
            assert it.transition(Transition.TRANSITION_CLEANUP)

        def configure(cameras: list[str]) -> None:
            assert it.set_parameter("cameras", cameras).successful
            assert it.transition(Transition.TRANSITION_CONFIGURE)
            assert it.transition(Transition.TRANSITION_ACTIVATE)
            it.until_ready()
            heard.clear()

        def status(level: bytes) -> Any:
            found = [status for message in heard for status in message.status if status.name.endswith("standing query mugs")]
            return next((status for status in found if status.level == level), None)

        if not by_parameters:
            configure(["camera", "wrist"])
            set_query(it, rate=0.0, options=QueryOptions(camera="wrist"))
            clean_up()
        configure(["camera"])
        warned = it.until(lambda: status(DiagnosticStatus.WARN), "the warning")
        it.show(image_message())
        assert it.node._standing.statistics["mugs"].asked == 0
        clean_up()
        configure(["camera", "wrist"])
        it.until(lambda: status(DiagnosticStatus.OK), "the query without a warning")
        it.show(image_message(), camera="wrist")
        it.until(lambda: it.node._standing.statistics["mugs"].answered, "an answer about the camera that is back")
    assert "There is no camera 'wrist'" in warned.message
    assert "configure the node again" in warned.message
    assert capfd.readouterr().err.count("The standing query mugs is paused. There is no camera 'wrist'") == 1


def test_a_parameter_query_that_is_wrong_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    """The reason of the failed transition is only in the log."""
    parameters: dict[str, Any] = {
        "standing_query__mugs__instruction": "mugs",
        "standing_query__mugs__cameras": ["camera", "camera"],
    }
    with rig(autostart=False, standing_queries=["mugs"], **parameters) as it:
        it.node.trigger_configure()
    assert "Cannot configure: standing_query.mugs: cameras contains a name twice" in capfd.readouterr().err
