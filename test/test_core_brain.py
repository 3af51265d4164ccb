"""Brain.run: from a query to an answer, with an engine whose text each test selects."""

import asyncio
import re
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from brain_rig import IMAGE, TWO, TWO_FIVE, ask, query, seen
from fakes import Script, ScriptedEngine

import robobrain_ros.core.brain as brain_module
from robobrain_ros.core import Brain, Query, Task, parse_answer
from robobrain_ros.core.imaging import fit_image
from robobrain_ros.core.query import Answer, Box, PartialAnswer, PlanStep, Point
from robobrain_ros.engine.base import EngineInfo
from robobrain_ros.errors import (
    BadImageError,
    BadRequestError,
    EngineConfigError,
    NothingFoundError,
    OutcomeCode,
    RoboBrainError,
    UnparsableAnswerError,
    UnsupportedTaskError,
)


def test_an_answer_in_the_images_own_pixels_with_its_report() -> None:
    text = "[(137, 116), (169, 94)]"
    engine = ScriptedEngine([Script(["[(137, 1", "16), (169", ", 94)]"])])
    answer = ask(engine, query(Task.TRAJECTORY, "reach for the banana on the plate."))
    assert answer.waypoints == (seen(137, 116), seen(169, 94))
    assert (answer.task, answer.text, answer.points, answer.boxes) == (Task.TRAJECTORY, text, (), ())

    report = answer.report
    assert (report.model, report.engine, report.think) == ("", "", False)
    assert (report.raw_text, report.finish_reason) == (text, "stop")
    assert (report.prompt_tokens, report.thinking_tokens, report.answer_tokens) == (10, 0, 3)
    assert report.model_image_sizes == [(420, 252)]
    assert report.queue_time == 0.25
    assert 0 < report.first_token_time <= report.total_time

    (generation,) = engine.generations
    assert generation.user_text == TWO.prompt(Task.TRAJECTORY, "reach for the banana on the plate")
    assert generation.assistant_prefix == "<think></think><answer>"
    assert [image.shape for image in generation.images] == [(252, 420, 3)]
    assert generation.temperature == 0
    assert engine.aborted == []


def test_report_names_the_model_and_the_checkpoints_bounds_hold() -> None:
    info = EngineInfo("demo", "qwen2_5_vl", "vllm 0.32", min_pixels=3136, max_pixels=100_000, cell=28, flagos_active=True)
    answer = ask(ScriptedEngine(["[(1, 1)]"]), query(), info=info)
    assert (answer.report.model, answer.report.engine, answer.report.flagos_active) == ("demo", "vllm 0.32", True)
    (width, height) = answer.report.model_image_sizes[0]
    assert width * height <= 100_000
    with pytest.raises(EngineConfigError, match="max_pixels"):
        Brain(ScriptedEngine([""]), TWO, info=info, max_pixels=3000)


def test_an_image_may_have_a_budget_of_its_own_within_the_brains() -> None:
    info = EngineInfo("demo", "qwen2_5_vl", "vllm 0.32", min_pixels=4 * 784, max_pixels=100_000, cell=28)
    images = [np.zeros((560, 560, 3), np.uint8)] * 4
    asked = query(Task.ASK, images=images, max_pixels=[0, 84 * 84, 1, 10**7])
    answer = ask(ScriptedEngine(["Two."]), asked, info=info)
    assert answer.report.model_image_sizes == [(308, 308), (84, 84), (56, 56), (308, 308)]
    for wrong in ([1], [0, 0, 0, -1]):
        with pytest.raises(BadRequestError, match="max_pixels"):
            ask(ScriptedEngine(["Two."]), query(Task.ASK, images=images, max_pixels=wrong), info=info)


def test_thousandths_of_the_image() -> None:
    answer = ask(ScriptedEngine(["[(500, 250, 0.8)]"]), query(Task.TRAJECTORY), TWO_FIVE)
    assert answer.waypoints == (Point(211.5, 59.5, depth=0.8),)
    answer = ask(ScriptedEngine(["[0, 0, 1000, 500]"]), query(Task.GROUND), TWO_FIVE)
    assert answer.boxes == (Box(0, 0, 423, 119.5),)


