"""Conditions: standing queries for yes or no, and the events of their changes on ~/events."""

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from fakes import Script, ScriptedEngine
from lifecycle_msgs.msg import Transition
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_rig import Rig, image_message, rig, scripted
from test_core_conditions import likely
from test_ros_clock import Simulation, stamp

from robobrain_ros.engine.base import TextDelta
from robobrain_ros.errors import EngineFailedError
from robobrain_ros.msg import Event, Outcome, QueryOptions, TextAnswer
from robobrain_ros.ros.conditions import Condition
from robobrain_ros.srv import SetStandingQuery

LATCHED = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
QUESTION = "Is the drawer open?"
TRUE, FALSE, UNKNOWN = Event.BECAME_TRUE, Event.BECAME_FALSE, Event.BECAME_UNKNOWN


def sure(answer: str, confidence: float) -> Script:
    """Return the script of an answer with this confidence."""
    other = "No" if answer == "Yes" else "Yes"
    return Script([TextDelta(answer, 1, choices=(likely(**{answer: confidence, other: 1.0 - confidence}),))])


def set_condition(it: Rig, **fields: Any) -> SetStandingQuery.Response:
    defaults: dict[str, Any] = {"name": "drawer", "enabled": True, "task": "ask", "instruction": QUESTION, "condition": True}
    return it.call(SetStandingQuery, "set_standing_query", SetStandingQuery.Request(**(defaults | fields)))


def state(it: Rig, name: str) -> Condition:
    condition = it.node._standing.condition(name)
    assert condition is not None
    return condition


def listen(it: Rig) -> list[Event]:
    return it.listen(Event, f"{it.name}/events", LATCHED)


def show(it: Rig, count: int = 1, stamps: Sequence[Time] = (), name: str = "drawer") -> None:
    """Publish images, and wait after each until the node has counted its answer."""
    for number in range(count):
        statistics = it.node._standing.statistics[name]
        before = statistics.answered + statistics.failed
        it.show(image_message(stamp=stamps[number] if stamps else None))
        it.until(lambda: statistics.answered + statistics.failed > before, "the answer about the image")  # noqa: B023


def types(events: list[Event]) -> list[int]:
    return [event.type for event in events]


def test_one_event_for_each_change_after_enough_answers_that_agree() -> None:
    said = ["No", "No", "No", "Yes", "No", "Yes", "Yes", "No", "Yes", "Yes", "Yes", "Yes", "no", "no", "no"]
    with scripted(*said, max_image_age=0.0) as (it, engine):
        events = listen(it)
        assert set_condition(it).outcome.code == Outcome.OK
        began = it.node.get_clock().now().nanoseconds * 1e-9
        stamps = [stamp(began + 0.1 * number) for number in range(len(said))]
        show(it, len(said), stamps)
        it.until(lambda: len(events) == 3, "three events")
    assert types(events) == [FALSE, TRUE, FALSE]
    assert [event.initial for event in events] == [True, False, False]
    assert [event.header.stamp for event in events] == [stamps[2], stamps[10], stamps[14]]
    assert [event.previous_duration for event in events[1:]] == pytest.approx([0.8, 0.4], abs=1e-5)
    assert math.isnan(events[0].previous_duration)
    assert {(event.query, event.question, event.camera, event.frames) for event in events} == {("drawer", QUESTION, "camera", 3)}
    assert [event.text for event in events] == ["No", "Yes", "no"]
    assert [event.report.raw_text for event in events] == ["No", "Yes", "no"]
    # A server without log-probabilities gives no confidence, and events nevertheless.
    assert all(math.isnan(event.confidence) for event in events)
    assert {generation.user_text for generation in engine.generations} == {QUESTION}


def test_the_confidence_is_the_mean_and_uncertain_answers_do_not_count() -> None:
    said = [sure("Yes", 0.9), sure("No", 0.6), sure("Yes", 0.8), sure("Yes", 0.55)]
    with scripted(*said, sure("Yes", 0.7)) as (it, _):
        events, heard = listen(it), it.listen(DiagnosticArray, "/diagnostics")
        set_condition(it, stable_frames=3, min_confidence=0.65)
        show(it, 5)
        it.until(lambda: events, "the event")

        def shown() -> dict[str, str]:
            found = [status for status in heard[-1].status if status.name.endswith("standing query drawer")] if heard else []
            return {pair.key: pair.value for pair in found[0].values} | {"message": found[0].message} if found else {}

        it.until(lambda: shown().get("events") == "1", "the diagnostics")
        values = shown()
    (event,) = events
    assert (event.type, event.frames, event.initial) == (TRUE, 3, True)
    assert event.confidence == pytest.approx(0.8)
    assert (values["state"], values["uncertain"], values["agreeing"], values["confidence"]) == ("true", "2", "", "0.700")
    assert values["message"].startswith("true; 5 asked, 5 answered")


