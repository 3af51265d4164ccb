"""The decision about a step of a plan, from recorded estimates."""

import pytest

from robobrain_ros.core.step_watch import StepLimits, StepState, StepWatch
from robobrain_ros.core.watching import TaskWatch, WatchLimits, WatchState
from robobrain_ros.errors import BadRequestError

RECORDED = {
    "a pick": ([(0.57, False), (0.93, True)], StepState.SUCCEEDED),
    "an unclear end": ([(0.51, False), (0.74, True), (0.78, True)], StepState.SUCCEEDED),
    "a wrong estimate at the end": ([(0.51, False), (0.42, True), (0.99, True)], StepState.SUCCEEDED),
    "a wrong estimate in the middle": ([(0.07, False), (0.49, False), (0.97, True)], StepState.SUCCEEDED),
    "a slip after the grasp": ([(0.63, False), (0.02, True), (0.08, True)], StepState.REGRESSED),
    "an object that was moved": ([(0.03, False), (0.06, False)], StepState.STALLED),
    "an arm that stopped after the middle": ([(0.55, False), (0.56, True), (0.6, True)], StepState.STALLED),
    "an arm that stopped shortly before the end": ([(0.4, False), (0.62, True), (0.66, True)], StepState.INCOMPLETE),
}


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_estimates(name: str) -> None:
    estimates, end = RECORDED[name]
    watch = StepWatch()
    states = [watch.add(progress, at_end) for progress, at_end in estimates]
    assert states[-1] is end
    assert all(state in (StepState.RUNNING, StepState.UNCLEAR) for state in states[:-1])
    assert watch.state.failed == (end is not StepState.SUCCEEDED)
    with pytest.raises(ValueError, match="has ended"):
        watch.add(1.0, True)


def test_a_failure_needs_two_estimates_and_a_clear_success_needs_one() -> None:
    watch = StepWatch()
    assert watch.add(0.6, False) is StepState.RUNNING
    assert watch.add(0.0, True) is StepState.UNCLEAR
    assert watch.add(0.1, True) is StepState.REGRESSED
    assert watch.moments == pytest.approx([0.0, 0.6, 0.05])
    assert watch.why == "the progress of the step fell from 60 % to 5 %"
    assert StepWatch().add(0.85, True) is StepState.SUCCEEDED


@pytest.mark.parametrize("wrong", [float("nan"), -0.01, 1.01, float("inf")])
def test_a_progress_that_is_unknown_is_no_estimate(wrong: float) -> None:
    """NaN is neither above nor below a limit, so the robot would go on."""
    watch = StepWatch()
    for at_end in (False, True):
        with pytest.raises(ValueError, match="must be 0 to 1"):
            watch.add(wrong, at_end)
    assert watch.state is StepState.RUNNING
    assert watch.add(0.5, False) is StepState.RUNNING
    assert watch.moments == [0.0, 0.5]


def test_without_confirmations_the_first_estimate_decides() -> None:
    limits = StepLimits(confirmations=1)
    watch = StepWatch(limits)
    assert watch.add(0.1, False) is StepState.STALLED
    assert watch.why == "the progress of the step changed only from 0 % to 10 %"
    assert StepWatch(limits).add(0.7, True) is StepState.SUCCEEDED


def test_each_moment_must_advance() -> None:
    watch = StepWatch(StepLimits(confirmations=1))
    assert watch.add(0.3, False) is StepState.RUNNING
    assert watch.add(0.5, False) is StepState.RUNNING
    assert watch.add(0.6, False) is StepState.STALLED


def test_a_limit_includes_its_own_value_in_spite_of_rounding() -> None:
    """0.3 - 0.1 is less than 0.2 in floating point."""
    watch = StepWatch(StepLimits(regression=0.2, advance=0.1, confirmations=1))
    assert watch.add(0.3, False) is StepState.RUNNING
    assert watch.add(0.1, False) is StepState.REGRESSED
    watch = StepWatch(StepLimits(advance=0.2, confirmations=1), moments=[0.1])
    assert watch.add(0.3, False) is StepState.RUNNING
    task = TaskWatch(WatchLimits(regression=0.2), 0.0)
    assert [task.add(float(second), value) for second, value in enumerate((0.2, 0.3, 0.1))][2] is WatchState.REGRESSED


@pytest.mark.parametrize("success", [0.8, 0.9])
def test_a_margin_can_fill_the_rest_in_spite_of_rounding(success: float) -> None:
    """1 - 0.9 is less than 0.1 in floating point."""
    assert StepLimits(success=success, margin=round(1.0 - success, 1)).success == success


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"success": 1.1}, "success"),
        ({"success": float("nan")}, "success"),
        ({"margin": 0.4}, "margin"),
        ({"regression": 0.8}, "regression"),
        ({"advance": 0.0}, "advance"),
        ({"confirmations": 0}, "confirmations"),
    ],
)
def test_contradictory_limits_are_rejected(wrong: dict[str, float], word: str) -> None:
    with pytest.raises(BadRequestError, match=f"^{word} is"):
        StepLimits(**wrong)  # type: ignore[arg-type]
