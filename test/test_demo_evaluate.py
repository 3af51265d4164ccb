"""The evaluation on the tabletop world: true answers get full scores, wrong ones none, and failures are counted by their code."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest
from fakes import Script, ScriptedEngine

from robobrain_ros.core import Brain, Task, profile_for
from robobrain_ros.core.imaging import fit
from robobrain_ros.core.plans.request import PlanMode, PlanVerdict
from robobrain_ros.demo.simulator import Step
from robobrain_ros.engine.base import EngineInfo, Generation, TextDelta
from robobrain_ros.errors import EngineFailedError, OutcomeCode, RequestTimeoutError
from robobrain_ros.evaluation import evaluate
from robobrain_ros.evaluation.exam import (
    CAMERAS,
    FIRST_SEED,
    FIRST_TRAINING_SEED,
    GROUPS,
    SITUATIONS,
    ExamQuestion,
    Scored,
    exam,
    score_all,
)
from robobrain_ros.evaluation.metrics import Assessment, wilson
from robobrain_ros.evaluation.plans import answer_json
from robobrain_ros.evaluation.question import Question
from robobrain_ros.evaluation.score_table import Row, rows_of, table

PROFILE = profile_for("qwen2_5_vl")
INFO = EngineInfo("demo", "qwen2_5_vl", "scripted", min_pixels=43_904, max_pixels=86_240, cell=28)
SIZES = ((320, 240), (240, 320), (424, 240))
SCENES = range(700, 712)
ALL = tuple(GROUPS)


def questions(groups: Sequence[str] = ALL, seeds: Sequence[int] = SCENES) -> list[ExamQuestion]:
    return list(exam(seeds, SIZES, groups))


def truth(asked: ExamQuestion) -> str:
    """Return the true answer as the model would write it for the image in its own size."""
    size = fit((asked.scene.width, asked.scene.height), INFO.min_pixels, INFO.max_pixels, INFO.cell)
    return asked.question.answer(size)


def untruth(asked: ExamQuestion) -> str:
    """Return a readable wrong answer: the lower left corner of the image, a plan for another goal, an empty phrase."""
    if asked.question.plan is not None:
        return wrong_plan(asked.question)
    if asked.question.task in (Task.GROUND, Task.AFFORDANCE):
        return "[0, 0, 5, 5]"
    if asked.question.task.spatial:
        return "[(0, 999), (1, 999)]"
    return "1. Sing to the gripper" if asked.question.task is Task.PLAN else "Perhaps."


def wrong_plan(question: Question) -> str:
    """Return a valid wrong answer: the opposite verdict about the completion, or a plan that picks an unrelated object."""
    assert question.plan is not None
    assert question.table is not None
    if question.plan.mode is PlanMode.CHECK:
        other = PlanVerdict.NOT_DONE if question.verdict is PlanVerdict.DONE else PlanVerdict.DONE
        return answer_json(other, "", [])
    if question.plan.mode is not PlanMode.NEW and question.verdict is PlanVerdict.PLAN:
        return answer_json(PlanVerdict.DONE, "", [])
    meant = () if question.goal is None else question.goal.things
    held, thing = question.table.held, next(name for name in question.table.names if name not in meant)
    return answer_json(PlanVerdict.PLAN, "", [Step("place", held, "beside", thing) if held else Step("pick", thing)])


def refusal(asked: ExamQuestion) -> str:
    """Return the answer of a model that finds nothing."""
    if asked.question.plan is not None:
        return answer_json(PlanVerdict.IMPOSSIBLE, "", [])
    return "[]" if asked.question.task.spatial else "There is no such thing on the table."


def brain_of(engine: ScriptedEngine) -> Brain:
    return Brain(engine, PROFILE, info=INFO)


def scored(asked: Sequence[ExamQuestion], engine: ScriptedEngine, think: bool = False, at_once: int = 1) -> list[Scored]:
    """Return the scores of an engine's answers. Requests run one at a time, so answers are in the order of the questions."""
    return asyncio.run(score_all(brain_of(engine), iter(asked), think, at_once=at_once))


def row_of(rows: Sequence[Row], group: str, measure: str = "", kind: str = "") -> Row:
    """Return the first row of a group whose measure begins with this text."""
    return next(row for row in rows if row.group == group and row.kind == kind and row.measure.startswith(measure))


