"""The behaviours for py_trees, ticked by py_trees itself against a real node."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import rclpy
from fakes import Script, ScriptedEngine
from lifecycle_msgs.msg import Transition
from rclpy.action import ActionClient, ActionServer
from rclpy.executors import SingleThreadedExecutor
from rclpy.task import Future
from ros_rig import Rig, rig, scripted, show_always

from robobrain_ros.action import RunTask
from robobrain_ros.action import WatchTask as WatchTaskAction
from robobrain_ros.core.plans.request import PlanVerdict
from robobrain_ros.evaluation.plans import answer_json
from robobrain_ros.msg import Affordances, Outcome, PlanContext, QueryOptions

py_trees = pytest.importorskip("py_trees", reason="py_trees is not installed: pip install py_trees")

from py_trees.common import Access, Status  # noqa: E402

from robobrain_ros.behaviours import Ask, Locate, Plan, WatchTask  # noqa: E402
from robobrain_ros.behaviours import base as behaviours_base  # noqa: E402


@pytest.fixture(autouse=True)
def _empty_blackboard() -> Iterator[None]:
    yield
    py_trees.blackboard.Blackboard.clear()


@contextmanager
def tree_of(it: Rig, root: Any) -> Iterator[Any]:
    """Return a tree whose behaviours use the rig's client node."""
    tree = py_trees.trees.BehaviourTree(root)
    tree.setup(node=it.client)
    try:
        yield tree
    finally:
        tree.shutdown()


def run(it: Rig, root: Any, until: Callable[[], Any] | None = None) -> Any:
    """Tick a tree until its root is not running, or until a condition is true, and return the root's status."""
    with tree_of(it, root) as tree:
        it.until(lambda: tree.tick() or (until or (lambda: root.status != Status.RUNNING))(), "the end of the tree")
        return root.status


def value(key: str) -> Any:
    """Return the value of a blackboard key. None: it is unset."""
    board = py_trees.blackboard.Client(name="reader")
    board.register_key(key=key, access=Access.READ)
    return board.get(key) if board.exists(key) else None


def test_locate_writes_the_answer_to_the_blackboard() -> None:
    behaviour = Locate("find", lambda: "the red " + "mug", key="target")
    with scripted("[(10, 12), (30, 40)]") as (it, engine):
        assert run(it, behaviour) == Status.SUCCESS
        assert "the red mug" in engine.generations[0].user_text
    found = value("target")
    assert isinstance(found, Affordances)
    assert len(found.points) == 2
    assert behaviour.feedback_message == "Found 2 points."
    assert behaviour.result.affordances is found


def test_the_outcome_becomes_failure_with_its_name_and_the_old_answer_is_unset() -> None:
    behaviour = Locate("find", "the mug", key="target")
    with scripted("[(10, 12)]", "[]") as (it, _), tree_of(it, behaviour) as tree:
        it.until(lambda: tree.tick() or behaviour.status == Status.SUCCESS, "the first answer")
        assert value("target") is not None
        it.until(lambda: tree.tick() or behaviour.status == Status.FAILURE, "the second answer")
    assert behaviour.feedback_message.startswith("NOTHING_FOUND: ")
    assert value("target") is None


def test_locate_needs_a_position_if_asked_to() -> None:
    behaviour = Locate("find", "the mug", needs_position=True, key="target")
    with scripted("[(10, 12)]") as (it, _):
        assert run(it, behaviour) == Status.FAILURE
    assert behaviour.feedback_message.startswith("The position is unknown: ")
    assert value("target") is None


def test_locate_finds_bounding_boxes() -> None:
    behaviour = Locate("find", "the mug", task="ground")
    with scripted("[10, 12, 30, 40]") as (it, _):
        assert run(it, behaviour) == Status.SUCCESS
    assert behaviour.feedback_message == "Found 1 bounding box."
    with pytest.raises(ValueError, match="task is 'dance'"):
        Locate("find", "the mug", task="dance")


def test_a_tick_never_waits_and_shows_the_text_so_far() -> None:
    gate = asyncio.Event()
    behaviour = Plan("plan", "clear the table", key="plan")
    with scripted(Script(["1. Reach\n2. Gr", gate, "asp"])) as (it, engine), tree_of(it, behaviour) as tree:
        it.until(lambda: tree.tick() or "Gr" in behaviour.feedback_message, "the beginning of the plan")
        assert behaviour.status == Status.RUNNING
        assert engine.running
        assert behaviour.feedback_message == "Answering: 1. Reach 2. Gr"
        assert value("plan") is None
        it.on_loop(gate.set)
        it.until(lambda: tree.tick() or behaviour.status != Status.RUNNING, "the end of the plan")
    assert behaviour.status == Status.SUCCESS
    assert [step.text for step in value("plan").steps] == ["Reach", "Grasp"]
    assert behaviour.feedback_message == "Planned 2 steps."


