"""Checks of trajectories, with a camera above a table whose geometry is known."""

import math

import numpy as np
import pytest

from robobrain_ros.core.geometry import CameraModel
from robobrain_ros.core.surfaces import DepthImage
from robobrain_ros.core.traces.checks import MOST_WAYPOINTS, Trace, TraceLimits, View, check_trace
from robobrain_ros.core.traces.distances import named_distances
from robobrain_ros.core.traces.followed import Shape, follow
from robobrain_ros.core.traces.issues import IssueKind, TraceIssue
from robobrain_ros.core.traces.shape import resample, smooth
from robobrain_ros.core.traces.space import Reach, Workspace
from robobrain_ros.core.transforms import Transform

CAMERA = CameraModel(640, 480, 500.0, 500.0, 319.5, 239.5)
TABLE, BOX_TOP = 1.0, 0.8
"""Depths of the table, and of a box whose top covers x from -0.05 to 0.05 m and y from -0.05 to 0.05 m."""
UP = np.array([0.0, 0.0, -1.0])  # The camera looks straight down.
STRAIGHT = np.array([[-0.2, 0.0, 0.7], [-0.1, 0.0, 0.7], [0.1, 0.0, 0.7], [0.2, 0.0, 0.7]])
ROOMY = TraceLimits()
LOST = IssueKind.NOT_FINITE


def view(size: tuple[int, int] = (640, 480), table: float = TABLE) -> View:
    """Return a depth image of the table with the box. ``size`` is its width and height in pixels."""
    width, height = size
    depth = np.full((height, width), table, np.float32)
    scale = np.array([width / 640, height / 480])
    corners = CAMERA.project([[-0.05, -0.05, BOX_TOP], [0.05, 0.05, BOX_TOP]])
    (left, top), (right, bottom) = np.rint((corners + 0.5) * scale - 0.5).astype(int)
    depth[top : bottom + 1, left : right + 1] = BOX_TOP
    return View(CAMERA, DepthImage(depth))


def trace(waypoints: object = STRAIGHT, **options: object) -> Trace:
    return Trace(np.array(waypoints, np.float64), "camera", **options)  # type: ignore[arg-type]


def kinds(*issues: TraceIssue) -> list[tuple[int, IssueKind]]:
    return [(issue.waypoint, issue.kind) for issue in issues]


def test_a_good_trajectory_has_no_issue() -> None:
    limits = TraceLimits(Workspace("camera", (-0.3, -0.1, 0.5), (0.3, 0.1, 0.9)), Reach("camera", 0.8), 0.2, 0.5, 0.05)
    report = check_trace(trace(duration=3.0, gripper=STRAIGHT[0], up=UP, instruction="10 cm above the box"), limits, view())
    assert kinds(*report.issues) == [(3, IssueKind.WRONG_DISTANCE)]  # It ends 30 cm above the table.
    report = check_trace(trace(duration=3.0, gripper=STRAIGHT[0], up=UP, instruction="30 cm above the table"), limits, view())
    assert (report.issues, report.unchecked) == ((), ())


def test_workspace_and_reach_are_measured_in_their_frames() -> None:
    base = Transform((0.0, 0.0, 0.0, 1.0), (0.0, 0.0, 1.0))  # The origin of "base" is 1 m behind the camera.
    limits = TraceLimits(Workspace("base", (-0.15, -1.0, 1.0), (1.0, 1.0, 2.0)), Reach("base", 1.7, (-0.2, 0.0, 0.0)))
    report = check_trace(trace(), limits, transforms={"base": base})
    outside, *far = report.issues
    assert (outside.waypoint, outside.kind) == (0, IssueKind.OUTSIDE_WORKSPACE)
    assert outside.measured == pytest.approx(0.05)
    assert [(it.waypoint, it.kind, it.allowed) for it in far] == [(number, IssueKind.OUT_OF_REACH, 1.7) for number in (1, 2, 3)]
    assert [it.measured for it in far] == pytest.approx([np.hypot(1.7, x) for x in (0.1, 0.3, 0.4)])
    without = check_trace(trace(), limits)
    assert without.issues == ()
    assert [note for note in without.unchecked if "'base' is missing" in note] == list(without.unchecked[:2])


def test_steps_and_speeds_have_a_limit() -> None:
    (step,) = check_trace(trace(), TraceLimits(step=0.15)).issues
    assert (step.waypoint, step.kind, step.allowed) == (2, IssueKind.LONG_STEP, 0.15)
    assert step.measured == pytest.approx(0.2)
    (fast,) = check_trace(trace(duration=0.3), TraceLimits(speed=1.5)).issues
    assert (fast.waypoint, fast.kind) == (2, IssueKind.TOO_FAST)
    assert fast.measured == pytest.approx(2.0)
    assert any("speed was not checked" in note for note in check_trace(trace(), TraceLimits(speed=1.5)).unchecked)