def test_true_answers_score_full_marks() -> None:
    asked = questions()
    scores = scored(asked, ScriptedEngine([truth(one) for one in asked]))
    assert len(scores) == len(asked) == len(SCENES) * len(GROUPS)
    rows = rows_of(scores)
    for row in rows:
        if "lower is better" in row.measure:
            assert row.value == 0
        elif "Fréchet" in row.measure:
            assert row.value < 0.02
        elif row.measure == "mean IoU":
            assert row.value > 0.8
        else:
            assert row.value == 1.0, row
    assert {row.group for row in rows} == {*GROUPS, "all"}
    assert all(row.met for row in rows if row.goal is not None)
    goals = {(row.group, row.goal) for row in rows if row.goal is not None}
    assert goals == {
        ("point", 0.97),
        ("ground", 0.97),
        ("affordance", 0.9),
        ("trajectory", 0.95),
        ("plan", 0.95),
        ("robot_plan", 0.95),
        ("replan", 0.95),
        ("all", 0.995),
    }


def test_wrong_answers_score_nothing() -> None:
    asked = questions()
    rows = rows_of(scored(asked, ScriptedEngine([untruth(one) for one in asked])))
    for row in rows:
        if row.measure == "answers that can be read":
            assert row.value == 1.0
        elif "Fréchet" in row.measure:
            assert row.value > 0.1
        else:
            assert row.value == 0.0, row
    assert not any(row.met for row in rows if row.goal is not None and row.group != "all")


def test_a_model_that_refuses_everything_is_right_about_the_absent_only() -> None:
    asked = [one for one in questions() if one.question.task is not Task.ASK and one.question.kind != "check"]
    rows = rows_of(scored(asked, ScriptedEngine([refusal(one) for one in asked])))
    assert row_of(rows, "absent").value == row_of(rows, "impossible").value == 1.0
    assert row_of(rows, "all", "object present, but refused").value == 1.0
    assert row_of(rows, "all", "answers that can be read").value == 1.0
    assert all(row.value == 0 for row in rows if row.group not in ("absent", "impossible", "all"))


def test_answers_that_cannot_be_read_are_counted() -> None:
    asked = questions(("point", "plan", "ground"))
    answers = [truth(one) if index % 3 else "banana" for index, one in enumerate(asked)]
    scores = scored(asked, ScriptedEngine(answers))
    assert [one.code is OutcomeCode.UNPARSABLE_ANSWER for one in scores] == [answer == "banana" for answer in answers]
    rows = rows_of(scores)
    read = row_of(rows, "all", "answers that can be read")
    assert (read.value, read.count, read.met) == (pytest.approx(2 / 3), len(asked), False)
    assert row_of(rows, "point", "points on the object").value == 0
    assert row_of(rows, "plan").value == 1


@pytest.mark.parametrize("error", [EngineFailedError("It broke."), RequestTimeoutError("It took too long.")])
def test_failures_are_counted_by_their_code_and_are_not_unreadable(error: Exception) -> None:
    asked = questions(("point",))
    scripts = [Script([error]) if index == 0 else truth(one) for index, one in enumerate(asked)]
    scores = scored(asked, ScriptedEngine(scripts))
    assert [one.code for one in scores].count(OutcomeCode.OK) == len(asked) - 1
    assert scores[0].code.name in ("ENGINE_FAILED", "TIMEOUT")
    assert (scores[0].verdict.right, scores[0].verdict.why) == (False, str(error))
    read = row_of(rows_of(scores), "all", "answers that can be read")
    assert (read.value, read.count) == (1.0, len(asked) - 1)


def test_an_error_of_the_program_is_no_answer() -> None:
    asked = questions(("point",))
    engine = ScriptedEngine([Script([ZeroDivisionError("a bug")])])
    with pytest.raises(ZeroDivisionError):
        scored(asked, engine, at_once=4)
    assert not engine.running


def test_thinking_comes_before_the_answer() -> None:
    asked = questions(("point", "ask"))
    scripts = [text for one in asked for text in ("I look for it.", truth(one))]
    engine = ScriptedEngine(scripts)
    rows = rows_of(scored(asked, engine, think=True))
    assert row_of(rows, "point").value == row_of(rows, "ask").value == 1.0
    assert len(engine.generations) == 2 * len(asked)
    assert engine.generations[0].assistant_prefix == "<think>"


def test_the_model_gets_the_scenes_image_with_its_name() -> None:
    asked = questions(("point", "ground"), range(700, 702))
    engine = ScriptedEngine(["[(1, 1)]"])
    scored(asked, engine)
    assert [generation.images[0].shape for generation in engine.generations[:2]] == [(252, 308, 3)] * 2
    names = [generation.image_ids[0] for generation in engine.generations]
    assert names[0] == names[1] != names[2] == names[3]
    assert engine.generations[0].user_text == PROFILE.prompt(Task.POINT, asked[0].question.text)


