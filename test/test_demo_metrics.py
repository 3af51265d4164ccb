"""Scores against the tabletop world's ground truth: wrong answers score as wrong, and measures agree with published values."""

import random
from dataclasses import replace

import pytest

from robobrain_ros.core.query import Answer, Box, PlanStep, Point, Task
from robobrain_ros.demo.simulator import Goal
from robobrain_ros.demo.world import GRIPPER, PixelBox, Scene, SceneObject, make_scene
from robobrain_ros.evaluation.metrics import assess, assess_refusal, frechet, judge, overlap, wilson
from robobrain_ros.evaluation.question import Question
from robobrain_ros.evaluation.questions import approach, ask_about, transfer

NAMES = ["red ball", "blue bowl", "yellow block", "purple mug"]


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene(3, names=NAMES)


def thing_of(scene: Scene, name: str) -> SceneObject:
    """Return an object of the scene."""
    thing = scene.find(name)
    assert thing is not None
    return thing


def question_about(scene: Scene, kind: str, *names: str) -> Question:
    """Return a question of a kind about exactly these objects."""
    ids = tuple(thing_of(scene, name).id for name in names)
    for seed in range(2000):
        question = ask_about(scene, kind, random.Random(seed))
        if question.kind == kind and question.targets == ids:
            return question
    raise AssertionError(f"No question {kind} about {names}.")


def points(*places: tuple[float, float]) -> Answer:
    return Answer(Task.POINT, "", points=tuple(Point(u, v) for u, v in places))


def box(u_min: float, v_min: float, u_max: float, v_max: float) -> Answer:
    return Answer(Task.GROUND, "", boxes=(Box(u_min, v_min, u_max, v_max),))


def way(*places: tuple[float, float]) -> Answer:
    return Answer(Task.TRAJECTORY, "", waypoints=tuple(Point(u, v) for u, v in places))


def plan(*steps: str) -> Answer:
    return Answer(Task.PLAN, "", steps=tuple(PlanStep(order, step) for order, step in enumerate(steps, start=1)))


def says(text: str) -> Answer:
    return Answer(Task.ASK, text)


def true_places(question: Question) -> list[tuple[float, float]]:
    return [(place.u, place.v) for place in question.coordinates]


def test_a_point_beside_the_thing_is_wrong(scene: Scene) -> None:
    question = question_about(scene, "point", "red ball")
    ball, bowl = thing_of(scene, "red ball"), thing_of(scene, "blue bowl")
    right = assess(scene, question, points(ball.centre))
    assert (right.right, right.score) == (True, 1.0)
    for place in (bowl.centre, (ball.box[0] - 3, ball.centre[1]), (ball.centre[0], ball.box[3] + 3), (-1, 5), (640, 5), (5, 480)):
        verdict = assess(scene, question, points(place))
        assert (verdict.right, verdict.score) == (False, 0.0), place
        assert "0 of 1" in verdict.why


def test_chance_is_the_share_of_the_image_that_the_thing_covers(scene: Scene) -> None:
    question = question_about(scene, "point", "red ball")
    rng = random.Random(0)
    anywhere = points(*((rng.uniform(0, 639), rng.uniform(0, 479)) for _ in range(20_000)))
    verdict = assess(scene, question, anywhere)
    assert verdict.score == pytest.approx(verdict.chance, abs=0.004)
    assert 0.005 < verdict.chance < 0.1
    gripper = replace(question, kind="gripper", targets=(GRIPPER,))
    verdict = assess(scene, gripper, anywhere)
    assert verdict.score == pytest.approx(verdict.chance, abs=0.01)


def test_all_points_must_lie_on_the_thing(scene: Scene) -> None:
    """If one of three points is outside, the score is two thirds and the answer is wrong."""
    question = question_about(scene, "spots", "blue bowl")
    places = true_places(question)
    assert assess(scene, question, points(*places)).right
    verdict = assess(scene, question, points(*places[:2], thing_of(scene, "red ball").centre))
    assert not verdict.right
    assert verdict.score == pytest.approx(2 / 3)
    assert not assess(scene, question, points()).right


