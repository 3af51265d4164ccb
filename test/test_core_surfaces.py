"""Pixels of an answer become positions on the visible surface, or NaN with a reason, and never use the background depth."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from depth_camera import measure
from hypothesis import given, settings
from hypothesis import strategies as st

from robobrain_ros.core.formats.depth_checks import DepthRange
from robobrain_ros.core.geometry import CameraModel, GeometryError
from robobrain_ros.core.query import Box, Point
from robobrain_ros.core.surfaces import (
    NO_OWN_DEPTH,
    OWN_OUT_OF_RANGE,
    TOO_FAR,
    TOO_NEAR,
    UNKNOWN,
    DepthImage,
    lift_boxes,
    lift_points,
    lift_waypoints,
)
from robobrain_ros.demo.world import make_scene

CAMERA = CameraModel(640, 480, 525.0, 525.0, 319.5, 239.5)


def flat(metres: float, width: int = 640, height: int = 480) -> npt.NDArray[np.float32]:
    return np.full((height, width), metres, np.float32)


def depth_at(samples: npt.NDArray[np.float32], *pixels: tuple[float, float]) -> list[float]:
    lifted = lift_points(CAMERA, DepthImage(samples), [Point(u, v) for u, v in pixels])
    return lifted.positions[:, 2].tolist()


def image(samples: npt.NDArray[np.generic], encoding: str, padding: int = 0, big: bool = False) -> DepthImage:
    rows = samples.astype(samples.dtype.newbyteorder(">" if big else "<"))
    line = rows.view(np.uint8).reshape(len(rows), -1)
    data = np.pad(line, ((0, 0), (0, padding))).tobytes()
    return DepthImage.read(
        data, width=rows.shape[1], height=rows.shape[0], step=line.shape[1] + padding, encoding=encoding, big_endian=big
    )


@pytest.mark.parametrize("padding", [0, 3, 8])
@pytest.mark.parametrize("big", [False, True])
def test_both_encodings_become_metres(padding: int, big: bool) -> None:
    """Millimetres with 0 and 65535 for invalid, and metres with NaN, -Inf and Inf for invalid, with any padding or byte order."""
    millimetres = image(np.array([[1500, 0, 65535], [1, 2, 19999]], np.uint16), "16UC1", padding, big).metres()
    assert millimetres.dtype == np.float32
    assert np.allclose(millimetres, [[1.5, math.nan, math.nan], [0.001, 0.002, 19.999]], equal_nan=True)
    odd = np.array([[1.5, math.nan, math.inf], [-math.inf, 0.0, -1.0]], np.float32)
    metres = image(odd, "32FC1", padding, big).metres()
    assert np.allclose(metres, [[1.5, *[math.nan] * 2], [math.nan] * 3], equal_nan=True)


@pytest.mark.parametrize(
    ("encoding", "width", "height", "step", "size"),
    [("rgb8", 4, 2, 12, 24), ("16UC1", 4, 2, 7, 14), ("16UC1", 4, 2, 8, 15), ("32FC1", 0, 0, 0, 0), ("32FC1", 4, 2, 8, 16)],
)
def test_an_invalid_depth_image_is_rejected_with_a_sentence(encoding: str, width: int, height: int, step: int, size: int) -> None:
    with pytest.raises(GeometryError, match=r"^The depth image is .*\.$"):
        DepthImage.read(bytes(size), width=width, height=height, step=step, encoding=encoding)


@given(
    st.sampled_from([(0.5, 0.6), (0.5, 3.0), (1.0, 1.03), (1.0, 2.0), (2.0, 2.2)]),
    st.floats(0.0, 2 * math.pi),
    st.floats(0.0, 12.0),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.1, 0.3]),
)
@settings(max_examples=300, deadline=None)
def test_a_point_on_a_thing_never_gets_the_depth_of_what_is_behind(
    depths: tuple[float, float], angle: float, inward: float, seed: int, holes: float
) -> None:
    """At straight edges with any distance, noise and holes, the result is the depth of the object or NaN."""
    near, far = depths
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:480, :640]
    edge = (columns - 320) * math.cos(angle) + (rows - 240) * math.sin(angle)
    true = np.where(edge >= 0.0, near, far)
    noisy = (true + rng.normal(0.0, 1.425e-3, true.shape) * true**2).astype(np.float32)
    noisy[rng.random(true.shape) < holes] = np.nan
    u, v = round(320 + (inward + 0.71) * math.cos(angle)), round(240 + (inward + 0.71) * math.sin(angle))
    assert true[v, u] == near
    (found,) = depth_at(noisy, (u, v))
    assert math.isnan(found) or abs(found - near) < 0.01 * near
    assert holes > 0.0 or not math.isnan(found)


@pytest.mark.parametrize("size", [3, 4, 7, 12])
def test_a_thing_that_cannot_be_measured_does_not_get_the_depth_of_its_background(size: int) -> None:
    """Black, shiny or transparent objects have no valid depth, but their surroundings have."""
    samples = flat(1.0)
    samples[200 : 200 + size, 300 : 300 + size] = np.nan
    pixels = [(float(u), float(v)) for u in range(300, 300 + size) for v in range(200, 200 + size)]
    lifted = lift_points(CAMERA, DepthImage(samples), [Point(u, v) for u, v in pixels])
    assert np.isnan(lifted.positions).all()
    assert set(lifted.reasons) == {UNKNOWN}


def test_a_lost_pixel_is_filled_from_those_around_it() -> None:
    samples = flat(1.0)
    samples[240, 320] = np.nan
    assert depth_at(samples, (320, 240)) == pytest.approx([1.0])


def test_a_thing_of_three_pixels_is_met_and_a_single_wrong_sample_is_not_believed() -> None:
    """The wrong sample does not get the depth of its surroundings either."""
    samples = flat(1.0)
    samples[100:103, 100:103] = 0.6
    samples[300, 300] = 0.6
    on_thing, beside, wrong, near_it = depth_at(samples, (101, 101), (200, 200), (300, 300), (302, 300))
    assert (on_thing, beside, near_it) == pytest.approx((0.6, 1.0, 1.0))
    assert math.isnan(wrong)


@pytest.mark.parametrize(("value", "reason"), [(math.nan, UNKNOWN), (0.0, UNKNOWN), (-math.inf, TOO_NEAR), (math.inf, TOO_FAR)])
def test_nothing_valid_is_nan_with_the_reason(value: float, reason: str) -> None:
    samples = DepthImage(flat(value))
    points = lift_points(CAMERA, samples, [Point(320, 240), Point(0, 0)])
    boxes = lift_boxes(CAMERA, samples, [Box(100, 100, 200, 200), Box(5, 5, 6, 6)])
    for lifted in (points, boxes):
        assert np.isnan(lifted.positions).all()
        assert lifted.reasons[0] == reason


@given(
    st.floats(-0.5, 639.5), st.floats(-0.5, 479.5), st.sampled_from([(320, 240), (640, 480), (1280, 960), (160, 120), (423, 317)])
)
@settings(max_examples=200, deadline=None)
def test_depth_of_another_size_is_read_where_the_pixel_looks(u: float, v: float, size: tuple[int, int]) -> None:
    """A slanted plane is exact up to the image's border, because 1 / depth is linear in pixels."""
    width, height = size
    columns, rows = np.meshgrid((np.arange(width) + 0.5) * 640 / width - 0.5, (np.arange(height) + 0.5) * 480 / height - 0.5)
    samples = (1.0 / (0.8 + 0.0002 * columns + 0.0004 * rows)).astype(np.float32)
    (found,) = depth_at(samples, (u, v))
    # At the border, the window is cut in half, so the slope is limited.
    assert found == pytest.approx(1.0 / (0.8 + 0.0002 * u + 0.0004 * v), abs=3e-3)


