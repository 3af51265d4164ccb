"""The buffer of transforms: against analytic cases, and against tf2 where it is installed."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robobrain_ros.core.transforms import Transform, TransformBuffer, TransformError, between

SECOND = 10**9


def turn_z(degrees: float, *shift: float) -> Transform:
    half = math.radians(degrees) / 2.0
    x, y, z = shift or (0.0, 0.0, 0.0)
    return Transform((0.0, 0.0, math.sin(half), math.cos(half)), (x, y, z))


def moved(transform: Transform, *point: float) -> list[float]:
    return np.round(transform.apply(np.array([point])), 9)[0].tolist()


def arm() -> TransformBuffer:
    """The camera is 1 m in front of a wrist that turns from 0 to 90 degrees within two seconds, 2 m above the base."""
    buffer = TransformBuffer()
    buffer.add("wrist", "camera", 0, turn_z(0.0, 1.0, 0.0, 0.0), static=True)
    buffer.add("base", "wrist", 10 * SECOND, turn_z(0.0, 0.0, 0.0, 2.0))
    buffer.add("base", "wrist", 12 * SECOND, turn_z(90.0, 0.0, 0.0, 2.0))
    buffer.add("base", "tool", 0, turn_z(180.0, 0.0, 3.0, 0.0), static=True)
    return buffer


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(10.0, (1.0, 0.0, 2.0)), (12.0, (0.0, 1.0, 2.0)), (11.0, (math.sqrt(0.5), math.sqrt(0.5), 2.0))],
)
def test_transforms_are_chained_and_interpolated(seconds: float, expected: tuple[float, ...]) -> None:
    found = arm().lookup("base", "camera", round(seconds * SECOND))
    assert moved(found, 0.0, 0.0, 0.0) == pytest.approx(expected)


def test_a_path_over_a_common_ancestor_and_its_inverse() -> None:
    there = arm().lookup("tool", "camera", 10 * SECOND)
    assert moved(there, 0.0, 0.0, 0.0) == pytest.approx((-1.0, 3.0, 2.0))
    back = arm().lookup("camera", "tool", 10 * SECOND)
    assert moved(back, *moved(there, 0.3, 0.2, 0.1)) == pytest.approx((0.3, 0.2, 0.1))
    assert moved(arm().lookup("base", "base", 0), 1.0, 2.0, 3.0) == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("target", "source", "seconds", "reason"),
    [
        ("base", "camera", 9.9, "the earliest transform of frame 'wrist' has the stamp 10.000000 s, and the image 9.900000 s"),
        ("base", "camera", 12.1, "the latest transform of frame 'wrist' has the stamp 12.000000 s, and the image 12.100000 s"),
        ("map", "camera", 10.0, "there is no transform with the frame 'map'"),
        ("base", "gripper", 10.0, "there is no transform with the frame 'gripper'"),
        ("island", "camera", 10.0, "the frames 'camera' and 'island' are not connected"),
    ],
)
def test_a_missing_transform_has_a_reason(target: str, source: str, seconds: float, reason: str) -> None:
    buffer = arm()
    buffer.add("sea", "island", 0, turn_z(0.0), static=True)
    with pytest.raises(TransformError) as caught:
        buffer.lookup(target, source, round(seconds * SECOND))
    assert str(caught.value) == reason


def test_broken_transforms_and_loops_are_rejected() -> None:
    buffer = TransformBuffer()
    with pytest.raises(TransformError, match="the transform is broken"):
        buffer.add("a", "b", 0, Transform((0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0)))
    with pytest.raises(TransformError, match="connects the frames 'a' and 'a'"):
        buffer.add("a", "a", 0, turn_z(0.0))
    buffer.add("a", "b", 0, turn_z(0.0), static=True)
    buffer.add("b", "a", 0, turn_z(0.0), static=True)
    buffer.add("x", "y", 0, turn_z(0.0), static=True)
    with pytest.raises(TransformError, match="form a loop"):
        buffer.lookup("x", "b", 0)


def test_the_buffer_keeps_ten_seconds_in_any_order() -> None:
    buffer = TransformBuffer()
    for second in (3, 1, 2, 11, 4):
        buffer.add("base", "wrist", second * SECOND, turn_z(0.0, float(second), 0.0, 0.0))
    assert moved(buffer.lookup("base", "wrist", 5 * SECOND // 2), 0.0, 0.0, 0.0) == [2.5, 0.0, 0.0]
    buffer.add("base", "wrist", 13 * SECOND, turn_z(0.0, 13.0, 0.0, 0.0))
    with pytest.raises(TransformError, match="the earliest transform of frame 'wrist' has the stamp 3"):
        buffer.lookup("base", "wrist", 2 * SECOND)
    buffer.add("base", "wrist", 2 * SECOND, turn_z(0.0))
    with pytest.raises(TransformError, match="the earliest transform"):
        buffer.lookup("base", "wrist", 2 * SECOND)


unit = st.tuples(*[st.floats(-1.0, 1.0)] * 4).filter(lambda q: math.hypot(*q) > 0.1)
place = st.tuples(*[st.floats(-10.0, 10.0)] * 3)


def rigid(quaternion: tuple[float, ...], shift: tuple[float, float, float]) -> Transform:
    length = math.hypot(*quaternion)
    x, y, z, w = (value / length for value in quaternion)
    return Transform((x, y, z, w), shift)


@settings(deadline=None, max_examples=50)
@given(unit, place, unit, place, st.floats(0.0, 1.0))
def test_interpolation_has_a_constant_speed(
    q: tuple[float, ...], a: tuple[float, float, float], r: tuple[float, ...], b: tuple[float, float, float], part: float
) -> None:
    """The angle from the first transform grows linearly, on the shorter way, and the inverse undoes the transform."""
    before, after = rigid(q, a), rigid(r, b)

    def angle(one: Transform, other: Transform) -> float:
        return 2.0 * math.acos(min(abs(float(np.dot(one.quaternion, other.quaternion))), 1.0))

    found = between(before, after, part)
    assert math.hypot(*found.quaternion) == pytest.approx(1.0)
    assert angle(before, found) == pytest.approx(part * angle(before, after), abs=1e-6)
    assert found.translation == pytest.approx(np.add(a, np.multiply(part, np.subtract(b, a))))
    same = found.inverse().after(found)
    assert moved(same, 0.1, 0.2, 0.3) == pytest.approx((0.1, 0.2, 0.3))


def test_the_results_are_those_of_tf2() -> None:
    tf2 = pytest.importorskip("tf2_ros", reason="tf2_ros is not installed")
    from builtin_interfaces.msg import Time
    from geometry_msgs.msg import TransformStamped

    rng = np.random.default_rng(1)
    theirs, ours = tf2.Buffer(), TransformBuffer()
    links = [("map", "base", False), ("base", "arm", False), ("arm", "camera", True), ("base", "lidar", True)]
    for second in range(1, 9):
        for parent, child, static in links:
            transform = rigid(tuple(rng.normal(size=4)), tuple(rng.normal(size=3)))
            message = TransformStamped(child_frame_id=child)
            message.header.frame_id, message.header.stamp = parent, Time(sec=second)
            turn, shift = message.transform.rotation, message.transform.translation
            turn.x, turn.y, turn.z, turn.w = transform.quaternion
            shift.x, shift.y, shift.z = transform.translation
            (theirs.set_transform_static if static else theirs.set_transform)(message, "test")
            ours.add(parent, child, second * SECOND, transform, static=static)
    for target, source in (("map", "camera"), ("camera", "map"), ("lidar", "camera"), ("arm", "arm")):
        for nanoseconds in rng.integers(SECOND, 8 * SECOND, 50).tolist():
            stamp = Time(sec=nanoseconds // SECOND, nanosec=nanoseconds % SECOND)
            expected = theirs.lookup_transform(target, source, stamp).transform
            found = ours.lookup(target, source, nanoseconds)
            turn, shift = expected.rotation, expected.translation
            assert abs(np.dot(found.quaternion, (turn.x, turn.y, turn.z, turn.w))) == pytest.approx(1.0)
            assert found.translation == pytest.approx((shift.x, shift.y, shift.z))
        with pytest.raises(tf2.TransformException):
            theirs.lookup_transform("map", "camera", Time(sec=9))
        with pytest.raises(TransformError):
            ours.lookup("map", "camera", 9 * SECOND)