def test_points_between_things_must_lie_between_them(scene: Scene) -> None:
    vacant = [ask_about(scene, "vacant", random.Random(seed)) for seed in range(50)]
    question = next(question for question in vacant if question.kind == "vacant")
    one, other = (next(thing for thing in scene.objects if thing.id == target) for target in question.targets)
    (u, v), (to_u, to_v) = one.centre, other.centre
    assert assess(scene, question, points(*true_places(question))).right
    beyond = (2 * to_u - u, 2 * to_v - v)
    beside = ((u + to_u) / 2 + (to_v - v), (v + to_v) / 2 - (to_u - u))
    for place in (one.centre, other.centre, beyond, beside):
        assert assess(scene, question, points(place)).score == 0


def test_the_gripper_is_where_its_box_is(scene: Scene) -> None:
    question = ask_about(scene, "gripper", random.Random(0))
    left, top, right, bottom = scene.gripper.box
    assert assess(scene, question, points(scene.gripper.tip)).right
    assert assess(scene, question, points((left, top))).right
    assert not assess(scene, question, points((left - 20, top))).right
    assert not assess(scene, question, points((right, bottom + 20))).right


@pytest.mark.parametrize("kind", ["ground", "afford"])
def test_a_shifted_box_is_wrong(scene: Scene, kind: str) -> None:
    question = question_about(scene, kind, "red ball")
    low, high = question.coordinates
    width, height = high.u - low.u + 1, high.v - low.v + 1
    exact = assess(scene, question, box(low.u, low.v, high.u, high.v))
    assert (exact.right, exact.score) == (True, 1.0)
    for across, down, right in ((0.1, 0.0, True), (0.0, -0.25, True), (0.4, 0.0, False), (0.3, 0.3, False), (2.0, 0.0, False)):
        shift_u, shift_v = across * width, down * height
        shifted = box(low.u + shift_u, low.v + shift_v, high.u + shift_u, high.v + shift_v)
        assert assess(scene, question, shifted).right is right, (across, down)
    assert not assess(scene, question, box(0, 0, 639, 479)).right


@pytest.mark.parametrize("number", [0, 2])
def test_one_box_is_wanted(scene: Scene, number: int) -> None:
    question = question_about(scene, "ground", "red ball")
    low, high = question.coordinates
    answer = Answer(Task.GROUND, "", boxes=(Box(low.u, low.v, high.u, high.v),) * number)
    assert not assess(scene, question, answer).right


def test_the_handle_is_what_is_grasped_of_a_mug(scene: Scene) -> None:
    """The bounding box of the whole mug is not an affordance."""
    question = question_about(scene, "afford", "purple mug")
    mug = thing_of(scene, "purple mug")
    assert assess(scene, question, box(*mug.affordance)).right
    assert not assess(scene, question, box(*mug.box)).right


def test_a_trajectory_must_begin_at_the_gripper_and_end_on_the_thing(scene: Scene) -> None:
    question = question_about(scene, "reach", "red ball")
    true = [(place.u, place.v) for place in approach(scene, thing_of(scene, "red ball"))]
    right = assess(scene, question, way(*true))
    assert (right.right, right.score, right.frechet) == (True, 1.0, 0.0)
    elsewhere = assess(scene, question, way(*true[:-1], thing_of(scene, "blue bowl").centre))
    assert (elsewhere.right, elsewhere.score) == (False, 0.0)
    assert elsewhere.frechet is not None
    assert elsewhere.frechet > 0.05
    backwards = assess(scene, question, way(*true[::-1]))
    assert (backwards.right, backwards.score) == (False, 0.0)
    late = assess(scene, question, way(*true[-2:]))
    assert (late.right, late.score) == (False, 1.0)
    assert not assess(scene, question, way(true[-1])).right
    assert assess(scene, question, way(true[-1])).frechet is None


