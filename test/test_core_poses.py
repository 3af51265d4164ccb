"""Stand-off poses, poses on the floor, and rotations."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robobrain_ros.core.poses import (
    FloorPlane,
    Source,
    StampedPose,
    Unavailable,
    Uncertainty,
    floor_pose,
    frames_of,
    stand_off,
    to_matrices,
    to_quaternions,
)
from robobrain_ros.core.transforms import Quaternion, Transform, Vector

HALF = math.sqrt(0.5)
IDENTITY: Quaternion = (0.0, 0.0, 0.0, 1.0)
part = st.floats(-1.0, 1.0)


def pose(position: Vector = (1.0, 2.0, 0.8), orientation: Quaternion = IDENTITY) -> StampedPose:
    return StampedPose("map", (3, 4), Source.BOX, position, orientation, Uncertainty(0.002, 0.05))


@given(st.tuples(part, part, part, part).filter(lambda q: math.hypot(*q) > 0.1))
def test_a_quaternion_and_its_matrix_are_the_same_rotation(numbers: Quaternion) -> None:
    matrix = to_matrices(np.array([numbers]))
    (found,) = to_quaternions(matrix)
    expected = np.array(numbers) / math.hypot(*numbers)
    assert np.allclose(found, expected, atol=1e-9) or np.allclose(found, -expected, atol=1e-9)
    assert found[3] >= 0.0
    assert np.allclose(matrix[0] @ matrix[0].T, np.eye(3), atol=1e-12)
    assert math.isclose(float(np.linalg.det(matrix[0])), 1.0, abs_tol=1e-12)


def test_the_quaternion_of_a_known_turn() -> None:
    """A quarter turn about z rotates x to y."""
    matrix = np.array([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]])
    assert np.allclose(to_quaternions(matrix), [[0.0, 0.0, HALF, HALF]])


@given(
    st.tuples(part, part, part).filter(lambda v: math.hypot(*v) > 0.1),
    st.tuples(part, part, part).filter(lambda v: math.hypot(*v) > 0.1),
)
def test_frames_are_right_handed_for_each_normal_and_wish(normal: Vector, wish: Vector) -> None:
    z = np.array([normal]) / math.hypot(*normal)
    for wanted in (np.array([wish]), z, -z):
        (axes,) = frames_of(z, wanted)
        assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-6)
        assert math.isclose(float(np.linalg.det(axes)), 1.0, abs_tol=1e-6)
        assert np.allclose(axes[:, 2], z[0])


def test_stand_off_poses_are_in_front_of_the_surface() -> None:
    """The pose looks along the frame's x axis, so it stands off along negative x."""
    first = pose(orientation=(0.0, HALF, 0.0, HALF))
    assert np.allclose(first.axes()[:, 2], [1.0, 0.0, 0.0])
    here, near, far = stand_off(first, [0.0, 0.1, 0.25])
    assert here.position == pytest.approx((1.0, 2.0, 0.8))
    assert near.position == pytest.approx((0.9, 2.0, 0.8))
    assert far.position == pytest.approx((0.75, 2.0, 0.8))
    assert {found.orientation for found in (near, far)} == {first.orientation}
    assert {(found.frame, found.stamp, found.source) for found in (here, near, far)} == {("map", (3, 4), Source.BOX)}
    assert near.uncertainty is not None
    assert near.uncertainty.position == pytest.approx(math.hypot(0.002, 0.1 * 0.05))
    assert near.uncertainty.angle == 0.05


@pytest.mark.parametrize("distance", [-0.1, math.nan, math.inf])
def test_a_distance_that_is_none_has_no_stand_off_pose(distance: float) -> None:
    good, bad = stand_off(pose(), [0.1, distance])
    assert good.available
    assert (bad.reason, bad.uncertainty) == (Unavailable.BAD_DISTANCE, None)
    assert np.isnan([*bad.position, *bad.orientation]).all()


def test_derived_poses_keep_the_reason() -> None:
    missing = pose().without(Unavailable.HOLE)
    derived = [
        *stand_off(missing, [0.1, 0.2]),
        floor_pose(missing, FloorPlane(), 1.0),
        missing.moved(Transform(IDENTITY, (1, 1, 1)), "odom"),
    ]
    assert {found.reason for found in derived} == {Unavailable.HOLE}
    assert all(np.isnan([*found.position, *found.orientation]).all() for found in derived)
    assert derived[-1].frame == "odom"