def test_fractions_are_scaled_and_points_outside_clamped_and_flagged() -> None:
    answer = ask(ScriptedEngine(["[(0.5, 0.25), (1.5, 0.5)]"]), query())
    assert answer.points == (Point(211.5, 59.5), Point(423, 119.5, clamped=True))


def test_progress_comes_piece_by_piece_in_the_images_pixels() -> None:
    pieces: list[PartialAnswer] = []
    engine = ScriptedEngine([Script(["[(137, 116", "), (1", "69, 94)]"])])
    ask(engine, query(), on_partial=pieces.append)
    assert [piece.points for piece in pieces] == [(), (seen(137, 116),), (seen(169, 94),)]
    assert "".join(piece.text for piece in pieces) == "[(137, 116), (169, 94)]"
    assert not any(piece.thinking for piece in pieces)


def test_the_report_tells_when_the_first_part_was_complete() -> None:
    streamed = ask(ScriptedEngine([Script(["[(137, 116", "), (1", "69, 94)]"])]), query()).report
    assert 0 < streamed.first_token_time < streamed.first_part_time <= streamed.total_time
    assert ask(ScriptedEngine(["Two."]), query(Task.ASK)).report.first_part_time == 0


def test_a_plan_and_a_question_may_take_several_images_or_a_large_one() -> None:
    engine = ScriptedEngine(["I see:\n1. Pick\n2. Place", "Two."])
    large = np.zeros((1080, 1920, 3), np.uint8)

    async def both() -> tuple[Answer, Answer]:
        brain = Brain(engine, TWO)
        images = [IMAGE, large]
        return (
            await brain.run(Query(Task.PLAN, "tidy up", images, image_ids=["a", ""])),
            await brain.run(Query(Task.ASK, "How many mugs?", images)),
        )

    plan, answer = asyncio.run(both())
    assert plan.steps == (PlanStep(1, "Pick"), PlanStep(2, "Place"))
    assert plan.reasoning == "I see:"
    assert answer.text == "Two."
    assert [size[0] for size in answer.report.model_image_sizes] == [420, 1316]
    assert list(engine.generations[0].image_ids) == ["a@420x252", ""]
    assert list(engine.generations[1].image_ids) == []
    assert engine.generations[0].request_id != engine.generations[1].request_id


def test_large_images_are_resized_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []

    def fit_and_tell(*arguments: Any) -> Any:
        threads.append(threading.current_thread())
        return fit_image(*arguments)

    monkeypatch.setattr(brain_module, "fit_image", fit_and_tell)
    ask(ScriptedEngine(["[(1, 1)]"]), query(images=[np.zeros((720, 1280, 3), np.uint8)]))
    ask(ScriptedEngine(["[(1, 1)]"]), query())
    assert [thread is threading.main_thread() for thread in threads] == [False, True]


def test_thinking_has_its_own_budget_and_is_followed_by_the_answer() -> None:
    pieces: list[PartialAnswer] = []
    engine = ScriptedEngine([Script(["It may be ", "at (1, 2)."]), "[(137, 116)]</answer>"])
    answer = ask(engine, query(think=True, max_tokens=64), on_partial=pieces.append, think_tokens=99)
    assert answer.points == (seen(137, 116),)
    assert answer.thinking == "It may be at (1, 2)."
    assert answer.report.think
    assert (answer.report.thinking_tokens, answer.report.answer_tokens) == (2, 1)
    assert [(piece.text, piece.thinking) for piece in pieces] == [
        ("It may be ", True),
        ("at (1, 2).", True),
        ("[(137, 116)]", False),
    ]
    think, write = engine.generations
    assert (think.assistant_prefix, think.max_tokens) == ("<think>", 99)
    assert "</think>" in think.stop
    assert (write.assistant_prefix, write.max_tokens) == ("<think>It may be at (1, 2).</think><answer>", 64)
    assert think.user_text == write.user_text
    assert parse_answer(Task.POINT, answer.report.raw_text, TWO).thinking == answer.thinking