class FullEngine(ScriptedEngine):
    """An engine that answers only when ``full`` requests run at once, and stores the largest number of concurrent requests."""

    full, most = 3, 0
    gate: asyncio.Event

    async def generate(self, generation: Generation) -> AsyncGenerator[TextDelta, None]:
        async for delta in super().generate(generation):
            self.most = max(self.most, len(self.running))
            if self.most >= self.full:
                self.gate.set()
            await asyncio.wait_for(self.gate.wait(), 60)
            yield delta


def test_several_questions_are_asked_at_once_and_no_more() -> None:
    asked = questions(("ask",))
    engine = FullEngine(["Perhaps."])

    async def ask() -> list[Scored]:
        engine.gate = asyncio.Event()
        counts: list[int] = []
        scores = await score_all(brain_of(engine), iter(asked), at_once=3, progress=counts.append)
        assert counts == list(range(1, len(asked) + 1))
        return scores

    assert len(asyncio.run(ask())) == len(asked)
    assert engine.most == 3


def test_the_same_questions_come_from_the_same_seeds() -> None:
    assert [one.question for one in questions()] == [one.question for one in questions()]
    assert [one.question for one in questions()] != [one.question for one in questions(seeds=range(800, 812))]


def test_an_exam_takes_the_sizes_in_turn_and_all_kinds_of_questions() -> None:
    asked = questions(seeds=range(60))
    sizes = [(one.scene.width, one.scene.height) for one in asked[:: len(GROUPS)]]
    assert sizes == [SIZES[index % 3] for index in range(60)]
    kinds = {one.question.kind for one in asked}
    assert kinds >= {"point", "spots", "vacant", "gripper", "afford", "reach", "put", "ground", "plan", "count", "strange"}
    assert len({one.image_name for one in asked if one.group not in SITUATIONS}) == 60
    assert len({one.image_name for one in asked}) == 60 * (1 + len(SITUATIONS.keys() & GROUPS.keys()))


def test_every_kind_of_question_meets_every_camera() -> None:
    for kinds in GROUPS.values():
        met = {(kinds[seed % len(kinds)], CAMERAS[seed % len(CAMERAS)]) for seed in range(len(kinds) * len(CAMERAS))}
        assert len(met) == len(set(kinds)) * len(CAMERAS)


def test_questions_about_absent_objects_have_a_text() -> None:
    asked = questions(("absent",), range(300))
    assert all(one.question.text.strip() for one in asked)
    assert all(one.question.absent for one in asked)


def test_several_questions_about_a_scene_are_different_ones() -> None:
    asked = list(exam(range(700, 701), SIZES, ("ask",), 4))
    assert len({one.question.text for one in asked}) == 4
    assert len({id(one.scene) for one in asked}) == 1


@pytest.mark.parametrize("seed", [FIRST_TRAINING_SEED, -1])
def test_scenes_of_the_training_are_rejected(seed: int) -> None:
    with pytest.raises(ValueError, match="trained on"):
        next(exam([seed], SIZES, ALL))
    assert 0 < FIRST_SEED < FIRST_TRAINING_SEED


def result(
    group: str,
    score: float,
    kind: str = "",
    points: int = 1,
    chance: float = 0.0,
    frechet: float | None = None,
    right: bool = False,
) -> Scored:
    """Return a score as an answer would give it."""
    verdict = Assessment(right or score == 1.0, "", score, chance, frechet)
    return Scored(group, kind or group, OutcomeCode.OK, verdict, points, chance, absent=False)


def test_points_are_counted_one_by_one_with_their_chance() -> None:
    """There are two answers, with one and with three points. The interval is that of two answers."""
    rows = rows_of([result("point", 1.0, "point", 1, 0.01), result("point", 1 / 3, "spots", 3, 0.05)])
    row = row_of(rows, "point", "points on the object")
    assert (row.value, row.count, row.chance) == (pytest.approx(0.5), 4, pytest.approx(0.04))
    assert (row.low, row.high) == pytest.approx(wilson(1, 2))
    assert row_of(rows, "point", "right").value == 0.5
    assert row_of(rows, "point", kind="spots").value == pytest.approx(1 / 3)


def test_boxes_are_averaged_and_counted() -> None:
    rows = rows_of([result("ground", 0.9, right=True), result("ground", 0.6, right=True), result("ground", 0.3)])
    share, mean = row_of(rows, "ground", "IoU above 0.5"), row_of(rows, "ground", "mean IoU")
    assert (share.value, share.count, share.met) == (pytest.approx(2 / 3), 3, False)
    assert (share.low, share.high) == wilson(2, 3)
    assert (mean.value, mean.low, mean.met) == (pytest.approx(0.6), None, None)


