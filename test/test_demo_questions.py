"""Questions about the tabletop world: true answers survive the conversion to model text and back, and are judged as correct."""

import random
import re
from collections.abc import Iterator

import pytest

from robobrain_ros.core.imaging import FittedSize, fit
from robobrain_ros.core.profiles import PROFILES
from robobrain_ros.core.query import Answer, Task
from robobrain_ros.core.reading.answers import parse_answer
from robobrain_ros.demo.layout import COLOURS, KINDS, NAMES
from robobrain_ros.demo.simulator import reaches_goal
from robobrain_ros.demo.world import GRIPPER, TABLE, Scene, make_scene
from robobrain_ros.evaluation.metrics import Assessment, assess, assess_refusal, judge
from robobrain_ros.evaluation.question import Question
from robobrain_ros.evaluation.questions import KINDS_BY_TASK, KINDS_OF_QUESTIONS, OTHER_WORDS, absent_name, ask_about, from_left

PROFILE = PROFILES[0]
CAMERAS = [(640, 480), (320, 240), (424, 240), (480, 640), (224, 224), (848, 480)]
SEEDS = 240
_SCENES: dict[int, Scene] = {}


def scene_of(seed: int) -> Scene:
    """Return the scene of a seed, with a small image by default."""
    if seed not in _SCENES:
        _SCENES[seed] = make_scene(seed, CAMERAS[seed % len(CAMERAS)])
    return _SCENES[seed]


def asked(kind: str, seeds: int = SEEDS) -> Iterator[tuple[Scene, Question]]:
    """Return one question of a kind about each scene."""
    for seed in range(seeds):
        yield scene_of(seed), ask_about(scene_of(seed), kind, random.Random(f"{kind} {seed}"))


def seen_size(scene: Scene) -> FittedSize:
    """Return the image size with which a small model receives a scene."""
    return fit((scene.width, scene.height), 43_904, 86_240, PROFILE.cell)


def verdict_on(scene: Scene, question: Question, text: str) -> Assessment:
    """Read a model's text as the product does, map the answer to the scene's pixels, and assess it."""
    parsed = parse_answer(question.task, PROFILE.assistant_prefix(False) + text, PROFILE)
    if parsed.nothing_found and question.task is not Task.ASK:
        return assess_refusal(question)
    size, rule = seen_size(scene), PROFILE.coordinates
    answer = Answer(
        parsed.task,
        parsed.text,
        points=tuple(size.to_image(point, rule) for point in parsed.points),
        boxes=tuple(size.box_to_image(box, rule) for box in parsed.boxes),
        waypoints=tuple(size.to_image(point, rule) for point in parsed.waypoints),
        steps=parsed.steps,
    )
    verdict = assess(scene, question, answer)
    assert judge(scene, question, answer) == (verdict.right, verdict.why)
    return verdict


def said_names(text: str) -> set[str]:
    """Return the object names in a text. Alternative words for kinds are replaced by the usual ones."""
    first_words = {other: word for word, other in OTHER_WORDS.items()}
    kinds = (*KINDS, *first_words)
    found = re.findall(rf"\b({'|'.join(COLOURS)}) ({'|'.join(kinds)})\b", text.lower())
    return {f"{colour} {first_words.get(kind, kind)}" for colour, kind in found}


@pytest.mark.parametrize("kind", KINDS_OF_QUESTIONS)
def test_the_true_answer_is_judged_right(kind: str) -> None:
    for scene, question in asked(kind):
        verdict = verdict_on(scene, question, question.answer(seen_size(scene)))
        assert verdict.right, (scene.layout.noise_seed, question, verdict)
        assert verdict.score > 0.8
        assert verdict.why


@pytest.mark.parametrize("kind", KINDS_OF_QUESTIONS)
def test_a_seed_gives_the_same_question(kind: str) -> None:
    scene = scene_of(3)
    assert ask_about(scene, kind, random.Random(9)) == ask_about(scene, kind, random.Random(9))


def test_most_scenes_allow_every_kind() -> None:
    """If a scene does not allow a kind, another kind is used. This must be rare."""
    for kind in ("point", "spots", "vacant", "gripper", "afford", "reach", "ground", "describe", "count", "strange"):
        share = sum(question.kind == kind for _, question in asked(kind)) / SEEDS
        assert share > 0.6, kind


def test_kinds_belong_to_their_tasks() -> None:
    for task, kinds in KINDS_BY_TASK.items():
        for kind in kinds:
            assert all(question.task is task for _, question in asked(kind, 40))


def test_an_unknown_kind_is_rejected() -> None:
    with pytest.raises(ValueError, match="vacant"):
        ask_about(scene_of(0), "sing", random.Random(0))