def test_depth_of_other_proportions_is_another_view() -> None:
    for size in ((640, 360), (480, 640)):
        with pytest.raises(GeometryError, match="aspect ratios differ"):
            lift_points(CAMERA, DepthImage(flat(1.0, *size)), [Point(1, 1)])
    with pytest.raises(GeometryError, match="aspect ratios differ"):
        lift_boxes(CAMERA, DepthImage(flat(1.0, 640, 360)), [Box(1, 1, 2, 2)])


def test_empty_lists_are_accepted_and_invalid_pixels_are_nan() -> None:
    depth = DepthImage(flat(1.0))
    assert lift_points(CAMERA, depth, []).positions.shape == (0, 3)
    assert lift_boxes(CAMERA, depth, []).positions.shape == (0, 3)
    assert lift_waypoints(CAMERA, depth, []).positions.shape == (0, 3)
    assert np.isnan(lift_points(CAMERA, depth, [Point(math.nan, 1), Point(1e30, 1), Point(-50, 1)]).positions).all()


@pytest.mark.filterwarnings("error")
def test_a_box_far_beyond_the_image_is_nan() -> None:
    lifted = lift_boxes(CAMERA, DepthImage(flat(1.0)), [Box(0, 0, 3e38, 3e38), Box(-3e38, 1, 2, 2)])
    assert np.isnan(lifted.positions).all()