def test_failed_and_unreadable_answers_neither_count_nor_reset() -> None:
    broken, aborted = Script([EngineFailedError("The engine failed.")]), Script(["Yes"], finish_reason="abort")
    said: list[Any] = ["Yes", broken, "Maybe", "Yes", aborted, "Yes"]
    with scripted(*said, constrain_coordinates=False) as (it, _):
        events = listen(it)
        set_condition(it)
        show(it, 6)
        it.until(lambda: events, "the event")
        statistics = it.node._standing.statistics["drawer"]
        assert (statistics.answered, statistics.failed) == (3, 3)
    assert types(events) == [TRUE]
    assert events[0].frames == 3


def test_late_subscribers_get_the_events_of_all_conditions() -> None:
    with scripted("Yes") as (it, _):
        for name in ("drawer", "door"):
            set_condition(it, name=name, stable_frames=1)
        show(it)
        it.until(lambda: state(it, "door").events, "the event of the other query")
        late = listen(it)
        it.until(lambda: len(late) == 2, "both events")
    assert {(event.query, event.type) for event in late} == {("drawer", TRUE), ("door", TRUE)}


def test_each_answer_is_also_on_its_topic() -> None:
    with scripted("Yes") as (it, _):
        answers = it.listen(TextAnswer, f"{it.name}/answer", LATCHED)
        set_condition(it)
        show(it)
        it.until(lambda: answers, "the answer")
    assert (answers[0].query, answers[0].text) == ("drawer", "Yes")


def known(it: Rig, **fields: Any) -> list[Event]:
    """Set the condition, and wait until its state is known."""
    events = listen(it)
    set_condition(it, stable_frames=2, **fields)
    show(it, 2)
    it.until(lambda: types(events) == [TRUE], "the first event")
    return events


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"enabled": False}, "The standing query was removed."),
        ({"instruction": "Is the door open?"}, "The standing query was replaced."),
        ({"condition": False}, "The standing query was replaced."),
        ({"condition": True, "stable_frames": 1}, "The standing query was replaced."),
    ],
)
def test_a_removed_or_replaced_condition_becomes_unknown_once(change: dict[str, Any], reason: str) -> None:
    with scripted("Yes") as (it, _):
        events = known(it)
        assert set_condition(it, **change).outcome.code == Outcome.OK
        it.until(lambda: len(events) == 2, "the event of the end")
        set_condition(it, name="other", stable_frames=1)
        show(it, name="other")
        it.until(lambda: events[-1].query == "other", "the event of another query")
    ended = events[1]
    assert (ended.type, ended.text, ended.question, ended.header) == (UNKNOWN, reason, QUESTION, events[0].header)
    assert (ended.initial, ended.frames, ended.previous_duration) == (False, 0, 0.0)
    assert math.isnan(ended.confidence)
    assert types([event for event in events if event.query == "drawer"]).count(UNKNOWN) == 1


def test_another_rate_keeps_the_state() -> None:
    with scripted("Yes", "Yes", "Yes", "No", "No") as (it, _):
        events = known(it)
        set_condition(it, stable_frames=2, rate=50.0)
        show(it, 3)
        it.until(lambda: len(events) == 2, "the change")
    assert (types(events), events[1].initial) == ([TRUE, FALSE], False)


def test_an_answer_to_a_replaced_question_does_not_count() -> None:
    gate = asyncio.Event()
    with scripted(Script([gate, "Yes"]), "No") as (it, engine):
        events = listen(it)
        set_condition(it, stable_frames=1)
        it.show(image_message())
        it.until(lambda: engine.generations, "the question")
        set_condition(it, stable_frames=1, instruction="Is the door open?")
        it.on_loop(gate.set)
        it.until(lambda: it.node.statistics.served, "the answer to the replaced question")
        show(it)
        it.until(lambda: events, "an event")
    assert [(event.type, event.question) for event in events] == [(FALSE, "Is the door open?")]


