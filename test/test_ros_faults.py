"""Exceptions in functions that rclpy calls: each becomes a response and a log line, and the node continues."""

import gc
import math
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from fakes import Script, ScriptedEngine
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from nan_fields import documented_as_nan, is_unknown
from processes import USUAL_SIGNALS
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterValue
from rcl_interfaces.srv import GetParameters, SetParameters, SetParametersAtomically
from rclpy.action import ActionClient
from ros_rig import Rig, image_message, rig, scripted

from robobrain_ros.action import RunTask
from robobrain_ros.engine.base import EngineInfo
from robobrain_ros.errors import BusyError
from robobrain_ros.msg import Outcome, QueryOptions
from robobrain_ros.srv import Ask, EstimateProgress, Locate, MakePlan, PredictTrajectory, SetStandingQuery


class Boom(Exception):
    """An exception that no callback expects."""


def fail(*arguments: Any, **options: Any) -> Any:
    raise Boom("the dict does not know it")


def status_of(messages: list[Any], it: Rig, part: str) -> DiagnosticStatus | None:
    """Return the newest status of a part of the node."""
    name = f"{it.name[1:]}: {part}"
    found = [status for message in messages for status in message.status if status.name == name]
    return found[-1] if found else None


def value_of(status: DiagnosticStatus, key: str) -> str:
    return next(pair.value for pair in status.values if pair.key == key)


def run_goal(it: Rig, **fields: Any) -> Any:
    client = it.clients.setdefault("run_task", None) or ActionClient(it.client, RunTask, f"{it.name}/run_task")
    it.clients["run_task"] = client
    it.until(client.server_is_ready, "the action")
    handle = it.answer(client.send_goal_async(RunTask.Goal(**fields)))
    assert handle.accepted
    return it.answer(handle.get_result_async())


CALLS: list[tuple[Any, str, dict[str, str]]] = [
    (Locate, "point", {"instruction": "mug"}),
    (Locate, "affordance", {"instruction": "mug"}),
    (Locate, "ground", {"instruction": "mug"}),
    (PredictTrajectory, "trajectory", {"instruction": "mug"}),
    (MakePlan, "plan", {"task": "clear"}),
    (Ask, "ask", {"question": "what?"}),
    (EstimateProgress, "estimate_progress", {"task": "fill the box"}),
]


