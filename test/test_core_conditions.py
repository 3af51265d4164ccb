"""Conditions: yes or no from a text, the confidence from log-probabilities, the state from several answers."""

import itertools
import math
import re
from typing import Any

import pytest
from brain_rig import TWO, TWO_FIVE, ask, query
from fakes import Script, ScriptedEngine
from hypothesis import given
from hypothesis import strategies as st

from robobrain_ros.core import Task
from robobrain_ros.core.grammars import YES_OR_NO
from robobrain_ros.core.hysteresis import Change, Hysteresis
from robobrain_ros.core.reading.yes_or_no import begins_answer, confidence_in, read_yes_or_no
from robobrain_ros.engine.base import MOST_CHOICES, TextDelta, TokenChoice
from robobrain_ros.errors import BadRequestError, UnparsableAnswerError

Answers = list[tuple[bool, float | None]]
ANSWERS: st.SearchStrategy[Answers] = st.lists(st.tuples(st.booleans(), st.none() | st.floats(0.5, 1.0)), max_size=60)


def likely(**probabilities: float) -> tuple[TokenChoice, ...]:
    """Return tokens with these probabilities, the most likely one first."""
    found = [TokenChoice(token, math.log(probability)) for token, probability in probabilities.items()]
    return tuple(sorted(found, key=lambda choice: -choice.logprob))


@pytest.mark.parametrize(
    "text", ["Yes", "yes", "YES.", " Yes, the drawer is open.", '"Yes"', "**Yes**", "yes!\nIt is.", "Yes – open"]
)
def test_answers_that_mean_yes(text: str) -> None:
    assert read_yes_or_no(text) is True
    assert read_yes_or_no(re.sub("yes", "no", text, flags=re.IGNORECASE)) is False


@pytest.mark.parametrize(
    "text", ["", "No idea", "None", "Nothing", "yes/no", "Yesterday", "The drawer is open.", "Yes or no?", "是"]
)
def test_answers_that_are_neither(text: str) -> None:
    assert read_yes_or_no(text) is None


def test_the_grammar_allows_both_spellings_and_each_is_read() -> None:
    allowed = [text for text in ("Yes", "No", "yes", "no", "", "YES", "Yes.", "Ye", "Noyes") if re.fullmatch(YES_OR_NO, text)]
    assert allowed == ["Yes", "No", "yes", "no", ""]
    assert [read_yes_or_no(text) for text in allowed] == [True, False, True, False, None]


@pytest.mark.parametrize(
    ("holds", "choices", "expected"),
    [
        (True, likely(Yes=0.9, No=0.1), 0.9),
        (False, likely(Yes=0.2, No=0.8), 0.8),
        # All beginnings of the same answer count together; other tokens do not count.
        (True, likely(Yes=0.4, yes=0.1, Y=0.1, No=0.15, The=0.25), 0.8),
        (False, likely(No=0.6, Not=0.2, Yes=0.2), 0.75),
        # Without the other answer, the least likely token limits its probability.
        (True, likely(Yes=0.9, The=0.1), 0.9),
        # An answer in the model's second most likely spelling never has less than even chances.
        (True, likely(Yes=0.3, No=0.5, no=0.2), 0.5),
        (True, likely(Yes=1.0), None),
        (True, likely(The=0.6, It=0.4), None),
        (True, (), None),
        (True, (TokenChoice("Yes", 0.0), TokenChoice("No", -900.0)), 1.0),
    ],
)
def test_confidence_is_relative_to_both_answers(holds: bool, choices: tuple[TokenChoice, ...], expected: float | None) -> None:
    assert confidence_in(holds, choices) == (None if expected is None else pytest.approx(expected))


@given(
    st.lists(st.tuples(st.sampled_from(("Yes", "No", " yes", "n", "", "▁No", "the", "�")), st.floats(-1e300, 0.0)), max_size=20)
)
def test_a_confidence_is_a_probability_of_at_least_one_half(entries: list[tuple[str, float]]) -> None:
    choices = [TokenChoice(text, logprob) for text, logprob in entries]
    for holds in (True, False):
        confidence = confidence_in(holds, choices)
        assert confidence is None or 0.5 <= confidence <= 1.0


@given(st.floats(-50.0, -1e-9), st.floats(-200.0, 200.0))
def test_a_constant_in_all_logarithms_does_not_change_the_confidence(less: float, constant: float) -> None:
    """Some engines normalize over all tokens, others over those that the constraint allows."""
    plain = confidence_in(True, (TokenChoice("Yes", 0.0), TokenChoice("No", less)))
    moved = confidence_in(True, (TokenChoice("Yes", constant), TokenChoice("No", less + constant)))
    assert moved == pytest.approx(plain)


def test_only_the_place_where_the_answer_begins_counts() -> None:
    assert begins_answer(likely(Yes=0.9, No=0.1))
    assert not begins_answer(likely(The=0.9, Yes=0.1))
    assert not begins_answer(())