@pytest.mark.parametrize("kind", ["point", "spots"])
def test_true_points_lie_on_what_is_asked_for(kind: str) -> None:
    for scene, question in asked(kind):
        assert len(question.coordinates) == (3 if kind == "spots" else 1)
        for place in question.coordinates:
            assert scene.mask[int(place.v), int(place.u)] == question.targets[0]


def test_true_spots_are_different_ones() -> None:
    for _, question in asked("spots"):
        assert len({(place.u, place.v) for place in question.coordinates}) == 3


def test_true_points_between_things_lie_on_the_free_table() -> None:
    between = [(scene, question) for scene, question in asked("vacant") if question.kind == "vacant"]
    for scene, question in between:
        one, other = (next(thing for thing in scene.objects if thing.id == target) for target in question.targets)
        for place in question.coordinates:
            assert scene.mask[int(place.v), int(place.u)] == TABLE
            assert min(one.centre[0], other.centre[0]) <= place.u <= max(one.centre[0], other.centre[0])


def test_the_gripper_is_asked_for_by_name() -> None:
    for scene, question in asked("gripper", 40):
        assert "gripper" in question.text
        assert question.targets == (GRIPPER,)
        assert [(place.u, place.v) for place in question.coordinates] == [scene.gripper.tip]


@pytest.mark.parametrize(("kind", "number"), [("reach", 5), ("put", 7)])
def test_true_trajectories_lead_from_the_gripper_to_the_thing(kind: str, number: int) -> None:
    ways = [(scene, question) for scene, question in asked(kind) if question.kind == kind]
    assert ways
    for scene, question in ways:
        first, last = question.coordinates[0], question.coordinates[-1]
        assert len(question.coordinates) == number
        assert (first.u, first.v) == scene.gripper.tip
        assert scene.mask[int(last.v), int(last.u)] == question.targets[-1]
        assert all(0 <= place.u < scene.width and 0 <= place.v < scene.height for place in question.coordinates)


def test_true_boxes_are_those_of_the_scene() -> None:
    for kind in ("afford", "ground"):
        for scene, question in asked(kind, 60):
            (target,) = (thing for thing in scene.objects if thing.id == question.targets[0])
            low, high = question.coordinates
            assert (low.u, low.v, high.u, high.v) == (target.affordance if kind == "afford" else target.box)


def test_what_is_absent_is_not_on_the_table() -> None:
    """The one object that the thinking calls missing is in the question, and not in the scene."""
    kinds = set()
    for scene, question in asked("absent"):
        (missing,) = said_names(question.thought)
        assert missing in said_names(question.text)
        assert scene.find(missing) is None
        others = said_names(question.text) - {missing}
        assert all(scene.find(name) is not None for name in others)
        assert question.absent
        assert not question.coordinates
        assert question.goal is None
        assert said_names(question.answer(seen_size(scene))) <= {missing}
        kinds.add(question.kind)
    assert kinds == {f"absent {kind}" for kind in ("point", "spots", "afford", "reach", "put", "ground", "plan", "hold")}


def test_what_is_missing_differs_often_in_one_word_only() -> None:
    near = 0
    for seed in range(SEEDS):
        scene = scene_of(seed)
        name = absent_name(scene, random.Random(seed))
        assert name in NAMES
        assert scene.find(name) is None
        colour, kind = name.split()
        near += any(thing.colour == colour or thing.kind == kind for thing in scene.objects)
    assert near > SEEDS / 2


@pytest.mark.parametrize("kind", ["point", "spots", "vacant", "afford", "reach", "put", "ground", "plan"])
def test_what_is_present_is_named_unmistakably(kind: str) -> None:
    """Names in the question are on the table. For a name such as "the mug" or "the red thing" there is exactly one object."""
    for scene, question in asked(kind):
        text = question.text.lower()
        named = said_names(text)
        assert all(scene.find(name) is not None for name in named)
        for colour in re.findall(rf"the ({'|'.join(COLOURS)}) (?:object|thing)", text):
            assert sum(thing.colour == colour for thing in scene.objects) == 1
        for sort in re.findall(rf"the ({'|'.join(KINDS)})\b", text):
            assert sum(thing.kind == sort for thing in scene.objects) == 1


