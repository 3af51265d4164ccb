"""The tabletop's arm: its possible actions, the state of the table after them, and which plan is correct."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest

from robobrain_ros.core.plans.prompt import ARGUMENTS, ORDER, REASONING, SKILL, STEPS, TEXT, VERDICT, VERDICTS
from robobrain_ros.core.plans.request import PlanMode, PlanVerdict, StepOutcome
from robobrain_ros.core.query import Answer, PlanStep, Task
from robobrain_ros.demo.robot import ARM, World
from robobrain_ros.demo.simulator import Goal, Step, Table
from robobrain_ros.demo.world import GRIPPER, Scene, make_scene
from robobrain_ros.evaluation import plans
from robobrain_ros.evaluation.metrics import assess
from robobrain_ros.evaluation.question import Question

NAMES = ("red block", "blue block", "green bowl", "yellow ball", "purple mug")
IN_BOWL = Goal("in", ("red block", "yellow ball"), "green bowl")


def world(seed: int = 3) -> World:
    """Return a table on which no object was moved."""
    return World(make_scene(seed, names=NAMES).layout, np.random.RandomState(seed))


def after(*steps: Step, seed: int = 3) -> World:
    """Return the table after steps that are all possible."""
    it = world(seed)
    for step in steps:
        assert it.execute(step) == "", step
    return it


def middle(scene: Scene, name: str) -> tuple[float, float, float]:
    """Return the centre of an object in metres in the optical frame."""
    thing = scene.find(name)
    assert thing is not None, f"the {name} cannot be seen"
    return thing.pose.position


def apart(scene: Scene, one: str, other: str) -> float:
    """Return the distance between the centres of two objects in metres."""
    return float(np.linalg.norm(np.subtract(middle(scene, one), middle(scene, other))))


PICK, PUT = Step("pick", "red block"), Step("place", "red block", "in", "green bowl")


def test_an_untouched_world_looks_like_its_scene() -> None:
    scene = make_scene(3, names=NAMES)
    assert np.array_equal(world().render().image, scene.image)


def test_what_is_held_hangs_from_the_gripper() -> None:
    scene = after(PICK).render()
    thing, tip = scene.find("red block"), scene.gripper.tip
    assert thing is not None
    assert thing.box[0] < tip[0] < thing.box[2]
    assert abs(thing.box[1] - tip[1]) < scene.height * 0.08


@pytest.mark.parametrize("seed", range(3, 7))
def test_what_was_put_somewhere_is_seen_there(seed: int) -> None:
    before = world(seed).render()
    ball = Step("pick", "yellow ball"), Step("place", "yellow ball", "on", "blue block")
    mug = Step("pick", "purple mug"), Step("place", "purple mug", "beside", "green bowl")
    scene = after(PICK, PUT, *ball, *mug, seed=seed).render()
    assert apart(scene, "red block", "green bowl") < 0.05
    assert apart(scene, "yellow ball", "blue block") < 0.1
    assert 0.05 < apart(scene, "purple mug", "green bowl") < 0.45
    assert middle(scene, "blue block") == middle(before, "blue block")
    assert scene.gripper.box == before.gripper.box, "it is open again, where it was"


@pytest.mark.parametrize("seed", range(3, 9))
def test_what_was_dropped_lies_free_on_the_table(seed: int) -> None:
    it = after(PICK, seed=seed)
    it.drop("red block")
    scene, before = it.render(), world(seed).render()
    assert np.linalg.norm(np.subtract(middle(scene, "red block"), middle(before, "red block"))) > 0.03
    assert min(apart(scene, "red block", name) for name in NAMES[1:]) > 0.05
    assert (it.table.held, it.table.where) == ("", {})


def test_the_mask_has_the_ids_of_the_objects_in_the_image() -> None:
    scene = after(PICK, PUT).render()
    ids = {thing.id for thing in scene.objects} | {0, GRIPPER}
    assert set(np.unique(scene.mask)) == ids
    block = scene.find("red block")
    assert block is not None
    assert scene.image[scene.mask == block.id].mean(0).argmax() == 0, "it is red"


@pytest.mark.parametrize(
    ("steps", "fault"),
    [
        ([PUT], "does not hold the red block"),
        ([PICK, Step("pick", "yellow ball")], "holds the red block already"),
        ([PICK, Step("place", "red block", "in", "blue block")], "cannot hold anything"),
        ([PICK, Step("place", "red block", "under", "blue block")], "nothing can be put"),
        ([PICK, Step("place", "red block", "on", "red block")], "onto itself"),
        ([PICK, Step("place", "red block", "in", "red bowl")], "there is no red bowl"),
        ([Step("pick", "red bowl")], "there is no red bowl"),
        ([PICK, PUT, Step("pick", "green bowl")], "something lies in"),
    ],
)
def test_what_cannot_be_done_changes_nothing(steps: list[Step], fault: str) -> None:
    it = after(*steps[:-1])
    before = it.render()
    assert fault in it.execute(steps[-1])
    assert np.array_equal(it.render().image, before.image)


def test_a_step_is_read_as_it_is_written() -> None:
    for step in (PICK, PUT):
        assert Step.read(step.skill, step.arguments) == step


@pytest.mark.parametrize(
    ("skill", "arguments"),
    [
        ("fly", "{}"),
        ("pick", ""),
        ("pick", '{"object":"red block","place":"green bowl"}'),
        ("place", '["red block"]'),
        ("pick", "{"),
    ],
)
def test_a_step_that_the_arm_does_not_know_is_rejected(skill: str, arguments: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Step.read(skill, arguments)


def test_the_places_list_their_objects() -> None:
    it = after(PICK, PUT, Step("pick", "yellow ball"))
    assert [(place.name, place.objects) for place in it.places()] == [
        ("table", ("blue block", "green bowl", "purple mug")),
        ("green bowl", ("red block",)),
    ]
    assert it.arm().holding == "yellow ball"


@pytest.mark.parametrize(
    ("table", "goal", "left"),
    [
        (Table(NAMES), IN_BOWL, ["pick red block", "place red block", "pick yellow ball", "place yellow ball"]),
        (Table(NAMES, held="yellow ball"), IN_BOWL, ["place yellow ball", "pick red block", "place red block"]),
        (Table(NAMES, where={"red block": ("in", "green bowl")}), IN_BOWL, ["pick yellow ball", "place yellow ball"]),
        (Table(NAMES, held="purple mug"), Goal("held", ("red block",)), ["place purple mug", "pick red block"]),
        (Table(NAMES, held="red block"), Goal("held", ("red block",)), []),
    ],
)
def test_what_is_left_leads_to_the_goal(table: Table, goal: Goal, left: list[str]) -> None:
    steps = plans.remaining(table, goal)
    assert [f"{step.skill} {step.object}" for step in steps] == left
    for step in steps:
        assert table.do(step) == ""
    assert table.holds(goal)


def answer_to(question: Question, text: str) -> Answer:
    """Return the parsed answer of a text."""
    content = json.loads(text)
    steps = [
        PlanStep(item[ORDER], item[TEXT], ARM.name, item[SKILL], json.dumps(item[ARGUMENTS])) for item in content.get(STEPS, ())
    ]
    return Answer(Task.PLAN, text, steps=tuple(steps), reasoning=content[REASONING], verdict=PlanVerdict(content[VERDICT]))


def situations(count: int = 24) -> list[plans.Situation]:
    """Return tables after some steps, with small images."""
    rngs = [random.Random(seed) for seed in range(count)]
    return [plans.midway(make_scene(seed, (224, 168)), rng) for seed, rng in enumerate(rngs)]


@pytest.mark.parametrize("mode", [PlanMode.REPLAN, PlanMode.NEXT_STEP, PlanMode.CHECK])
def test_the_true_answers_are_right_and_others_wrong(mode: PlanMode) -> None:
    verdicts = set()
    for situation in situations():
        question = situation.question(mode, random.Random(0))
        verdicts.add(question.verdict)
        scene, true = situation.world.render(), answer_to(question, question.words)
        assert assess(scene, question, true).right
        assert question.verdict in VERDICTS[mode]
        others = [replace(true, verdict=verdict) for verdict in PlanVerdict if verdict is not true.verdict]
        if true.steps:
            others += [replace(true, steps=true.steps[1:]), replace(true, steps=true.steps[:-1])]
        assert not any(assess(scene, question, other).right for other in others)
    assert len(verdicts) == 2, "the task was done in some, and not in others"


def test_the_request_contains_the_history() -> None:
    failed = [situation for situation in situations(40) if situation.failed]
    assert len(failed) > 8
    for situation in failed:
        question = situation.question(PlanMode.REPLAN, random.Random(0))
        assert question.plan is not None
        assert question.plan.done == situation.done
        assert question.plan.robots[0].holding == situation.world.table.held
        for step in situation.done:
            assert (step.outcome is StepOutcome.SUCCEEDED) == (step.observation == "")


def test_a_task_with_something_absent_is_impossible() -> None:
    scene = make_scene(5, (224, 168))
    question = plans.at_first(scene, random.Random(1), absent=True).question(PlanMode.NEW, random.Random(0))
    assert (question.verdict, question.goal, question.absent) == (PlanVerdict.IMPOSSIBLE, None, True)
    assert "There is no " in json.loads(question.words)[REASONING]


def test_after_a_failure_there_is_something_left_to_do() -> None:
    for seed in range(6):
        situation = plans.after_failure(make_scene(seed, (224, 168)), random.Random(seed))
        assert situation.failed
        assert situation.asked.goal is not None
        assert plans.remaining(situation.world.table, situation.asked.goal)