def test_a_callback_that_raises_answers_logs_and_shows_in_diagnostics_and_the_node_goes_on(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with scripted("[(10, 10)]") as (it, _):
        messages = it.listen(DiagnosticArray, "/diagnostics")
        with monkeypatch.context() as broken:
            broken.setattr("robobrain_ros.ros.endpoints.to_outcome", fail)
            responses = [it.call(kind, name, kind.Request(**fields)) for kind, name, fields in CALLS for _ in range(3)]
        after = it.call(Locate, "point", Locate.Request(instruction="mug"))
        faults = str(len(responses))
        status = it.until(
            lambda: (found := status_of(messages, it, "node")) and value_of(found, "faults") == faults and found, "the faults"
        )
    assert {response.outcome.code for response in responses} == {Outcome.ENGINE_FAILED}
    assert all("Boom: the dict does not know it" in response.outcome.message for response in responses)
    for response in responses:
        values = documented_as_nan(response).values()
        assert values
        assert all(map(is_unknown, values))
    assert after.outcome.code == Outcome.OK
    assert status.level == DiagnosticStatus.WARN
    assert "Boom" in value_of(status, "last_fault")
    log = capfd.readouterr().err
    assert "The service ~/point failed: Boom: the dict does not know it" in log
    assert "Traceback" not in log


def test_the_service_of_standing_queries_answers_what_it_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted("[(10, 10)]") as (it, _):
        monkeypatch.setattr("robobrain_ros.ros.standing.check_options", fail)
        request = SetStandingQuery.Request(name="mugs", enabled=True, task="point", instruction="mugs", rate=1.0)
        for _ in range(12):
            assert it.call(SetStandingQuery, "set_standing_query", request).outcome.code == Outcome.ENGINE_FAILED


def test_a_goal_whose_execution_raises_is_aborted_as_engine_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted("[(10, 10)]") as (it, _):
        with monkeypatch.context() as broken:
            broken.setattr("robobrain_ros.ros.endpoints.TASKS", {})
            failed = [run_goal(it, task="point", instruction="mug") for _ in range(12)]
        after = run_goal(it, task="point", instruction="mug")
    assert {end.status for end in failed} == {GoalStatus.STATUS_ABORTED}
    assert {end.result.outcome.code for end in failed} == {Outcome.ENGINE_FAILED}
    assert after.status == GoalStatus.STATUS_SUCCEEDED


def test_a_result_that_cannot_be_sent_is_aborted_as_engine_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """rclpy converts the result when it sends it, outside of the execution of the goal."""

    def unsendable(*arguments: Any) -> Outcome:
        return Outcome(code=Outcome.OK, message="\ud800")

    with scripted("[(10, 10)]") as (it, _):
        with monkeypatch.context() as broken:
            broken.setattr("robobrain_ros.ros.endpoints.to_outcome", unsendable)
            failed = run_goal(it, task="point", instruction="mug")
        after = run_goal(it, task="point", instruction="mug")
        assert it.node.faults.count == 1
    assert (failed.status, failed.result.outcome.code) == (GoalStatus.STATUS_ABORTED, Outcome.ENGINE_FAILED)
    assert "UnicodeEncodeError" in failed.result.outcome.message
    assert (after.status, after.result.outcome.code) == (GoalStatus.STATUS_SUCCEEDED, Outcome.OK)


STRANGE = "\ud800 \0 strange"


@pytest.mark.parametrize(
    "script",
    [
        Script(["[(10, 10)]"], STRANGE),
        Script([STRANGE, "[(10, 10)]"]),
        Script([RuntimeError(STRANGE)]),
        Script([BusyError(STRANGE)]),
    ],
)
def test_an_engines_text_that_no_message_can_contain_costs_neither_response_nor_diagnostics(script: Script) -> None:
    """Remote servers, file names and checkpoints can contain lone surrogates."""
    info = EngineInfo(model=f"m{STRANGE}", model_type="qwen2_5_vl", engine=f"e{STRANGE}", cell=28)
    engine = ScriptedEngine([script], info=info)
    with rig(engine) as it:
        messages = it.listen(DiagnosticArray, "/diagnostics")
        it.until_ready()
        it.show(image_message())
        response = it.call(Locate, "point", Locate.Request(instruction="mug"))
        end = run_goal(it, task="point", instruction="mug")
        messages.clear()
        status = it.until(lambda: status_of(messages, it, "requests"), "the diagnostics")
        assert it.node.faults.count == 0
    assert response.outcome.code == end.result.outcome.code != Outcome.NOT_SET
    assert response.affordances.report.model == "m? \ufffd strange"
    assert value_of(status, "last_error") or response.outcome.code == Outcome.OK


def test_control_characters_of_an_error_do_not_reach_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with scripted(Script([BusyError("first\nsecond\x1b[2J\x07")])) as (it, _):
        assert it.call(Locate, "point", Locate.Request(instruction="mug")).outcome.code == Outcome.BUSY
        assert it.node.statistics.last_error == "BUSY: first second [2J "
    log = capfd.readouterr().err
    assert "ended with BUSY: first second" in log
    assert not {"\x1b", "\x07"} & set(log)


def test_an_exception_whose_text_cannot_be_logged_costs_no_response(monkeypatch: pytest.MonkeyPatch) -> None:
    def strange(*arguments: Any) -> Any:
        raise Boom(STRANGE)

    with scripted("[(10, 10)]") as (it, _):
        monkeypatch.setattr("robobrain_ros.ros.standing.check_options", strange)
        request = SetStandingQuery.Request(name="mugs", enabled=True, task="point", instruction="mugs", rate=1.0)
        assert it.call(SetStandingQuery, "set_standing_query", request).outcome.code == Outcome.ENGINE_FAILED


def test_feedback_that_raises_costs_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted("[(10, 10)]") as (it, _):
        monkeypatch.setattr("robobrain_ros.ros.feedback.to_points", fail)
        end = run_goal(it, task="point", instruction="mug")
        assert it.node.faults.count
    assert (end.status, end.result.outcome.code) == (GoalStatus.STATUS_SUCCEEDED, Outcome.OK)


@pytest.mark.parametrize(
    "part",
    [
        "clock.ClockWatch.check",
        "requests.requests.Requests.give_up_overdue",
        "cameras.cameras.Cameras.adapt",
        "standing.StandingQueries.on_timer",
        "result_topics.ResultTopics.on_timer",
        "endpoints.Endpoints.on_timer",
        "process.duplicate_nodes.DuplicateNodes.on_timer",
        "process.memory.MemoryReturn.on_timer",
    ],
)
def test_what_the_node_does_each_second_goes_on_if_one_part_raises(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"robobrain_ros.ros.{part}", fail)
    with rig(autostart=False) as it:
        messages = it.listen(DiagnosticArray, "/diagnostics")
        it.until(
            lambda: (found := status_of(messages, it, "node")) and int(value_of(found, "faults")) > 1, "a report of two seconds"
        )


@pytest.mark.parametrize("kind", ["timer", "subscription", "task", "guard condition", "coroutine"])
def test_an_exception_in_any_callback_is_logged_and_counted(kind: str) -> None:
    async def fail_later() -> None:
        fail()

    start: dict[str, Callable[[Rig], Any]] = {
        "timer": lambda it: it.node.create_timer(0.01, fail),
        "subscription": lambda it: it.node.create_subscription(type(image_message()), "broken", fail, 1),
        "task": lambda it: it.node.start_task(fail),
        "guard condition": lambda it: it.node.create_guard_condition(fail).trigger(),
        "coroutine": lambda it: it.node.start_task(fail_later),
    }
    with scripted("[(10, 10)]") as (it, _):
        start[kind](it)
        if kind == "subscription":
            publisher = it.client.create_publisher(type(image_message()), "broken", 1)
            it.until(publisher.get_subscription_count, "the subscription")
            publisher.publish(image_message())
        it.until(lambda: it.node.faults.count, "the fault")
        assert it.call(Locate, "point", Locate.Request(instruction="mug")).outcome.code == Outcome.OK


def test_parameter_services_answer_what_rclpy_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """The faults are a value of a type that does not exist, and a check that fails."""
    absurd = ParameterMessage(name="max_tokens", value=ParameterValue(type=77))
    with scripted("[(10, 10)]") as (it, _):
        for _ in range(12):
            (result,) = it.call(SetParameters, "set_parameters", SetParameters.Request(parameters=[absurd])).results
            assert not result.successful
            assert result.reason
        good = ParameterMessage(name="max_tokens", value=ParameterValue(type=2, integer_value=77))
        both = SetParameters.Request(parameters=[good, absurd])
        assert [result.successful for result in it.call(SetParameters, "set_parameters", both).results] == [True, False]
        unknown = ParameterMessage(name="max_tokenz", value=good.value)
        (result,) = it.call(SetParameters, "set_parameters", SetParameters.Request(parameters=[unknown])).results
        assert result.reason == "The node has no parameter 'max_tokenz'."
        request = SetParametersAtomically.Request(parameters=[absurd])
        assert not it.call(SetParametersAtomically, "set_parameters_atomically", request).result.successful
        with monkeypatch.context() as broken:
            broken.setattr(it.node._settings, "_fault", fail)
            result = it.set_parameter("max_tokens", 100)
        assert not result.successful
        assert "Boom" in result.reason
        assert len(it.call(GetParameters, "get_parameters", GetParameters.Request(names=["max_tokens"])).values) == 1


def test_a_transition_that_the_state_does_not_allow_fails_with_a_log_line(capfd: pytest.CaptureFixture[str]) -> None:
    with scripted("[(10, 10)]") as (it, _):
        for transition in (
            Transition(id=Transition.TRANSITION_CONFIGURE),
            Transition(id=Transition.TRANSITION_ACTIVATE),
            Transition(id=77),
            Transition(label="configure"),
            Transition(label="dance"),
            Transition(label="\u202e" * 10_000),
        ) * 3:
            response = it.call(ChangeState, "change_state", ChangeState.Request(transition=transition))
            assert not response.success
        assert it.call(GetState, "get_state", GetState.Request()).current_state.id == State.PRIMARY_STATE_ACTIVE
        assert it.call(Locate, "point", Locate.Request(instruction="mug")).outcome.code == Outcome.OK
        by_label = ChangeState.Request(transition=Transition(label="deactivate"))
        assert it.call(ChangeState, "change_state", by_label).success
        log = capfd.readouterr().err
    for wanted in ("Transition 1 rejected: the node is active", "Transition 77 rejected", "Transition dance rejected"):
        assert wanted in log
    assert "Traceback" not in log
    assert max(map(len, log.splitlines())) < 500


@pytest.mark.parametrize("rate", [1e-45, 1e-11, 1e-4, 101.0, 1e12, 3e38, math.inf, -math.inf, math.nan, -1.0])
def test_a_rate_beyond_its_bounds_is_rejected_and_nothing_is_registered(rate: float) -> None:
    with scripted("[(10, 10)]") as (it, _):
        request = SetStandingQuery.Request(name="mugs", enabled=True, task="point", instruction="mugs", rate=rate)
        response = it.call(SetStandingQuery, "set_standing_query", request)
        assert not it.node.faults.count
    assert (response.outcome.code, response.names) == (Outcome.BAD_REQUEST, [])
    assert "rate" in response.outcome.message


def test_the_bounds_of_a_rate_are_allowed() -> None:
    with scripted("[(10, 10)]") as (it, _):
        for rate in (0.0, -0.0, 0.001, 100.0):
            request = SetStandingQuery.Request(name="mugs", enabled=True, task="point", instruction="mugs", rate=rate)
            assert it.call(SetStandingQuery, "set_standing_query", request).outcome.code == Outcome.OK


@pytest.mark.parametrize(
    ("instruction", "options"),
    [
        ("x" * 10_001, {}),
        ("mug", {"timeout": 1e-11}),
        ("mug", {"timeout": 3600.5}),
        ("mug", {"timeout": 3e38}),
        ("mug", {"timeout": math.inf}),
        ("mug", {"timeout": math.nan}),
        ("mug", {"timeout": -1.0}),
        ("mug", {"think": 3}),
        ("mug", {"camera": "y" * 1_000_000}),
        ("mug", {"cameras": ["camera"] * 100_000}),
        ("mug", {"cameras": ["y" * 1_000_000]}),
    ],
)
def test_each_bound_of_a_request_is_checked(instruction: str, options: dict[str, Any]) -> None:
    with scripted("[(10, 10)]") as (it, engine):
        messages = it.listen(DiagnosticArray, "/diagnostics")
        response = it.call(Locate, "point", Locate.Request(instruction=instruction, options=QueryOptions(**options)))
        status = it.until(
            lambda: (found := status_of(messages, it, "requests")) and value_of(found, "last_error") and found, "the error"
        )
        assert not engine.generations
    assert response.outcome.code == Outcome.BAD_REQUEST
    assert len(response.outcome.message) < 300
    assert len(value_of(status, "last_error")) < 600


@pytest.mark.parametrize("name", ["x" * 101, "two\nlines", "", " ", "\x1b[31m", "request"])
def test_the_name_of_a_standing_query_is_short_printable_and_not_reserved(name: str) -> None:
    with scripted("[(10, 10)]") as (it, _):
        request = SetStandingQuery.Request(name=name, enabled=True, task="point", instruction="mugs", rate=1.0)
        response = it.call(SetStandingQuery, "set_standing_query", request)
    assert (response.outcome.code, response.names) == (Outcome.BAD_REQUEST, [])


def test_the_number_of_standing_queries_is_bounded() -> None:
    with scripted("[(10, 10)]") as (it, _):
        codes = []
        for number in range(110):  # One after the other: a client may lose simultaneous responses.
            query = SetStandingQuery.Request(name=f"q{number}", enabled=True, task="point", instruction="x", rate=0.001)
            codes.append(it.call(SetStandingQuery, "set_standing_query", query).outcome.code)
    assert codes == [Outcome.OK] * 100 + [Outcome.BAD_REQUEST] * 10


def test_a_second_node_of_the_same_name_is_named_in_log_and_diagnostics(capfd: pytest.CaptureFixture[str]) -> None:
    with scripted("[(10, 10)]", namespace="/twins") as (it, _):
        messages = it.listen(DiagnosticArray, "/diagnostics")
        it.until(lambda: (found := status_of(messages, it, "node")) and found.level == DiagnosticStatus.OK, "a single node")
        with rig(autostart=False, namespace="/twins"):
            status = it.until(
                lambda: (found := status_of(messages, it, "node")) and "2 nodes have the name" in found.message and found,
                "the twin",
            )
        gc.collect()  # A lifecycle node keeps its DDS participant until it is garbage-collected.
        it.until(lambda: (found := status_of(messages, it, "node")) and found.level == DiagnosticStatus.OK, "a single node")
    assert status.level == DiagnosticStatus.WARN
    assert value_of(status, "nodes_of_this_name") == "2"
    assert "2 nodes have the name /twins/robobrain" in capfd.readouterr().err


def test_another_node_that_offers_the_same_service_by_remapping_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    """The two nodes have different names, but both answer each request."""
    with scripted("[(10, 10)]") as (it, _):
        messages = it.listen(DiagnosticArray, "/diagnostics")
        service = f"{it.name}/point"
        it.client.create_service(Locate, service, lambda request, response: response)
        status = it.until(
            lambda: (
                (found := status_of(messages, it, "node")) and f"offer the service {it.name}/point" in found.message and found
            ),
            "the other server",
        )
        assert status.level == DiagnosticStatus.WARN
    assert capfd.readouterr().err.count(f"2 nodes offer the service {service}") == 1


PROGRAM = [sys.executable, "-c", "from robobrain_ros.cli.robobrain import main; main()", "--ros-args"]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["-p", "standing_queries:=[mug]", "-p", "standing_query.mug.rate:=1.0e-11"], "standing_query.mug.rate"),
        (["-p", "standing_queries:=[mug]", "-p", "standing_query.mug.rate:=1.0e12"], "standing_query.mug.rate"),
        (["-p", "max_queued:=99999999999999999999"], "max_queued"),
        (["-p", "max_image_age:=1.0e300"], "max_image_age"),
        (["-p", f"cameras:=[{','.join(f'c{n}' for n in range(33))}]"], "cameras"),
        (["-p", f"target_frame:={'x' * 30_000}"], "target_frame"),
        (["-r", "__node:=not-a-name"], "not-a-name"),
    ],
)
def test_the_program_ends_with_one_sentence_where_a_number_or_name_is_out_of_bounds(arguments: list[str], part: str) -> None:
    done = subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, timeout=60, cwd="/", check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert part in done.stderr