@pytest.mark.parametrize("size", [(640, 480), (320, 240)])
def test_a_segment_through_an_object_between_free_waypoints_is_found(size: tuple[int, int]) -> None:
    low = STRAIGHT + np.array([0.0, 0.0, 0.25])  # 5 cm above the table, and 15 cm below the top of the box.
    (issue,) = check_trace(trace(low), ROOMY, view(size)).issues
    assert (issue.waypoint, issue.kind, issue.allowed) == (2, IssueKind.NOT_FREE, 0.02)
    assert issue.measured == pytest.approx(0.15)
    assert "behind the visible surface" in issue.message


def test_a_waypoint_below_the_table_is_found_and_a_touched_surface_is_free() -> None:
    end = np.array([[0.2, 0.0, 0.8], [0.2, 0.0, TABLE]])
    assert check_trace(trace(end), ROOMY, view()).issues == ()
    (issue,) = check_trace(trace(end + np.array([0.0, 0.0, 0.1])), ROOMY, view()).issues
    assert issue.measured == pytest.approx(0.1)


def test_waypoints_of_another_frame_are_seen_through_the_transform() -> None:
    turn = Transform((1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 1.0))  # The target frame has z up.
    world = STRAIGHT * (1.0, -1.0, -1.0) + (0.0, 0.0, 1.0)
    seen = View(CAMERA, view().depth, turn)
    told = Trace(world, "world", up=np.array([0.0, 0.0, 1.0]), instruction="move 1 to 5 cm above the table")
    (issue,) = check_trace(told, ROOMY, seen).issues
    assert (issue.waypoint, issue.kind, issue.allowed) == (3, IssueKind.WRONG_DISTANCE, 0.05)
    assert issue.measured == pytest.approx(0.3, abs=1e-6)
    low = world - np.array([0.0, 0.0, 0.25])
    assert kinds(*check_trace(Trace(low, "world"), ROOMY, seen).issues) == [(2, IssueKind.NOT_FREE)]


@pytest.mark.parametrize(("x", "depth", "height"), [(0.2, 0.97, 0.03), (0.0, 0.77, 0.03), (0.0, 0.8, 0.0), (0.2, 0.912, 0.088)])
def test_heights_are_measured_against_the_surface_below(x: float, depth: float, height: float) -> None:
    asked = trace([[x, 0.0, 0.5], [x, 0.0, depth]], up=UP, instruction="500 mm above the table")
    (issue,) = check_trace(asked, ROOMY, view()).issues
    assert issue.measured == pytest.approx(height, abs=1e-5)


@pytest.mark.parametrize("quaternion", [(math.nan, 0.0, 0.0, 1.0), (0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.1)])
def test_a_transform_that_is_none_is_reported(quaternion: tuple[float, float, float, float]) -> None:
    transform = Transform(quaternion, (0.0, 0.0, 0.0))
    report = check_trace(trace(), TraceLimits(reach=Reach("base", 0.01)), transforms={"base": transform})
    assert report.issues == ()
    assert "the reach was not checked" in report.unchecked[0]


def test_unusable_inputs_of_a_check_are_reported() -> None:
    report = check_trace(trace(duration=np.nan, up=9.81 * UP, instruction="5 cm above the table"), TraceLimits(speed=0.1), view())
    assert report.issues == ()
    assert [reason.partition(",")[0] for reason in report.unchecked] == [
        "The duration is unknown",
        "The direction against gravity (up) is no unit vector",
    ]


def test_an_end_that_an_object_hides_has_no_height() -> None:
    end = [[-0.2, 0.0, 0.7], [0.0, 0.0, 0.95]]  # Behind the top of the box.
    report = check_trace(trace(end, up=UP, instruction="5 cm above the table"), ROOMY, view())
    assert kinds(*report.issues) == [(1, IssueKind.NOT_FREE)]
    assert "no surface below the end" in report.unchecked[0]


@pytest.mark.parametrize("limit", ["step", "speed", "start", "behind", "spacing"])
def test_limits_are_numbers(limit: str) -> None:
    with pytest.raises(ValueError, match="at least 0"):
        TraceLimits(**{limit: np.nan})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="reach"):
        Reach("camera", np.nan)
    with pytest.raises(ValueError, match="workspace"):
        Workspace("camera", (np.nan, 0.0, 0.0), (1.0, 1.0, 1.0))