def test_a_box_has_the_depth_of_what_fills_it() -> None:
    """A round object in front of a wall. A slightly nearer object covers one of its sides."""
    rows, columns = np.mgrid[:480, :640]
    samples = np.where(np.hypot(columns - 300, rows - 200) < 50, 0.8, 1.5).astype(np.float32)
    samples[:, 252:256] = 0.5
    lifted = lift_boxes(CAMERA, DepthImage(samples), [Box(250, 150, 350, 250)])
    assert lifted.positions[0] == pytest.approx(CAMERA.positions([(300, 200)], [0.8])[0])
    ring = np.where(np.hypot(columns - 300, rows - 200) < 20, 1.5, samples).astype(np.float32)
    assert lift_boxes(CAMERA, DepthImage(ring), [Box(250, 150, 350, 250)]).positions[0, 2] == pytest.approx(0.8)


def test_a_box_of_what_cannot_be_measured_is_nan() -> None:
    samples = flat(1.0)
    samples[150:250, 250:350] = np.nan
    lifted = lift_boxes(CAMERA, DepthImage(samples), [Box(250, 150, 350, 250)])
    assert np.isnan(lifted.positions).all()
    assert lifted.reasons == (UNKNOWN,)


def test_gaps_of_a_trajectory_lie_on_the_line_between_their_neighbours_and_are_flagged() -> None:
    """Waypoints at the ends have no neighbour on one side, so they are not interpolated."""
    _rows, columns = np.mgrid[:480, :640]
    samples = (1.0 / (1.0 + 0.001 * columns)).astype(np.float32)
    samples[:, 190:410] = np.nan
    samples[:, :50] = np.nan
    lifted = lift_waypoints(CAMERA, DepthImage(samples), [Point(u, 100.0) for u in (10, 100, 200, 300, 400, 500)])
    assert lifted.interpolated.tolist() == [False, False, True, True, True, False]
    assert lifted.reasons == (UNKNOWN, "", "", "", "", "")
    assert np.isnan(lifted.positions[0]).all()
    line = CAMERA.positions(
        [(u, 100.0) for u in (100, 200, 300, 400, 500)], [1 / (1 + 0.001 * u) for u in (100, 200, 300, 400, 500)]
    )
    assert np.allclose(lifted.positions[1:], line, atol=1e-6)


def test_the_models_own_depth_gives_positions_without_a_depth_camera() -> None:
    """Waypoints of RoboBrain 2.5. Those without a depth are interpolated."""
    waypoints = [Point(100, 100, depth=1.0), Point(150, 100), Point(200, 100, depth=1.0), Point(250, 100, depth=-1.0)]
    lifted = lift_waypoints(CAMERA, None, waypoints)
    assert lifted.positions[:3, 2] == pytest.approx([1.0, 1.0, 1.0])
    assert lifted.interpolated.tolist() == [False, True, False, False]
    assert lifted.reasons == ("", "", "", "the model gave no depth")
    assert np.isnan(lift_waypoints(CAMERA, None, [Point(1, 1), Point(2, 2)]).positions).all()