def test_answers_to_spatial_tasks_are_constrained_and_nothing_else_is() -> None:
    engine = ScriptedEngine(["I think", "[(419, 251)]", "Two."])
    brain = Brain(engine, TWO)
    asyncio.run(brain.run(query(think=True)))
    asyncio.run(brain.run(query(Task.ASK)))
    thought, answer, words = engine.generations
    assert (thought.constraint, words.constraint) == (None, None)
    assert answer.constraint is not None
    assert re.fullmatch(answer.constraint.regex, "[(419, 251)]")
    assert not re.fullmatch(answer.constraint.regex, "[(420, 251)]")
    assert not re.fullmatch(answer.constraint.regex, "[(419, 252)]")


def test_answers_are_free_where_coordinates_are_not_constrained() -> None:
    engine = ScriptedEngine(["[(1, 1)]"])
    ask(engine, query(), constrain_coordinates=False)
    assert [generation.constraint for generation in engine.generations] == [None]


def test_a_checkpoint_that_answers_nothing_to_the_tags_may_do_so_under_the_constraint_too() -> None:
    engine = ScriptedEngine(["", "[(137, 116)]"])
    assert ask(engine, query(), constrain_coordinates=True).points == (seen(137, 116),)
    for generation in engine.generations:
        assert generation.constraint is not None
        assert re.fullmatch(generation.constraint.regex, "")


def test_there_is_an_answer_when_the_thinking_budget_ends() -> None:
    engine = ScriptedEngine([Script(["and then I wonder whe"], finish_reason="length"), "[(137, 116)]"])
    answer = ask(engine, query(), think=True)
    assert answer.points == (seen(137, 116),)
    assert answer.report.finish_reason == "stop"


def test_think_of_the_query_overrides_the_default_except_for_models_that_cannot_think() -> None:
    engine = ScriptedEngine(["[(137, 116)]"])
    assert not ask(engine, query(think=False), think=True).report.think
    assert not ask(engine, query(), TWO_FIVE, think=True).report.think
    assert [generation.assistant_prefix for generation in engine.generations] == ["<think></think><answer>", ""]
    for profile in (TWO_FIVE, TWO.with_thinking(False)):
        with pytest.raises(BadRequestError, match="not trained to think"):
            ask(engine, query(think=True), profile)


def test_an_empty_answer_is_tried_once_more_without_thinking() -> None:
    engine = ScriptedEngine(["I wonder", "", "[(137, 116)]"])
    answer = ask(engine, query(think=True))
    assert answer.points == (seen(137, 116),)
    assert (answer.report.think, answer.thinking, answer.report.raw_text) == (False, "", "[(137, 116)]")
    assert [generation.assistant_prefix for generation in engine.generations] == [
        "<think>",
        "<think>I wonder</think><answer>",
        "<think></think><answer>",
    ]


def test_a_checkpoint_that_does_not_know_the_tags_is_asked_without_them() -> None:
    engine = ScriptedEngine(["</answer>", "[(137, 116)]"])
    assert ask(engine, query()).points == (seen(137, 116),)
    assert [generation.assistant_prefix for generation in engine.generations] == ["<think></think><answer>", ""]


def test_a_checkpoint_that_cannot_think_though_it_was_told_to_is_asked_without_tags() -> None:
    engine = ScriptedEngine(["", "", "[(137, 116)]"])
    assert ask(engine, query(think=True)).points == (seen(137, 116),)
    assert [generation.assistant_prefix for generation in engine.generations] == ["<think>", "<think></think><answer>", ""]


def test_a_second_empty_answer_is_an_error() -> None:
    engine = ScriptedEngine(["<think></think>"])
    with pytest.raises(UnparsableAnswerError, match="empty") as caught:
        ask(engine, query(), TWO_FIVE)
    assert len(engine.generations) == 2
    assert caught.value.raw_text == "<think></think>"
    assert caught.value.report is not None
    assert caught.value.report.answer_tokens == 2