def test_a_trajectory_with_a_place_ends_there(scene: Scene) -> None:
    ball, bowl = thing_of(scene, "red ball"), thing_of(scene, "blue bowl")
    question = question_about(scene, "put", "red ball", "blue bowl")
    assert assess(scene, question, way(*((place.u, place.v) for place in transfer(scene, ball, bowl)))).right
    assert not assess(scene, question, way(*((place.u, place.v) for place in approach(scene, ball)))).right


def test_the_distance_of_trajectories_is_in_parts_of_the_image() -> None:
    """The images have two sizes, and the trajectory is shifted down by a tenth of the height."""
    for size in ((640, 480), (320, 240)):
        scene = make_scene(3, size, names=NAMES)
        question = question_about(scene, "reach", "red ball")
        shifted = way(*((u, v + size[1] / 10) for u, v in true_places(question)))
        assert assess(scene, question, shifted).frechet == pytest.approx(0.1)


STEPS = (
    "Move the gripper to the red ball",
    "Grasp the red ball",
    "Move the red ball above the blue bowl",
    "Release the red ball into the blue bowl",
)


def test_a_plan_must_reach_the_goal_of_its_question(scene: Scene) -> None:
    question = Question(Task.PLAN, "plan", "put the red ball into the blue bowl", goal=Goal("in", ("red ball",), "blue bowl"))
    assert assess(scene, question, plan(*STEPS)).right
    assert "does not hold" in assess(scene, question, plan(*STEPS[2:])).why
    assert not assess(scene, question, plan()).right
    for goal in (
        Goal("in", ("yellow block",), "blue bowl"),
        Goal("on", ("red ball",), "yellow block"),
        Goal("held", ("red ball",)),
    ):
        assert not assess(scene, replace(question, goal=goal), plan(*STEPS)).right
    elsewhere = make_scene(3, names=["red ball", "green bowl"])
    assert "no blue bowl" in assess(elsewhere, question, plan(*STEPS)).why


def test_steps_are_done_in_their_order(scene: Scene) -> None:
    question = Question(Task.PLAN, "plan", "put the red ball into the blue bowl", goal=Goal("in", ("red ball",), "blue bowl"))
    answer = plan(*STEPS)
    assert assess(scene, question, replace(answer, steps=answer.steps[::-1])).right
    assert not assess(scene, question, plan(*STEPS[::-1])).right


@pytest.mark.parametrize(
    ("kind", "true", "said", "right"),
    [
        ("exists", "Yes, there is a red mug on the table.", "yes, a red mug", True),
        ("exists", "Yes, there is a red mug on the table.", "Yes.", True),
        ("exists", "No, there is no red mug on the table.", "No", True),
        ("exists", "Yes, there is a red mug on the table.", "No.", False),
        ("exists", "Yes, there is a red mug on the table.", "Perhaps.", False),
        ("count", "I see a red mug and a blue ball: 2.", "There are 2.", True),
        ("count", "I see a red mug and a blue ball: 2.", "3", False),
        ("side", "No, the red mug is to the left of the blue ball.", "No, to the left.", True),
        ("side", "No, the red mug is to the left of the blue ball.", "Yes.", False),
        ("exists", "Yes, there is a red mug on the table.", "No, there is no red mug on the table.", False),
        ("exists", "Yes, there is a red mug on the table.", "Yes, there is a blue mug on the table.", False),
        ("count", "I see a red mug and a blue ball: 2.", "I see a blue ball and a red mug: 2.", True),
        ("count", "I see a red mug and a blue ball: 2.", "I see a red mug and a blue ball: 3.", False),
        ("count", "I see a red mug and a blue ball: 2.", "I see a red mug and a green ball: 2.", False),
        ("count", "I see a red mug and a blue ball: 2.", "I see a red mug, a red mug and a blue ball: 2.", False),
        ("count", "There are no red objects on the table: 0.", "There are no red objects: 0", True),
        ("count", "There are no red objects on the table: 0.", "I see a red mug: 1.", False),
        ("colour", "The mug is red.", "It is red", True),
        ("colour", "The mug is red.", "The mug is green.", False),
        ("where", "The red mug is in the left of the image.", "The red mug is in the right of the image.", False),
        ("side", "Yes, the red mug is to the left of the blue ball.", "Yes, the red mug is to the left of the blue ball.", True),
        ("side", "Yes, the red mug is to the left of the blue ball.", "No, the red mug is to the right of the blue ball.", False),
        ("side", "Yes, the red mug is to the left of the blue ball.", "Yes, the blue ball is to the left of the red mug.", False),
        ("strange", "I only know the things on this table.", "I only know the things on this table.", True),
        ("strange", "I only know the things on this table.", "Paris.", False),
    ],
)
def test_texts_must_state_the_same_facts(scene: Scene, kind: str, true: str, said: str, right: bool) -> None:
    verdict = assess(scene, Question(Task.ASK, kind, "?", words=true), says(said))
    assert (verdict.right, verdict.score) == (right, float(right))