def test_trajectories_end_on_the_target_and_have_a_distance() -> None:
    rows = rows_of([result("trajectory", 1.0, frechet=0.02, chance=0.01), result("trajectory", 0.0, frechet=0.2, chance=0.03)])
    ends = row_of(rows, "trajectory", "ends on")
    assert (ends.value, ends.chance) == (0.5, pytest.approx(0.02))
    assert row_of(rows, "trajectory", "mean Fréchet").value == pytest.approx(0.11)
    unread = [Scored("trajectory", "reach", OutcomeCode.UNPARSABLE_ANSWER, Assessment(False, "", 0.0), 1, 0.01, absent=False)]
    assert not any("Fréchet" in row.measure for row in rows_of(unread))


def test_a_goal_is_met_from_its_value_on() -> None:
    assert Row("plan", "", "right", 0.95, 20, goal=0.95).met
    assert Row("plan", "", "right", 0.9499, 20, goal=0.95).met is False
    assert Row("plan", "", "right", 0.1, 20).met is None


def test_without_questions_there_are_no_rows() -> None:
    assert rows_of([]) == []


def test_the_table_shows_interval_chance_and_goal() -> None:
    rows = [
        Row("point", "", "points on the object", 0.981, 600, 0.967, 0.99, 0.013, 0.97),
        Row("ground", "", "mean IoU", 0.8, 50),
    ]
    head, rule, first, second = table(rows).splitlines()
    assert head.split()[:2] == ["what", "share"]
    assert set(rule) == {"-", " "}
    assert " ".join(first.split()) == "point: points on the object 0.981 0.967 to 0.990 600 0.013 0.97 met"
    assert " ".join(second.split()) == "ground: mean IoU 0.800 50"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--model m --sizes 640", "not a size"),
        ("--model m --sizes 100x480", "not a size"),
        ("--model m --tasks sing", "sing"),
        ("--model m --scenes 0", "positive"),
        ("--model m --first-seed 999999900", "trained on"),
        ("--model m --over-ros --constrain no", "constrain_coordinates"),
        ("--scenes 5", "--model"),
    ],
)
def test_a_wrong_command_line_is_rejected(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        evaluate.parse_options(arguments.split())
    assert message in capsys.readouterr().err


def test_rounds_with_and_without_the_constraint(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    engine = ScriptedEngine(["[(1, 1)]"])

    async def open_brain(model: str, **options: object) -> Brain:
        return brain_of(engine)

    monkeypatch.setattr("robobrain_ros.local.open_brain", open_brain)
    arguments = "--model demo --scenes 2 --sizes 320x240 --tasks point --constrain both"
    asyncio.run(evaluate.run(evaluate.parse_options(arguments.split())))
    assert [generation.constraint is not None for generation in engine.generations] == [False, False, True, True]
    printed = capsys.readouterr().out
    assert "without thinking, coordinates free: 2 scenes" in printed
    assert "without thinking, coordinates constrained: 2 scenes" in printed


def test_the_program_writes_tables_and_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both image sizes, with and without thinking: four runs with three scenes each."""
    engine = ScriptedEngine(["[(1, 999)]"])
    opened = {}

    async def open_brain(model: str, **options: object) -> Brain:
        opened[model] = options
        print("The engine starts.")
        return brain_of(engine)

    monkeypatch.setattr("robobrain_ros.local.open_brain", open_brain)
    file = tmp_path / "scores.json"
    arguments = f"--model demo --scenes 3 --sizes 320x240 mixed --think both --tasks point absent --at-once 2 --json {file}"
    asyncio.run(evaluate.run(evaluate.parse_options(arguments.split())))
    assert opened == {"demo": {"max_num_seqs": 2}}
    assert engine.state == "stopped"

    printed = capsys.readouterr()
    assert printed.out.count("by chance") == 4
    assert "320x240, without thinking: 3 scenes, 6 questions" in printed.out
    assert "mixed, with thinking" in printed.out
    assert "The engine starts." in printed.err
    assert "mixed thinking: 6 of 6 answers" in printed.err

    content = json.loads(file.read_text(encoding="utf-8"))
    assert (content["model"], content["first_seed"]) == ("demo", FIRST_SEED)
    assert [(part["size"], part["think"]) for part in content["parts"]] == [
        ("320x240", False),
        ("mixed", False),
        ("320x240", True),
        ("mixed", True),
    ]
    for part in content["parts"]:
        assert sum(part["codes"].values()) == 6
        first = part["rows"][0]
        assert (first["group"], first["value"], first["goal"], first["met"]) == ("point", 0.0, 0.97, False)