@pytest.mark.parametrize(("verdict", "status"), [(PlanVerdict.DONE, Status.SUCCESS), (PlanVerdict.NOT_DONE, Status.FAILURE)])
def test_plan_with_mode_check_is_a_condition(verdict: PlanVerdict, status: Any) -> None:
    behaviour = Plan("done?", "clear the table", context=lambda: PlanContext(mode=PlanContext.MODE_CHECK))
    with scripted(answer_json(verdict, "The table is as it is.", [])) as (it, _):
        assert run(it, behaviour) == status, behaviour.feedback_message


@pytest.mark.parametrize(
    ("answer", "expected", "status", "message"),
    [
        ("Yes, it is open.", True, Status.SUCCESS, "The answer is yes."),
        ("No.", True, Status.FAILURE, "The answer is no."),
        ("No.", False, Status.SUCCESS, "The answer is no."),
        ("Yes", False, Status.FAILURE, "The answer is yes."),
        ("Perhaps", True, Status.FAILURE, "neither yes nor no"),
        ("Perhaps", False, Status.FAILURE, "neither yes nor no"),
    ],
)
def test_ask_is_a_condition(answer: str, expected: bool, status: Any, message: str) -> None:
    behaviour = Ask("open?", "Is the drawer open?", expected=expected)
    with scripted(answer) as (it, _):
        assert run(it, behaviour) == status
    assert message in behaviour.feedback_message


def test_an_interrupted_behaviour_cancels_its_goal_in_the_engine() -> None:
    """A condition of higher priority changes, so the reactive sequence interrupts the behaviour."""
    allowed = py_trees.behaviours.SuccessEveryN("allowed", 1)
    behaviour = Locate("find", "the mug")
    sequence = py_trees.composites.Sequence("reactive", memory=False, children=[allowed, behaviour])
    with scripted(Script(["[(10, 12),", asyncio.Event()])) as (it, engine), tree_of(it, sequence) as tree:
        it.until(lambda: tree.tick() or engine.running, "the request in the engine")
        assert sequence.status == Status.RUNNING
        allowed.every_n = 10**9
        tree.tick()
        assert (sequence.status, behaviour.status) == (Status.FAILURE, Status.INVALID)
        it.until(lambda: engine.aborted == [engine.generations[0].request_id], "the end of the request")
        assert behaviour.feedback_message == "Canceled."
        assert behaviour.result is None


def test_a_behaviour_that_is_interrupted_before_its_goal_is_accepted_cancels_it_then() -> None:
    behaviour = Locate("find", "the mug")
    with scripted(Script(["[(10, 12),", asyncio.Event()])) as (it, engine), tree_of(it, behaviour) as tree:
        it.until(lambda: tree.tick() or behaviour._attempt, "the goal")
        tree.root.stop(Status.INVALID)
        assert not engine.generations, "the client has not spun since, so it does not know of the acceptance"
        it.until(lambda: engine.aborted, "the end of the request")
        assert behaviour.status == Status.INVALID


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_tree_that_is_shut_down_before_its_goal_is_accepted_cancels_it_then(interrupted: bool) -> None:
    behaviour = Locate("find", "the mug")
    with scripted(Script(["[(10, 12),", asyncio.Event()])) as (it, engine):
        with tree_of(it, behaviour) as tree:
            it.until(lambda: tree.tick() or behaviour._attempt, "the goal")
            if interrupted:
                tree.root.stop(Status.INVALID)
        assert not engine.generations, "the client has not spun since, so it does not know of the acceptance"
        it.until(lambda: engine.aborted, "the end of the request")
        it.until(lambda: not any(isinstance(each, ActionClient) for each in it.client.waitables), "the end of the client")


def test_a_late_result_of_an_interrupted_run_does_not_change_the_next_run() -> None:
    gate = asyncio.Event()
    behaviour = Ask("open?", "Is the drawer open?")
    with scripted(Script([gate, "Yes"]), "No") as (it, engine), tree_of(it, behaviour) as tree:
        it.until(lambda: tree.tick() or engine.running, "the first request in the engine")
        tree.root.stop(Status.INVALID)
        it.on_loop(gate.set)
        it.until(lambda: tree.tick() or behaviour.status not in (Status.RUNNING, Status.INVALID), "the second answer")
        assert behaviour.feedback_message == "The answer is no."
        assert len(engine.generations) == 2


def test_without_a_node_the_behaviour_fails_after_a_while() -> None:
    behaviour = Ask("open?", "Is the drawer open?", robobrain="nobody", wait_for_node=0.2)
    with rig(ScriptedEngine([""])) as it:
        assert run(it, behaviour, lambda: behaviour.status == Status.RUNNING) == Status.RUNNING
        assert behaviour.feedback_message == "Waiting for the action nobody/run_task."
        assert run(it, behaviour) == Status.FAILURE
    assert behaviour.feedback_message == "There is no action nobody/run_task. Is the node running?"