@pytest.mark.parametrize(
    ("broken", "error", "message"),
    [
        (query(text=""), BadRequestError, "empty"),
        (query(text=" \n"), BadRequestError, "empty"),
        (query(text="mug " * 3000), BadRequestError, "12000 characters"),
        (query(images=[]), BadRequestError, "exactly one image, not 0"),
        (query(images=[IMAGE, IMAGE]), BadRequestError, "exactly one image, not 2"),
        (query(Task.ASK, images=[]), BadRequestError, "1 to 8 images, not 0"),
        (query(Task.PLAN, images=[IMAGE] * 9), BadRequestError, "1 to 8 images, not 9"),
        (query(image_ids=["a", "b"]), BadRequestError, "2 image ids for 1 images"),
        (query(timeout=0.0), BadRequestError, "timeout"),
        (query(timeout=-1.0), BadRequestError, "timeout"),
        (query(timeout=float("nan")), BadRequestError, "timeout"),
        (query(timeout=float("inf")), BadRequestError, "timeout"),
        (query(max_tokens=0), BadRequestError, "max_tokens"),
        (query(images=[IMAGE[:, :, 0]]), BadImageError, "shape"),
        (query(images=[np.zeros((2, 401, 3), np.uint8)]), BadImageError, "401x2"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_bad_requests_never_reach_the_engine(broken: Query, error: type[RoboBrainError], message: str) -> None:
    engine = ScriptedEngine(["[(1, 1)]"])
    with pytest.raises(error, match=message) as caught:
        ask(engine, broken)
    assert engine.generations == []
    assert caught.value.report is not None


def test_a_task_that_the_family_does_not_support_is_rejected() -> None:
    profile = replace(TWO, prompts={Task.ASK: TWO.prompts[Task.ASK]})
    with pytest.raises(UnsupportedTaskError, match="It supports ask"):
        ask(ScriptedEngine(["x"]), query(Task.GROUND), profile)


def test_a_missing_object_ends_with_nothing_found() -> None:
    """The message quotes both names, because the model can name another object than the request."""
    with pytest.raises(NothingFoundError) as caught:
        ask(ScriptedEngine(["There is no blue bowl."]), query(text="the red\nmug"))
    assert caught.value.message == (
        'The model found nothing in the image for "the red mug". The model\'s answer: "There is no blue bowl."'
    )
    assert (caught.value.raw_text, caught.value.code) == ("There is no blue bowl.", OutcomeCode.NOTHING_FOUND)
    assert caught.value.report is not None
    assert caught.value.report.answer_tokens == 1


def test_a_task_without_a_plan_is_named() -> None:
    with pytest.raises(NothingFoundError) as caught:
        ask(ScriptedEngine(["There is no blue bowl on the table."]), query(Task.PLAN, "clear the table"))
    assert caught.value.message.startswith('The model made no plan for "clear the table". The model\'s answer: "There is no')


def test_an_answer_out_of_form_carries_text_and_report() -> None:
    with pytest.raises(UnparsableAnswerError, match="no coordinates") as caught:
        ask(ScriptedEngine(["let me see", "The mug is red."]), query(think=True))
    assert caught.value.raw_text == "let me see</think><answer>The mug is red."
    assert caught.value.report is not None
    assert caught.value.report.raw_text == caught.value.raw_text
    assert caught.value.report.total_time > 0


def test_complete_points_of_an_answer_cut_at_the_limit_count_but_half_a_plan_does_not() -> None:
    cut = ScriptedEngine([Script(["[(137, 116), (16"], finish_reason="length")])
    answer = ask(cut, query(Task.TRAJECTORY))
    assert answer.waypoints == (seen(137, 116),)
    assert answer.report.finish_reason == "length"
    with pytest.raises(UnparsableAnswerError, match="first coordinate"):
        ask(ScriptedEngine([Script(["[(137, 1"], finish_reason="length")]), query(Task.TRAJECTORY))
    with pytest.raises(UnparsableAnswerError, match="max_tokens"):
        ask(ScriptedEngine([Script(["1. Pick up\n2. Pla"], finish_reason="length")]), query(Task.PLAN))