def test_the_start_is_near_the_gripper() -> None:
    asked = trace(gripper=STRAIGHT[0] + np.array([0.0, 0.3, 0.4]))
    (issue,) = check_trace(asked, TraceLimits(start=0.1)).issues
    assert (issue.waypoint, issue.kind, issue.allowed) == (0, IssueKind.FAR_START, 0.1)
    assert issue.measured == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("waypoints", "expected"),
    [
        (np.zeros((0, 3)), [(-1, IssueKind.TOO_FEW)]),
        ([[0.0, 0.0, 1.0]], [(-1, IssueKind.TOO_FEW)]),
        ([[0.1, 0.2, 1.0]] * 5, [(-1, IssueKind.NO_MOTION)]),
        (np.ones((10_000, 3)), [(-1, IssueKind.TOO_MANY)]),
        ([[np.nan] * 3, [0.0, 0.0, 1.0], [0.1, np.inf, 1.0]], [(0, LOST), (2, LOST), (-1, IssueKind.TOO_FEW)]),
        ([[0.0, 0.0, 0.5], [0.0, np.nan, 0.5], [1e308, 0.0, 0.5], [0.0, 0.0, 0.6]], [(1, LOST), (2, LOST)]),
    ],
)
def test_bad_trajectories_have_a_reason(waypoints: object, expected: list[tuple[int, IssueKind]]) -> None:
    report = check_trace(trace(waypoints), TraceLimits(step=1.0), view())
    assert kinds(*report.issues) == expected
    assert all("{" not in issue.message for issue in report.issues)


def test_without_depth_the_report_states_what_was_not_checked() -> None:
    assert check_trace(trace(), ROOMY).unchecked == (
        "There is no depth image, so free space and named distances were not checked.",
    )
    blind = View(CAMERA, DepthImage(np.full((480, 640), np.nan, np.float32)))
    (note,) = check_trace(trace(), ROOMY, blind).unchecked
    assert "have no depth" in note
    notes = check_trace(trace(up=UP, instruction="1 cm above it"), ROOMY, blind).unchecked
    assert any("shows no surface" in note for note in notes)
    with pytest.raises(ValueError, match=r"shape \(4,\)"):
        check_trace(trace(np.zeros(4)), ROOMY)


def test_single_lost_pixels_are_filled_and_a_hole_is_not() -> None:
    """A lost pixel gets the nearest surface around it, so a trajectory behind the surface has an issue there too."""
    samples = np.full((480, 640), 1.0, np.float32)
    samples[::3, ::3] = np.nan
    lost = View(CAMERA, DepthImage(samples))
    in_front, behind = ([[x, 0.0, z] for x in (-0.2, 0.2)] for z in (0.9, 1.1))
    report = check_trace(trace(in_front), ROOMY, lost)
    assert (report.issues, report.unchecked) == ((), ())
    assert kinds(*check_trace(trace(behind), ROOMY, lost).issues) == [(1, IssueKind.NOT_FREE)]
    samples[:, 300:340] = np.nan
    (note,) = check_trace(trace(in_front), ROOMY, View(CAMERA, DepthImage(samples))).unchecked
    assert "have no depth" in note


@pytest.mark.parametrize("count", [2, MOST_WAYPOINTS])
def test_a_long_trajectory_is_sampled_with_a_bound(count: int) -> None:
    far = np.linspace([-1e5, 0.0, 0.5], [1e5, 0.0, 0.5], count)
    (note,) = check_trace(trace(far), ROOMY, view()).unchecked
    samples = int(note.split(" of ")[1].split()[0])
    assert samples <= 20_000


@pytest.mark.parametrize(
    ("instruction", "low", "high"),
    [
        ("Move 1 to 5 cm above the cup.", 0.01, 0.05),
        ("between 10 and 20 mm over it", 0.01, 0.02),
        ("1-2cm above", 0.01, 0.02),
        ("5 mm to 2 cm above", 0.005, 0.02),
        ("hover 0,5 metres above", 0.4, 0.6),
        ("2 centimeters above", 0.01, 0.03),
    ],
)
def test_distances_are_read(instruction: str, low: float, high: float) -> None:
    (named,) = named_distances(instruction)
    assert (named.low, named.high) == pytest.approx((low, high))


@pytest.mark.parametrize(
    "instruction",
    [
        "",
        "above the cup",
        "5 cm left of the cup",
        "put 3 cups above",
        "1" * 9000,
        "1/2 m above",
        "-5 cm above",
        "1e-2 m above",
        "0.1234567 m above",
    ],
)
def test_other_texts_name_no_distance(instruction: str) -> None:
    assert named_distances(instruction) == ()