def test_a_node_that_dies_fails_the_behaviour(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead node sends no result. This server accepts the goal, and never ends it."""
    monkeypatch.setattr(behaviours_base, "_GONE", 0.2)
    behaviour = Locate("find", "the mug", robobrain="dying")

    async def never(_: Any) -> None:
        await Future()

    with rig(ScriptedEngine([""])) as it, tree_of(it, behaviour) as tree:
        dying = rclpy.create_node("dying", namespace=it.client.get_namespace(), context=it.context)
        server = ActionServer(dying, RunTask, "dying/run_task", execute_callback=never)
        executor = SingleThreadedExecutor(context=it.context)
        executor.add_node(dying)

        def accepted() -> bool:
            tree.tick()
            executor.spin_once(timeout_sec=0.0)
            return behaviour._attempt is not None and behaviour._attempt._handle is not None

        it.until(accepted, "the accepted goal")
        executor.shutdown()
        server.destroy()
        dying.destroy_node()
        it.until(lambda: tree.tick() or behaviour.status != Status.RUNNING, "the end")
    assert behaviour.status == Status.FAILURE
    assert "has disappeared" in behaviour.feedback_message


def test_an_outcome_of_a_newer_version_fails_the_behaviour() -> None:
    behaviour = Locate("find", "the mug", robobrain="newer")

    async def execute(goal: Any) -> RunTask.Result:
        goal.abort()
        return RunTask.Result(outcome=Outcome(code=200, message="The lens is dirty."))

    with rig(ScriptedEngine([""])) as it, tree_of(it, behaviour) as tree:
        server = ActionServer(it.client, RunTask, "newer/run_task", execute_callback=execute)
        it.until(lambda: tree.tick() or behaviour.status == Status.FAILURE, "the outcome")
        server.destroy()
    assert behaviour.feedback_message == "Outcome 200: The lens is dirty."


def test_the_shutdown_of_the_tree_cancels_the_goal() -> None:
    behaviour = Locate("find", "the mug")
    with scripted(Script(["[(10, 12),", asyncio.Event()])) as (it, engine):
        with tree_of(it, behaviour) as tree:
            it.until(lambda: tree.tick() or engine.running, "the request in the engine")
        it.until(lambda: engine.aborted, "the end of the request")


def test_a_result_that_never_comes_fails_the_behaviour(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a restart of the node that was too quick to notice. The new node does not know the goal."""
    monkeypatch.setattr(behaviours_base, "CLIENT_GRACE", -0.1)
    behaviour = Locate("find", "the mug", options=QueryOptions(timeout=0.3))
    with scripted(Script([asyncio.Event()])) as (it, _):
        assert run(it, behaviour) == Status.FAILURE
    assert behaviour.feedback_message == "No result arrived in time. Was the node restarted?"


def test_a_deactivated_node_fails_the_behaviour_with_its_outcome() -> None:
    behaviour = Locate("find", "the mug")
    with scripted(Script([asyncio.Event()])) as (it, engine), tree_of(it, behaviour) as tree:
        it.until(lambda: tree.tick() or engine.running, "the request in the engine")
        assert it.transition(Transition.TRANSITION_DEACTIVATE)
        it.until(lambda: tree.tick() or behaviour.status != Status.RUNNING, "the end")
    assert behaviour.status == Status.FAILURE
    assert behaviour.feedback_message.startswith("CANCELED: ")


def test_setup_needs_the_node() -> None:
    with pytest.raises(KeyError, match="the argument node is missing"):
        py_trees.trees.BehaviourTree(Ask("open?", "Is the drawer open?")).setup()
    with pytest.raises(RuntimeError, match="before the first tick"):
        Ask("open?", "Is the drawer open?").tick_once()


@pytest.mark.parametrize(
    ("score", "status", "message"), [("+100", Status.SUCCESS, "SUCCEEDED: "), ("-90", Status.FAILURE, "REGRESSED: ")]
)
def test_watch_task_ends_with_the_state_of_the_task(score: str, status: Any, message: str) -> None:
    goal = WatchTaskAction.Goal(task="fill the box", rate=100.0, timeout=60.0)
    behaviour = WatchTask("watch", goal, key="progress")
    first = "<score>+80%</score>"
    with scripted(*[first] * 4, f"<score>{score}%</score>") as (it, _):
        show_always(it)
        assert run(it, behaviour) == status
    assert behaviour.feedback_message.startswith(message)
    assert (value("progress") is not None) == (status == Status.SUCCESS)


def test_an_interrupted_watch_is_canceled() -> None:
    behaviour = WatchTask("watch", WatchTaskAction.Goal(task="fill the box", rate=100.0))
    with scripted("<score>+1%</score>") as (it, _), tree_of(it, behaviour) as tree:
        show_always(it)
        it.until(lambda: tree.tick() or behaviour.feedback_message.startswith("Progress "), "an estimate")
        tree.root.stop(Status.INVALID)
        it.until(lambda: not any(goals.busy for goals in it.node._endpoints._actions), "the end of the watch")
