"""Rollouts show a task while the arm works on it. The true progress follows what happens on the table."""

import numpy as np
import pytest

from robobrain_ros.demo.world import render_layout
from robobrain_ros.evaluation.rollouts import MOST_FRAMES, Disturbance, Rollout, make_rollout, true_score

SIZE = (224, 168)
SEEDS = range(900, 930)


def rollouts(disturbance: Disturbance | None) -> list[Rollout]:
    return [make_rollout(seed, SIZE, disturbance) for seed in SEEDS]


def test_the_same_seed_gives_the_same_rollout() -> None:
    one, other = make_rollout(901, SIZE), make_rollout(901, SIZE)
    assert one == other
    assert np.array_equal(one.frames[3].image(), other.frames[3].image())


def test_without_events_the_task_succeeds_and_the_progress_grows_from_0_to_1() -> None:
    for rollout in rollouts(None):
        progress = [frame.progress for frame in rollout.frames]
        assert rollout.succeeded
        assert (progress[0], progress[-1]) == (0.0, 1.0)
        assert progress == sorted(progress)
        assert all(frame.disturbance is None for frame in rollout.frames)


def test_at_the_end_of_a_success_the_table_is_that_of_the_reference() -> None:
    for rollout in rollouts(None):
        last, end = rollout.frames[-1].layout, rollout.end
        assert last.things == end.things
        assert last.gripper == pytest.approx(end.gripper)


def test_two_frames_never_have_the_same_noise() -> None:
    rollout = make_rollout(902, SIZE, None)
    seeds = {frame.layout.noise_seed for frame in rollout.frames}
    assert len(seeds) == len(rollout.frames)


@pytest.mark.parametrize("disturbance", [Disturbance.SLIP, Disturbance.MOVED, Disturbance.TAKEN, Disturbance.UNDONE])
def test_a_disturbance_lowers_the_progress(disturbance: Disturbance) -> None:
    seen = 0
    for rollout in rollouts(disturbance):
        index = rollout.first(disturbance)
        if index is not None:
            assert rollout.frames[index].progress < rollout.frames[index - 1].progress
            seen += 1
    assert seen >= 3


def test_what_slipped_lies_on_the_table() -> None:
    for rollout in rollouts(Disturbance.SLIP):
        index = rollout.first(Disturbance.SLIP)
        if index is not None:
            frame = rollout.frames[index]
            thing = next(thing for thing in frame.layout.things if thing.name == frame.object)
            assert thing.z == 0.0


def test_an_arm_that_stops_does_not_succeed() -> None:
    stopped = [rollout for rollout in rollouts(Disturbance.STOPPED) if rollout.first(Disturbance.STOPPED) is not None]
    assert len(stopped) > 20
    for rollout in stopped:
        index = rollout.first(Disturbance.STOPPED)
        assert not rollout.succeeded
        assert len({frame.progress for frame in rollout.frames[index:]}) == 1


def test_some_rollouts_recover_from_a_slip() -> None:
    ends = {rollout.succeeded for rollout in rollouts(Disturbance.SLIP) if rollout.first(Disturbance.SLIP) is not None}
    assert ends == {False, True}


def test_rollouts_are_bounded_and_all_events_occur() -> None:
    made = [make_rollout(seed, SIZE) for seed in range(1000, 1200)]
    assert all(2 <= len(rollout.frames) <= MOST_FRAMES + 16 for rollout in made)
    assert all(0.0 <= frame.progress <= 1.0 for rollout in made for frame in rollout.frames)
    assert {frame.disturbance for rollout in made for frame in rollout.frames} == {None, *Disturbance}


def test_the_goal_holds_after_each_success() -> None:
    for seed in range(1000, 1100):
        rollout = make_rollout(seed, SIZE)
        if rollout.succeeded:
            assert rollout.frames[-1].layout.things == rollout.end.things, seed


def test_the_reference_shows_the_goal_in_a_rollout_that_fails() -> None:
    failed = next(rollout for rollout in rollouts(Disturbance.STOPPED) if not rollout.succeeded)
    assert failed.end.things != failed.frames[-1].layout.things
    assert render_layout(failed.end)[0].image.shape == (SIZE[1], SIZE[0], 3)


@pytest.mark.parametrize(
    ("before", "after", "score"),
    [(0, 0.5, 50), (0.5, 0.75, 50), (0.5, 0.25, -50), (1, 0.4, -60), (0.3, 0.3, 0), (0, 0, 0), (1, 1, 0), (0.2, 1, 100)],
)
def test_scores_are_relative_to_the_rest_of_the_way_or_to_the_way_so_far(before: float, after: float, score: int) -> None:
    assert true_score(before, after) == score