def test_deactivation_ends_the_state_and_activation_begins_again() -> None:
    with scripted("Yes") as (it, _):
        events = known(it)
        assert it.transition(Transition.TRANSITION_DEACTIVATE)
        it.until(lambda: len(events) == 2, "the end of the state")
        assert it.transition(Transition.TRANSITION_ACTIVATE)
        show(it, 2)
        it.until(lambda: len(events) == 3, "the state after activation")
        assert it.transition(Transition.TRANSITION_DEACTIVATE)
        assert it.transition(Transition.TRANSITION_CLEANUP)
    assert types(events)[:3] == [TRUE, UNKNOWN, TRUE]
    assert [event.initial for event in events][:3] == [True, False, True]
    assert events[1].text == "The node was deactivated."


def test_without_new_images_the_state_becomes_unknown() -> None:
    with scripted("Yes", max_image_age=1.5) as (it, _):
        events = known(it)
        it.until(lambda: len(events) == 2, "the end of the state")
        show(it, 2)
        it.until(lambda: len(events) == 3, "the state with new images")
    assert types(events) == [TRUE, UNKNOWN, TRUE]
    assert "camera" in events[1].text
    assert events[1].header == events[0].header
    assert events[2].initial


def test_a_time_jump_ends_the_state() -> None:
    with rig(ScriptedEngine(["Yes"]), use_sim_time=True) as it:
        it.until_ready()
        simulation = Simulation(it)
        simulation.tick(100.0)
        events = listen(it)
        set_condition(it, stable_frames=2)
        show(it, 2, [stamp(99.8), stamp(99.9)])
        it.until(lambda: len(events) == 1, "the first event")
        simulation.tick(40.0)
        it.until(lambda: len(events) == 2, "the end of the state")
        show(it, 2, [stamp(39.8), stamp(39.9)])
        it.until(lambda: len(events) == 3, "the state after the jump")
    assert types(events) == [TRUE, UNKNOWN, TRUE]
    assert events[1].text == "Time jumped: time jumped back by 60.0 s."
    assert math.isnan(events[2].previous_duration)


def test_a_jump_of_another_cameras_stamps_changes_nothing() -> None:
    with scripted("Yes", "Yes", "No", "No", cameras=["camera", "wrist"], max_image_age=0.0) as (it, _):
        events = known(it)
        now = it.node.get_clock().now().nanoseconds * 1e-9
        for seconds in (now, now - 30.0):
            it.show(image_message(stamp=stamp(seconds)), camera="wrist")
        assert it.node._watch.jumps == 1
        show(it, 2)
        it.until(lambda: len(events) == 2, "the change")
    assert types(events) == [TRUE, FALSE]


def test_a_condition_of_the_parameters() -> None:
    query = {"task": "ask", "instruction": QUESTION, "rate": 0.0, "condition": True, "stable_frames": 2, "min_confidence": 0.7}
    parameters: dict[str, Any] = {f"standing_query__drawer__{key}": value for key, value in query.items()}
    with rig(ScriptedEngine([sure("No", 0.6), sure("No", 0.8)]), standing_queries=["drawer"], **parameters) as it:
        it.until_ready()
        events = listen(it)
        show(it, 3)
        it.until(lambda: events, "the event")
        assert state(it, "drawer").uncertain == 1
    assert (events[0].type, events[0].frames, events[0].confidence) == (FALSE, 2, pytest.approx(0.8))


def test_a_parameter_condition_of_another_task_fails_configure(capfd: pytest.CaptureFixture[str]) -> None:
    parameters: dict[str, Any] = {"standing_query__drawer__instruction": "mugs", "standing_query__drawer__condition": True}
    with rig(autostart=False, standing_queries=["drawer"], **parameters) as it:
        it.node.trigger_configure()
    assert "Cannot configure: standing_query.drawer: The standing query drawer is a condition, but its task is point" in (
        capfd.readouterr().err
    )


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"task": "point"}, "its task is point"),
        ({"stable_frames": 1001}, "stable_frames"),
        ({"min_confidence": 0.4}, "min_confidence"),
        ({"min_confidence": 1.5}, "min_confidence"),
        ({"min_confidence": math.nan}, "min_confidence"),
        ({"min_confidence": -1.0}, "min_confidence"),
        ({"condition": False, "stable_frames": 3}, "is no condition"),
        ({"condition": False, "min_confidence": math.nan}, "is no condition"),
        ({"options": QueryOptions(camera="wrist")}, "wrist"),
    ],
)
def test_a_condition_that_makes_no_sense_is_refused(fields: dict[str, Any], named: str) -> None:
    with scripted("Yes") as (it, _):
        refused = set_condition(it, **fields)
    assert refused.outcome.code == Outcome.BAD_REQUEST
    assert named in refused.outcome.message
    assert not refused.names