@given(st.integers(1, 6), ANSWERS)
def test_the_state_is_what_the_last_consecutive_answers_agree_on(frames: int, answers: Answers) -> None:
    state, events, run = Hysteresis(frames), list[Change](), 0
    for number, (holds, confidence) in enumerate(answers):
        run = run + 1 if number and answers[number - 1][0] == holds else 1
        before = state.state
        change = state.add(holds, confidence)
        # A change needs exactly this: enough answers in a row that contradict the state.
        assert (change is not None) == (holds != before and run >= frames)
        if change is None:
            assert state.state == before
            assert state.agreeing < frames
            assert (state.candidate is None) == (holds == before)
            continue
        assert (change.holds, change.initial, change.frames) == (holds, before is None, frames)
        given_ones = [given for _, given in answers[number - frames + 1 : number + 1] if given is not None]
        mean = sum(given_ones) / len(given_ones) if given_ones else None
        assert change.confidence == (None if mean is None else pytest.approx(mean))
        events.append(change)
    assert [change.initial for change in events] == [number == 0 for number in range(len(events))]
    assert all(one.holds != next_one.holds for one, next_one in itertools.pairwise(events)), "one event for a change"


@given(st.integers(2, 6), st.booleans())
def test_alternating_answers_never_change_the_state(frames: int, first: bool) -> None:
    state = Hysteresis(frames)
    assert [state.add(first == (number % 2 == 0)) for number in range(40)] == [None] * 40
    assert state.state is None


@given(st.integers(1, 6), ANSWERS, ANSWERS)
def test_a_reset_forgets_everything(frames: int, before: Answers, after: list[tuple[bool, float | None]]) -> None:
    used, fresh = Hysteresis(frames), Hysteresis(frames)
    for answer in before:
        used.add(*answer)
    used.reset()
    assert [used.add(*answer) for answer in after] == [fresh.add(*answer) for answer in after]


def condition(text: str = "Is there a red ball?", **options: Any) -> Any:
    return query(Task.ASK, text, condition=True, **options)


def test_a_condition_is_the_same_prompt_with_a_constrained_answer_and_its_confidence() -> None:
    engine = ScriptedEngine([Script([TextDelta("Yes", 1, choices=(likely(Yes=0.9, No=0.1),))]), "Yes, there is."])
    answer = ask(engine, condition())
    plain = ask(engine, query(Task.ASK, "Is there a red ball?"))
    assert (answer.holds, answer.confidence, answer.text) == (True, pytest.approx(0.9), "Yes")
    assert (plain.holds, plain.confidence, plain.text) == (None, None, "Yes, there is.")
    constrained, free = engine.generations
    assert constrained.user_text == free.user_text == "Is there a red ball?"
    assert constrained.assistant_prefix == free.assistant_prefix
    assert constrained.constraint is not None
    assert constrained.constraint.regex == YES_OR_NO
    assert (constrained.choices, free.choices, free.constraint) == (MOST_CHOICES, 0, None)


def test_without_a_constraint_the_text_is_read_and_the_first_place_of_the_answer_counts() -> None:
    places = (likely(**{"\n": 0.9, "No": 0.1}), likely(No=0.7, Yes=0.3), likely(Yes=0.9, No=0.1))
    engine = ScriptedEngine([Script([TextDelta("\nNo,", 2, choices=places), " there is none."])])
    answer = ask(engine, condition(), TWO_FIVE, constrain_coordinates=False)
    assert (answer.holds, answer.confidence) == (False, pytest.approx(0.7))
    assert engine.generations[0].constraint is None


def test_likely_tokens_of_the_thinking_do_not_count() -> None:
    thinking = TextDelta("No ball.", 1, choices=(likely(No=0.9, Yes=0.1),))
    engine = ScriptedEngine([Script([thinking]), Script([TextDelta("Yes", 1, choices=(likely(Yes=0.6, No=0.4),))])])
    answer = ask(engine, condition(think=True), TWO)
    assert (answer.holds, answer.confidence, answer.thinking) == (True, pytest.approx(0.6), "No ball.")
    assert [generation.choices for generation in engine.generations] == [0, MOST_CHOICES]


def test_an_engine_without_log_probabilities_gives_no_confidence() -> None:
    answer = ask(ScriptedEngine(["no"]), condition())
    assert (answer.holds, answer.confidence) == (False, None)


def test_an_answer_that_is_neither_is_unparsable() -> None:
    with pytest.raises(UnparsableAnswerError, match="neither yes nor no") as caught:
        ask(ScriptedEngine(["The drawer is open."]), condition(), constrain_coordinates=False)
    assert caught.value.raw_text == "The drawer is open."
    assert caught.value.report is not None


@pytest.mark.parametrize("task", [task for task in Task if task is not Task.ASK])
def test_only_ask_has_conditions(task: Task) -> None:
    with pytest.raises(BadRequestError, match="Only the task ask has conditions"):
        ask(ScriptedEngine(["yes"]), query(task, condition=True))