def test_the_absent_must_be_refused(scene: Scene) -> None:
    absent = Question(Task.POINT, "absent point", "the green mug", absent=True)
    present = question_about(scene, "point", "red ball")
    assert not assess(scene, absent, points(thing_of(scene, "red ball").centre)).right
    assert assess_refusal(absent).right
    assert not assess_refusal(present).right
    assert assess_refusal(present).score == 0


def test_the_result_of_the_judge_agrees_with_its_sentence(scene: Scene) -> None:
    question = question_about(scene, "point", "red ball")
    assert judge(scene, question, points(thing_of(scene, "red ball").centre)) == (True, "1 of 1 points lie on the red ball.")
    assert judge(scene, question, points((0, 0))) == (False, "0 of 1 points lie on the red ball.")


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((0, 0, 9, 9), (0, 0, 9, 9), 1.0),
        ((0, 0, 9, 9), (5, 0, 14, 9), 1 / 3),
        ((0, 0, 9, 9), (0, 0, 9, 4), 0.5),
        ((0, 0, 9, 9), (9, 9, 18, 18), 1 / 199),
        ((0, 0, 9, 9), (10, 0, 19, 9), 0.0),
        ((3, 3, 3, 3), (3, 3, 3, 3), 1.0),
    ],
)
def test_overlap_of_boxes(one: PixelBox, other: PixelBox, expected: float) -> None:
    assert overlap(Box(*one), Box(*other)) == pytest.approx(expected)
    assert overlap(Box(*other), Box(*one)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([(0, 0), (1, 0), (2, 0)], [(0, 1), (1, 1), (2, 1)], 1.0),
        ([(0, 0), (1, 0), (2, 0)], [(2, 0), (1, 0), (0, 0)], 2.0),
        ([(0, 0), (4, 0)], [(0, 0), (2, 0), (4, 0)], 2.0),
        ([(0, 0), (3, 4)], [(0, 0)], 5.0),
        ([(0, 0), (1, 5), (2, 0)], [(0, 0), (1, 0), (2, 0)], 5.0),
        ([(1, 1), (2, 1), (2, 2)], [(2, 2), (0, 1), (2, 4)], 2.0),
        ([(0, 0), (1, 0), (0, 0), (1, 0)], [(0, 0), (1, 0)], 1.0),
    ],
)
def test_frechet_distance_by_hand(one: list[tuple[float, float]], other: list[tuple[float, float]], expected: float) -> None:
    assert frechet(one, other) == pytest.approx(expected)
    assert frechet(other, one) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_intervals_as_published(right: int, count: int, low: float, high: float) -> None:
    """Newcombe, Statistics in Medicine 17 (1998), 857-872, table I, method 3."""
    assert wilson(right, count) == pytest.approx((low, high), abs=5e-5)
    assert wilson(count - right, count) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_the_interval_of_no_answers_is_0_to_1() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