def test_the_followed_poses_are_checked_and_their_issues_name_waypoints() -> None:
    """The segment through the box ends at waypoint 3, because waypoint 1 has no position."""
    low = np.insert(STRAIGHT + np.array([0.0, 0.0, 0.25]), 1, np.nan, axis=0)
    for shape in (Shape(), Shape(count=41), Shape(step=0.01), Shape(step=0.01, rounds=5)):
        found = follow(trace(low), ROOMY, shape, view())
        assert kinds(*found.report.issues) == [(1, LOST), (3, IssueKind.NOT_FREE)]
        assert found.report.issues[1].measured == pytest.approx(0.15, abs=1e-3)
        assert len(found.positions) == (41 if shape.changes else 4)
        assert found.positions[[0, -1]] == pytest.approx(low[[0, -1]])
    # Only the poses are too far apart, or only the waypoints.
    assert follow(trace(), TraceLimits(step=0.25), Shape(count=2)).report.issues[0].waypoint == 3
    assert follow(trace(), TraceLimits(step=0.15), Shape(count=9)).report.issues == ()


def test_smoothing_does_not_hide_a_waypoint_outside_of_the_workspace() -> None:
    """The waypoint is published on ~/path, although no pose is there."""
    away = np.array([[0.0, 0.0, 0.5], [0.1, 0.0, 0.5], [0.2, 0.25, 0.5], [0.3, 0.0, 0.5], [0.4, 0.0, 0.5]])
    limits = TraceLimits(workspace=Workspace("table", (-1.0, -0.1, 0.0), (1.0, 0.2, 1.0)))
    for shape in (Shape(), Shape(rounds=2), Shape(count=4)):
        found = follow(Trace(away, "table"), limits, shape)
        assert kinds(*found.report.issues) == [(2, IssueKind.OUTSIDE_WORKSPACE)]
        assert found.report.issues[0].measured == pytest.approx(0.05)


@pytest.mark.parametrize("shape", [Shape(), Shape(count=20), Shape(rounds=3)])
@pytest.mark.parametrize("waypoints", [np.zeros((0, 3)), np.ones((1, 3)), np.ones((5, 3)), np.full((3, 3), np.nan)])
def test_a_trajectory_that_is_none_has_no_poses(waypoints: np.ndarray, shape: Shape) -> None:
    found = follow(trace(waypoints), ROOMY, shape)
    assert len(found.positions) == 0
    assert found.report.issues


def test_a_trajectory_of_too_many_waypoints_needs_resampling() -> None:
    many = np.linspace(STRAIGHT[0], STRAIGHT[-1], 10_000)
    plain = follow(trace(many), ROOMY)
    assert (kinds(*plain.report.issues), len(plain.positions)) == ([(-1, IssueKind.TOO_MANY)], 0)
    assert len(follow(trace(many), ROOMY, Shape(count=50)).positions) == 50


def test_a_step_that_is_far_too_small_for_the_trajectory_is_reported() -> None:
    """Each of these trajectories would have more poses than `resample` makes."""
    for step in (1e-9, 0.2 / 5_000, 0.4 / 10_000):
        found = follow(trace(), ROOMY, Shape(step=step))
        assert [issue.kind for issue in found.report.issues] == [IssueKind.TOO_MANY]
        assert len(found.positions) == 0


def test_resampling_keeps_the_ends_and_spaces_evenly() -> None:
    corner = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.3, 0.0, 0.0], [0.3, 0.1, 0.0]])
    found = resample(corner, count=5)
    assert found == pytest.approx(np.array([[0, 0, 0], [0.1, 0, 0], [0.2, 0, 0], [0.3, 0, 0], [0.3, 0.1, 0]]))
    by_step = resample(corner, step=0.09)
    assert len(by_step) == 6
    assert np.linalg.norm(np.diff(by_step, axis=0), axis=1).max() <= 0.09 + 1e-12
    for bad in ({}, {"count": 1}, {"count": 2, "step": 0.1}, {"count": 20_000}):
        with pytest.raises(ValueError, match=r"count|waypoints"):
            resample(corner, **bad)  # type: ignore[arg-type]
    for points in ([[0.0, 0.0, 0.0]], [[1.0, 1.0, 1.0]] * 3, [[np.nan] * 3] * 2):
        with pytest.raises(ValueError, match="waypoints"):
            resample(points, count=3)


def test_smoothing_keeps_the_ends_and_shortens_the_path() -> None:
    zigzag = np.array([[x / 10, (x % 2) / 10, 0.0] for x in range(9)])
    found = smooth(zigzag)
    assert (found[0] == zigzag[0]).all()
    assert (found[-1] == zigzag[-1]).all()
    assert np.linalg.norm(np.diff(found, axis=0), axis=1).sum() < 0.8 * np.linalg.norm(np.diff(zigzag, axis=0), axis=1).sum()
    assert (smooth(zigzag, rounds=0) == zigzag).all()
    with pytest.raises(ValueError, match="rounds"):
        smooth(zigzag, rounds=-1)