def test_a_node_whose_constructor_failed_is_destroyed_and_can_be_destroyed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    destroyed: list[Any] = []

    def destroy(node: Any) -> None:
        destroyed.append(node)
        plain(node)

    from robobrain_ros.ros.node import RoboBrainNode

    plain = RoboBrainNode.destroy_node
    monkeypatch.setattr(RoboBrainNode, "destroy_node", destroy)
    for broken in ("Parameters", "Intake", "Models", "ResultTopics", "StandingQueries", "Diagnostics"):
        with monkeypatch.context() as without:
            without.setattr(f"robobrain_ros.ros.node.{broken}", fail)
            with pytest.raises(Boom), rig():
                pass
        assert len(destroyed) == 1
        plain(destroyed.pop())  # rclpy.shutdown does this from ROS 2 Kilted on.


def test_the_program_outlives_a_round_of_the_executor_that_raises_each_time(tmp_path: Any) -> None:
    """rclpy itself raises such exceptions; ten in a row used to end the node."""
    program = (
        "from rclpy.executors import SingleThreadedExecutor as Executor\n"
        "from robobrain_ros.cli.robobrain import main\n"
        "spin_once, rounds = Executor.spin_once, iter(range(30))\n"
        "def broken(self, timeout_sec=None):\n"
        "    if next(rounds, None) is not None:\n"
        "        raise RuntimeError('out of memory in the middleware')\n"
        "    spin_once(self, timeout_sec)\n"
        "Executor.spin_once = broken\n"
        "main()\n"
    )
    arguments = ["--ros-args", "-p", f"engine.model:={tmp_path}/nothing", "-r", "__ns:=/outlives"]
    process = subprocess.Popen(
        [*USUAL_SIGNALS, sys.executable, "-c", program, *arguments], stderr=subprocess.PIPE, text=True, cwd="/"
    )
    assert process.stderr is not None
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "Active" in line or "Cannot configure" in line:
                break
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
    assert any("A round of the executor failed: RuntimeError: out of memory in the middleware" in line for line in lines)