@pytest.mark.parametrize("kind", ["point", "spots", "afford", "reach", "put", "ground", "where"])
def test_thinking_leads_to_the_place(kind: str) -> None:
    """The thinking contains the position of the requested object in the model's pixels."""
    for scene, question in asked(kind):
        if question.here is None:
            assert question.kind != kind
            continue
        size = seen_size(scene)
        x, y = map(int, re.search(r"near \((\d+), (\d+)\)", question.thinking(size)).groups())  # type: ignore[union-attr]
        assert 0 <= x < size.model_width
        assert 0 <= y < size.model_height
        (thing,) = (thing for thing in scene.objects if thing.id == question.targets[0])
        assert abs((x + 0.5) * size.width / size.model_width - 0.5 - thing.centre[0]) <= size.width / size.model_width
        assert abs((y + 0.5) * size.height / size.model_height - 0.5 - thing.centre[1]) <= size.height / size.model_height
        side = ("left", "middle", "right")[thing.centre[0] * 3 // scene.width]
        assert f"in the {side} near" in question.thinking(size)


@pytest.mark.parametrize("kind", KINDS_OF_QUESTIONS)
def test_thinking_is_whole_text(kind: str) -> None:
    for scene, question in asked(kind, 60):
        thinking = question.thinking(seen_size(scene))
        assert thinking.endswith(".")
        assert not set("{}<>") & set(thinking)


def test_true_plans_reach_their_goals() -> None:
    kinds = set()
    for scene, question in asked("plan"):
        assert question.goal is not None
        steps = [re.sub(r"^\d+\. ", "", line) for line in question.words.splitlines()]
        assert reaches_goal([thing.name for thing in scene.objects], steps, question.goal) == (True, "")
        assert not reaches_goal([thing.name for thing in scene.objects], steps[:-2], question.goal)[0]
        kinds.add(question.kind)
    assert kinds == {"plan", "hold", "all"}


def test_plans_for_all_leave_none_out() -> None:
    for scene, question in asked("plan"):
        if question.kind == "all":
            assert question.goal is not None
            (kind,) = {name.split()[1] for name in question.goal.things}
            assert f"all {kind}s" in question.text.lower()
            assert set(question.goal.things) == {thing.name for thing in scene.objects if thing.kind == kind}


def test_counts_are_true() -> None:
    for scene, question in asked("count"):
        noun = re.search(r"(?:how many|count the) (\w+)", question.text.lower()).group(1)  # type: ignore[union-attr]
        expected = [thing for thing in scene.objects if noun in ("objects", f"{thing.kind}s", thing.colour)]
        assert re.findall(r"\d+", question.words) == [str(len(expected))]
        assert said_names(question.words) == {thing.name for thing in expected}


def test_descriptions_go_from_left_to_right() -> None:
    for scene, question in asked("describe", 60):
        places = [question.words.index(thing.name) for thing in from_left(scene)]
        assert places == sorted(places)
        assert said_names(question.words) == {thing.name for thing in scene.objects}


def test_whether_something_exists_is_true() -> None:
    answers = {"Yes": 0, "No": 0}
    for scene, question in asked("exists"):
        (name,) = said_names(question.text)
        said = question.words.split(",")[0]
        assert (scene.find(name) is not None) == (said == "Yes")
        answers[said] += 1
    assert min(answers.values()) > SEEDS / 4


def test_colours_and_sides_are_true() -> None:
    seen = {"colour": 0, "side": 0}
    for kind in seen:
        for scene, question in asked(kind):
            if question.kind != kind:
                continue
            seen[kind] += 1
            things = [next(thing for thing in scene.objects if thing.id == target) for target in question.targets]
            if kind == "colour":
                assert question.words == f"The {things[0].kind} is {things[0].colour}."
                continue
            left = things[0].centre[0] < things[1].centre[0]
            asked_left = " to the left of " in question.text
            assert question.words.startswith("Yes" if left == asked_left else "No")
            assert f"to the {'left' if left else 'right'} of" in question.words
    assert min(seen.values()) > SEEDS / 4


def test_strange_questions_are_refused_in_each_task() -> None:
    """The answer of spatial tasks is an empty list, a plan says that the object is missing, and other answers are a sentence."""
    tasks = set()
    for scene, question in asked("strange"):
        answer = question.answer(seen_size(scene))
        assert question.absent
        assert not said_names(question.text)
        if question.task is not Task.ASK:
            assert parse_answer(question.task, answer, PROFILE).nothing_found
        tasks.add(question.task)
    assert tasks == set(KINDS_BY_TASK)


def test_answers_are_the_same_places_at_every_size() -> None:
    """The answer to the same question in an image of another size maps back to within two of the model's pixels."""
    scene = make_scene(5, (1280, 720))
    question = ask_about(scene, "point", random.Random(0))
    for budget in (20_000, 86_240, 500_000, 2_000_000):
        size = fit((1280, 720), 3_136, budget, 28)
        (point,) = parse_answer(Task.POINT, question.answer(size), PROFILE).points
        back = size.to_image(point, PROFILE.coordinates)
        (true,) = question.coordinates
        assert abs(back.u - true.u) <= 1280 / size.model_width
        assert abs(back.v - true.v) <= 720 / size.model_height