def test_a_pose_on_the_floor_faces_the_point() -> None:
    """The robot is at the origin, 5 m from the foot of the point, in the direction (3, 4)."""
    found = floor_pose(pose((3.0, 4.0, 0.8)), FloorPlane(), 1.0, robot=(0.0, 0.0, 0.3))
    assert found.position == pytest.approx((2.4, 3.2, 0.0))
    assert np.allclose(found.axes()[:, 0], [0.6, 0.8, 0.0])
    assert np.allclose(found.axes()[:, 2], [0.0, 0.0, 1.0])
    assert (found.source, found.frame, found.stamp) == (Source.FLOOR, "map", (3, 4))
    assert found.uncertainty is not None


def test_a_pose_on_the_floor_in_the_optical_frame() -> None:
    """The camera is 1 m above the floor and looks horizontally: y points down, so the floor's normal is -y."""
    target = replace(pose((0.5, 0.2, 2.0)), frame="camera_optical")
    found = floor_pose(target, FloorPlane((0.0, -1.0, 0.0), -1.0), 0.6)
    x, _, z = found.axes().T
    assert found.position[1] == pytest.approx(1.0)
    assert math.hypot(found.position[0] - 0.5, found.position[2] - 2.0) == pytest.approx(0.6)
    assert np.allclose(z, [0.0, -1.0, 0.0])
    assert np.allclose(np.cross([0.5, 0.0, 2.0], x), 0.0, atol=1e-9)
    assert x[2] > 0.0
    assert math.isclose(float(np.linalg.det(found.axes())), 1.0, abs_tol=1e-9)


@pytest.mark.parametrize(
    ("floor", "distance", "robot", "position", "reason"),
    [
        (FloorPlane((0.0, 0.0, 2.0)), 1.0, (0.0, 0.0, 0.0), (1.0, 0.0, 1.0), Unavailable.BAD_PLANE),
        (FloorPlane((0.0, 0.0, math.nan)), 1.0, (0.0, 0.0, 0.0), (1.0, 0.0, 1.0), Unavailable.BAD_PLANE),
        (FloorPlane(offset=math.inf), 1.0, (0.0, 0.0, 0.0), (1.0, 0.0, 1.0), Unavailable.BAD_PLANE),
        (FloorPlane(), 0.0, (0.0, 0.0, 0.0), (1.0, 0.0, 1.0), Unavailable.BAD_DISTANCE),
        (FloorPlane(), math.nan, (0.0, 0.0, 0.0), (1.0, 0.0, 1.0), Unavailable.BAD_DISTANCE),
        (FloorPlane(), 1.0, (math.nan, 0.0, 0.0), (1.0, 0.0, 1.0), Unavailable.NOT_FINITE),
        (FloorPlane(), 1.0, (0.0, 0.0, 0.0), (1.0, 0.0, -0.5), Unavailable.BELOW_FLOOR),
        (FloorPlane(), 1.0, (1.0, 0.0, 0.0), (1.0, 0.0, 1.0), Unavailable.NO_DIRECTION),
    ],
)
def test_a_pose_on_the_floor_that_is_impossible_has_its_reason(
    floor: FloorPlane, distance: float, robot: Vector, position: Vector, reason: Unavailable
) -> None:
    found = floor_pose(pose(position), floor, distance, robot)
    assert (found.reason, found.uncertainty) == (reason, None)
    assert np.isnan([*found.position, *found.orientation]).all()


def test_a_moved_pose_has_the_axes_of_the_other_frame() -> None:
    """base is 1 m above the floor of map, and turned by a quarter about z."""
    moved = pose((2.0, 0.0, 0.0)).moved(Transform((0.0, 0.0, HALF, HALF), (0.0, 0.0, 1.0)), "map")
    assert moved.position == pytest.approx((0.0, 2.0, 1.0))
    assert np.allclose(moved.axes()[:, 0], [0.0, 1.0, 0.0])
    assert moved.uncertainty == pose().uncertainty
