"""The lifecycle: transitions do not block, all resources are released, and a second round equals the first."""

import asyncio
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from fakes import Script, ScriptedEngine
from lifecycle_msgs.msg import State, Transition, TransitionEvent
from lifecycle_msgs.srv import ChangeState, GetAvailableStates, GetAvailableTransitions, GetState
from rclpy.lifecycle import LifecycleNode
from ros_rig import Rig, image_message, rig, scripted

from robobrain_ros.msg import Outcome
from robobrain_ros.srv import Locate


def state(it: Rig) -> int:
    return int(it.call(GetState, "get_state", GetState.Request()).current_state.id)


def point(it: Rig) -> Any:
    return it.call(Locate, "point", Locate.Request(instruction="the mug"))


def test_without_autostart_the_node_waits_and_goes_through_its_life_twice() -> None:
    engines: list[ScriptedEngine] = []

    def build() -> ScriptedEngine:
        engines.append(ScriptedEngine(["[(10, 10)]"]))
        return engines[-1]

    with rig(build, autostart=False) as it:
        assert state(it) == State.PRIMARY_STATE_UNCONFIGURED
        assert not engines
        for round_number in (1, 2):
            assert it.transition(Transition.TRANSITION_CONFIGURE)
            it.until_ready()
            inactive = point(it)
            assert inactive.outcome.code == Outcome.NOT_READY
            assert "Activate" in inactive.outcome.message
            assert it.transition(Transition.TRANSITION_ACTIVATE)
            it.show(image_message())
            assert point(it).outcome.code == Outcome.OK
            assert it.transition(Transition.TRANSITION_DEACTIVATE)
            assert point(it).outcome.code == Outcome.NOT_READY
            assert not it.client.get_subscriptions_info_by_topic(f"{it.client.get_namespace()}/camera/image")
            assert it.transition(Transition.TRANSITION_CLEANUP)
            it.until(lambda: engines[-1].state == "stopped", "the engine's end")
            it.until(lambda: not it.client.count_services(f"{it.name}/point"), "the services' end")
            assert len(engines) == round_number
        assert it.transition(Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
        assert state(it) == State.PRIMARY_STATE_FINALIZED


SERVICES = {
    "change_state": ChangeState,
    "get_state": GetState,
    "get_available_states": GetAvailableStates,
    "get_available_transitions": GetAvailableTransitions,
    "get_transition_graph": GetAvailableTransitions,
}


def test_each_lifecycle_service_exists_once() -> None:
    """A client sends its request to the first service that it discovers. A second service without reader would lose it."""
    with scripted("[(10, 10)]") as (it, _):
        assert it.call(Locate, "point", Locate.Request(instruction="mug")).outcome.code == Outcome.OK
        counts = {name: it.client.count_services(f"{it.name}/{name}") for name in SERVICES}
    assert counts == dict.fromkeys(SERVICES, 1)


def test_the_lifecycle_services_answer_as_those_of_a_plain_lifecycle_node() -> None:
    with rig(ScriptedEngine(["[(10, 10)]"]), autostart=False) as it:
        plain = LifecycleNode("plain", namespace=it.client.get_namespace(), context=it.context)
        it.executor.add_node(plain)
        for transition in (None, Transition(id=Transition.TRANSITION_CONFIGURE), Transition(label="activate")):
            for name, kind in SERVICES.items():
                if kind is ChangeState and transition is None:
                    continue
                request = ChangeState.Request(transition=transition) if kind is ChangeState else kind.Request()
                client = it.client.create_client(kind, f"{plain.get_fully_qualified_name()}/{name}")
                it.until(client.service_is_ready, f"the plain node's service {name}")
                assert it.call(kind, name, request) == it.answer(client.call_async(request)), name
        it.executor.remove_node(plain)
        plain.destroy_node()


def test_transitions_are_published() -> None:
    with rig(ScriptedEngine(["[(10, 10)]"]), autostart=False) as it:
        events = it.listen(TransitionEvent, f"{it.name}/transition_event")
        assert it.transition(Transition.TRANSITION_CONFIGURE)
        it.until(lambda: len(events) == 2, "both events of the transition")
    assert [event.goal_state.label for event in events] == ["configuring", "inactive"]


def test_configure_and_cleanup_do_not_wait_for_the_model() -> None:
    gate = asyncio.Event()
    engine = ScriptedEngine(["[(10, 10)]"], start_gate=gate)
    with rig(engine, autostart=False) as it:
        assert it.transition(Transition.TRANSITION_CONFIGURE)
        assert it.transition(Transition.TRANSITION_ACTIVATE)
        it.until(lambda: engine.state == "loading", "the beginning of loading")
        assert it.transition(Transition.TRANSITION_DEACTIVATE)
        assert it.transition(Transition.TRANSITION_CLEANUP)
        it.until(lambda: engine.state == "stopped", "the engine's end")
        it.on_loop(gate.set)
        assert it.transition(Transition.TRANSITION_CONFIGURE)
        it.until_ready()


def test_deactivation_answers_what_is_under_way() -> None:
    with scripted(Script([asyncio.Event()])) as (it, engine):
        future = it.send(Locate, "point", Locate.Request(instruction="the mug"))
        it.until(lambda: engine.running, "the request in the engine")
        assert it.transition(Transition.TRANSITION_DEACTIVATE)
        assert it.transition(Transition.TRANSITION_CLEANUP)
        response = it.answer(future)
        assert not engine.running
    assert response.outcome.code == Outcome.CANCELED
    assert "deactivated" in response.outcome.message


def test_configure_fails_where_no_model_is_named(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("robobrain_ros.demo.DEMO_MODEL", tmp_path)  # This folder has no checkpoint.
    with rig(None, autostart=False) as it:
        assert not it.transition(Transition.TRANSITION_CONFIGURE)
        assert state(it) == State.PRIMARY_STATE_UNCONFIGURED


def test_two_nodes_in_two_namespaces_keep_apart() -> None:
    with scripted("[(10, 10)]", namespace="/left") as (left, _), scripted("[(40, 40)]", namespace="/right") as (right, engine):
        answers = point(left), point(right)
        assert len(engine.generations) == 1
    assert [answer.outcome.code for answer in answers] == [Outcome.OK] * 2
    assert answers[0].affordances.points[0].u < answers[1].affordances.points[0].u


def test_diagnostics_report_engine_requests_and_camera() -> None:
    with scripted("[(10, 10)]", "[]") as (it, _):
        messages = it.listen(DiagnosticArray, "/diagnostics")
        point(it), point(it)

        def told() -> dict[str, Any] | None:
            for message in messages:
                status = {item.name.split(": ")[1]: item for item in message.status if item.name.startswith(it.name[1:])}
                if status and {pair.key: pair.value for pair in status["requests"].values}["served"] == "2":
                    return status
            return None

        status = it.until(told, "diagnostics of the served request")
    engine = {pair.key: pair.value for pair in status["engine"].values}
    camera = {pair.key: pair.value for pair in status["camera camera"].values}
    requests = {pair.key: pair.value for pair in status["requests"].values}
    assert (requests["failed"], requests["last_error"]) == ("0", ""), "that nothing was found is an answer"
    assert (engine["state"], engine["model"]) == ("ready", "scripted")
    assert (camera["received"], camera["lost"]) == ("1", "0")