def test_the_models_own_depth_is_kept_in_the_air_before_a_measured_surface() -> None:
    lifted = lift_waypoints(CAMERA, DepthImage(flat(1.0)), [Point(100, 100, depth=0.7), Point(200, 100)])
    assert lifted.positions[:, 2] == pytest.approx([0.7, 1.0])
    assert lift_points(CAMERA, None, [Point(100, 100, depth=0.7)]).positions[0, 2] == pytest.approx(0.7)
    assert lift_points(CAMERA, DepthImage(flat(1.0)), [Point(100, 100, depth=0.7)]).positions[0, 2] == pytest.approx(1.0)


def test_the_tabletop_world_through_a_depth_camera() -> None:
    """With the noise and holes of a structured-light camera, positions are on the true surfaces. See `measure`."""
    points, boxes, known = [], [], 0
    for seed in range(20):
        scene = make_scene(seed)
        lens = scene.intrinsics
        camera = CameraModel(scene.width, scene.height, lens.fx, lens.fy, lens.cx, lens.cy)
        depth = DepthImage(measure(scene.depth, lens.fx, seed))
        for thing in scene.objects:
            rows, columns = np.nonzero(scene.mask == thing.id)
            surface = camera.positions(np.column_stack((columns, rows)), scene.depth[rows, columns])
            chosen = np.random.default_rng(seed).choice(len(rows), 20)
            pixels = [Point(float(columns[i]), float(rows[i])) for i in chosen]
            position = lift_points(camera, depth, [Point(*thing.centre), *pixels]).positions
            points += [np.linalg.norm(surface - one, axis=1).min() for one in position if not np.isnan(one[0])]
            known += len(position)
            (centre,) = lift_boxes(camera, depth, [Box(*thing.box)]).positions
            boxes.append(np.linalg.norm(surface - centre, axis=1).min())
    assert len(points) > 0.85 * known, "most points have a depth"
    assert np.median(points) < 0.002
    assert np.percentile(points, 99) < 0.01
    assert np.max(boxes) < 0.02


def test_the_depth_camera_of_the_tests_is_as_bad_as_its_sources_say() -> None:
    """Noise of 1.425 mm at 1 m, and four times that at 2 m, with random holes and holes in shadows."""
    for metres in (1.0, 2.0):
        samples = DepthImage(measure(flat(metres), 525.0, 1)).metres()
        step = 2.85e-3 * metres**2
        noise = math.hypot(1.425e-3 * metres**2, step / math.sqrt(12))
        assert np.nanstd(samples) == pytest.approx(noise, rel=0.15)
        assert np.isnan(samples).mean() == pytest.approx(0.02, abs=0.005)
    step_edge = flat(2.0)
    step_edge[:, 300:400] = 1.0
    lost = (measure(step_edge, 525.0, 1) == 0)[:, 200:500].mean(axis=0) > 0.5
    assert lost.sum() == pytest.approx(525.0 * 0.075 * (1.0 - 0.5), abs=4)


@pytest.mark.parametrize(("metres", "size"), [(1.0, (640, 480)), (2.0, (640, 480)), (3.0, (640, 480)), (1.5, (320, 240))])
def test_a_floor_seen_along_its_length_is_one_surface(metres: float, size: tuple[int, int]) -> None:
    """From a height of 30 cm, each row is several centimetres farther than the row below. This is not an edge."""
    width, height = size
    rows = (np.arange(height) + 0.5) * 480 / height - 0.5
    floor = np.where(rows > 245, 0.3 * 525.0 / np.maximum(rows - 239.5, 1.0), np.inf)
    samples = np.broadcast_to(floor[:, None], (height, width))
    rng = np.random.default_rng(0)
    noisy = (samples + rng.normal(0.0, 1.425e-3, samples.shape) * np.where(np.isfinite(samples), samples, 1.0) ** 2).astype(
        np.float32
    )
    v = 239.5 + 0.3 * 525.0 / metres
    found = np.array(depth_at(noisy, *[(float(u), v) for u in range(100, 500, 10)]))
    assert np.median(found) == pytest.approx(metres, rel=0.01)
    assert np.abs(found - metres).max() < 0.05 * metres


INDOORS = DepthRange(0.0, 20.0)
HOLE = np.s_[200:260, 300:360]
IN_HOLE, BESIDE = (330.0, 230.0), (100.0, 100.0)


def noisy(metres: float) -> npt.NDArray[np.float32]:
    """Return a wall as a depth camera measures it."""
    return (flat(metres) + np.random.default_rng(0).normal(0.0, 2e-3, (480, 640)) * metres**2).astype(np.float32)


def lifted_z(depth: DepthImage) -> tuple[float, float, float]:
    """Return the depths of a point in the hole, of a box in it, and of a point next to it."""
    points = lift_points(CAMERA, depth, [Point(*IN_HOLE), Point(*BESIDE)]).positions[:, 2]
    (box,) = lift_boxes(CAMERA, depth, [Box(310, 210, 350, 250)]).positions
    return float(points[0]), float(box[2]), float(points[1])


@pytest.mark.parametrize("background", [0.8, 3.0])
@pytest.mark.parametrize("invalid", [0, 65535, 65534, 20000, 10000, 8000, 4095, 8191, 32767])
def test_what_a_driver_writes_for_no_measurement_is_no_depth_in_16_bits(invalid: int, background: float) -> None:
    """The hole contains an error value, the end of the scale, or the value at which the driver clamps."""
    samples = (noisy(background) * 1e3).astype(np.uint16)
    samples[HOLE] = invalid
    point, box, beside = lifted_z(image(samples, "16UC1").bounded(INDOORS))
    assert math.isnan(point)
    assert math.isnan(box)
    assert beside == pytest.approx(background, abs=0.02)


@pytest.mark.parametrize(
    "invalid", [0.0, -1.0, -0.001, math.nan, math.inf, -math.inf, 65.535, 65535.0, 1e10, 1000.0, 25.0, 10.0, 6.5535, 16.38375]
)
def test_what_a_driver_writes_for_no_measurement_is_no_depth_in_floats(invalid: float) -> None:
    samples = noisy(0.8)
    samples[HOLE] = invalid
    point, box, beside = lifted_z(image(samples, "32FC1").bounded(INDOORS))
    assert math.isnan(point)
    assert math.isnan(box)
    assert beside == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize(
    ("invalid", "encoding"), [(65535, "16UC1"), (10000, "16UC1"), (0, "16UC1"), (1e10, "32FC1"), (-1, "32FC1")]
)
def test_an_image_of_one_invalid_value_has_no_depth(invalid: float, encoding: str) -> None:
    samples = np.full((480, 640), invalid, np.uint16 if encoding == "16UC1" else np.float32)
    assert np.isnan(lifted_z(image(samples, encoding).bounded(INDOORS))).all()


@pytest.mark.parametrize("millimetres", [800.0, 150.0, 3000.0, 19000.0])
def test_floats_in_millimetres_are_named(millimetres: float) -> None:
    """Holes and a few samples that could be metres do not change this. No depth is used."""
    samples = noisy(1.0) * np.float32(millimetres)
    samples[:50] = 0.0
    samples[50:60] = np.nan
    samples[60:62] = 65535.0
    samples[62:63] = 30.0
    with pytest.raises(GeometryError, match=r"32FC1 with a median of .*: the values are millimetres") as named:
        image(samples, "32FC1").bounded(INDOORS)
    assert str(named.value).endswith(".")


@pytest.mark.parametrize("metres", [1, 3, 19])
def test_integers_in_metres_are_named(metres: int) -> None:
    samples = np.full((480, 640), metres, np.uint16)
    samples[:50] = 0
    with pytest.raises(GeometryError, match=f"16UC1 with a median of {metres}: the values are not millimetres"):
        image(samples, "16UC1")


@pytest.mark.parametrize("wrong", [1e-42, 6.9e-41, 1e-7])
def test_denormal_depths_are_invalid(wrong: float) -> None:
    """Floats in the other byte order than is_bigendian states are mostly denormal."""
    assert np.isnan(lifted_z(image(flat(wrong), "32FC1"))).all()
    assert np.isnan(lifted_z(image(flat(1.5).astype(">f4").view("<f4"), "32FC1"))).all()


@pytest.mark.parametrize("name", ["16uc1", "16UC1 ", "MONO16"])
def test_upper_case_and_blanks_of_a_depth_encoding_do_not_matter(name: str) -> None:
    assert lifted_z(image(np.full((480, 640), 1503, np.uint16), name)) == pytest.approx([1.503] * 3)


@pytest.mark.parametrize("metres", [0.3, 0.8, 3.0, 7.3, 12.3])
def test_a_measured_wall_keeps_its_depth(metres: float) -> None:
    """A wall without noise, as in a simulation, also keeps its depth."""
    for samples in (flat(metres), noisy(metres)):
        for depth in (image(samples, "32FC1"), image((samples * 1e3).round().astype(np.uint16), "16UC1")):
            assert lifted_z(depth.bounded(INDOORS)) == pytest.approx([metres] * 3, rel=0.05)


def test_a_wall_at_whole_metres_without_noise_is_believed_where_it_is_asked_for() -> None:
    depth = DepthImage(flat(5.0))
    assert np.isnan(lifted_z(depth.bounded(INDOORS))).all()
    assert lifted_z(depth.bounded(INDOORS, detect_clamp=False)) == pytest.approx([5.0] * 3)


def test_an_outdoor_sky_is_not_taken_for_millimetres() -> None:
    samples = noisy(3.0)
    samples[:300] = 1000.0
    lifted = lift_points(CAMERA, DepthImage(samples).bounded(INDOORS), [Point(320, 100), Point(320, 400)])
    assert lifted.reasons == (TOO_FAR, "")
    far = flat(150.3)
    assert lifted_z(DepthImage(far).bounded(DepthRange(0.0, 200.0))) == pytest.approx([150.3] * 3)


def test_depths_outside_of_the_range_say_on_which_side() -> None:
    """The end of the range is excluded, because a driver clamps depths there."""
    samples = noisy(0.8)
    samples[HOLE] = 0.05
    samples[50:150, 50:150] = 2.0
    depth = DepthImage(samples).bounded(DepthRange(0.1, 2.0))
    assert lift_points(CAMERA, depth, [Point(*IN_HOLE), Point(*BESIDE), Point(500, 400)]).reasons == (TOO_NEAR, TOO_FAR, "")


@pytest.mark.parametrize("own", [800.0, 25.0, 1e10, math.inf, 0.01])
def test_the_models_own_depth_keeps_to_the_range(own: float) -> None:
    limits = DepthRange(0.1, 20.0)
    for lifted in (
        lift_points(CAMERA, None, [Point(1, 1, depth=own), Point(2, 2, depth=19.0), Point(3, 3)], limits),
        lift_waypoints(CAMERA, None, [Point(1, 1, depth=own), Point(2, 2, depth=19.0), Point(3, 3)], limits),
    ):
        assert lifted.positions[1, 2] == pytest.approx(19.0)
        assert np.isnan(lifted.positions[[0, 2]]).all()
        assert lifted.reasons == (OWN_OUT_OF_RANGE, "", NO_OWN_DEPTH)
    measured = lift_waypoints(CAMERA, DepthImage(flat(1.0)), [Point(100, 100, depth=own)], limits)
    assert measured.positions[0, 2] == pytest.approx(1.0)
