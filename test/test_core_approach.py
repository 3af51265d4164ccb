"""Approach poses are accurate on noisy depth, follow the conventions, and bad input has a reason instead of a pose."""

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest
from approach_rig import View, ball, bar, box_of, camera_above, cylinder, middle_of, pen, render, view_of

from robobrain_ros.core.approach import ApproachPose, Limits, approach_poses
from robobrain_ros.core.formats.depth_checks import DepthRange
from robobrain_ros.core.geometry import PLUMB_BOB, CameraModel, GeometryError
from robobrain_ros.core.poses import Source, Unavailable
from robobrain_ros.core.query import Box, Point
from robobrain_ros.core.surfaces import DepthImage
from robobrain_ros.core.transforms import Transform
from robobrain_ros.demo.layout import KINDS
from robobrain_ros.demo.world import Scene, SceneObject, make_scene

SCENES, POINTS = 40, 8
"""Scenes of the demo, and random points on each object."""


def poses(view: View, depth: DepthImage | None, *requests: Point | Box, **options: object) -> tuple[ApproachPose, ...]:
    return approach_poses(view.camera, depth, requests, frame="camera_optical", stamp=(7, 9), **options)  # type: ignore[arg-type]


def one(view: View, depth: DepthImage | None, request: Point | Box, **options: object) -> ApproachPose:
    (found,) = poses(view, depth, request, **options)
    return found


def error(view: View, found: ApproachPose) -> float:
    """Return the angle in degrees between the approach direction and the true normal at the pose's pixel."""
    u, v = (round(value) for value in found.pixel)
    return math.degrees(math.acos(np.clip(-view.normals[v, u] @ found.pose.axes()[:, 2], -1.0, 1.0)))


@dataclass(frozen=True)
class Case:
    """An answer about an object of the demo: the error is NaN if the pose is unavailable or not on the object."""

    thing: SceneObject
    found: ApproachPose
    error: float


@dataclass(frozen=True)
class Cases:
    views: list[tuple[Scene, View, DepthImage]]
    boxes: list[Case]
    points: list[Case]


@pytest.fixture(scope="module")
def cases() -> Cases:
    """The bounding boxes of all objects, and random points on them, in scenes with the noise of a depth camera."""
    views: list[tuple[Scene, View, DepthImage]] = []
    boxes: list[Case] = []
    points: list[Case] = []
    for seed in range(1000, 1000 + SCENES):
        scene = make_scene(seed)
        view = view_of(scene)
        depth = view.measured(seed)
        views.append((scene, view, depth))
        rng = np.random.default_rng(seed)
        requests: list[Point | Box] = []
        things = []
        for thing in scene.objects:
            rows, columns = np.nonzero(view.mask == thing.id)
            chosen = rng.integers(0, len(rows), POINTS)
            requests += [Box(*thing.box), *(Point(float(columns[k]), float(rows[k])) for k in chosen)]
            things += [thing] * (1 + POINTS)
        for request, thing, found in zip(requests, things, poses(view, depth, *requests), strict=True):
            on_thing = found.pose.available and view.mask[round(found.pixel[1]), round(found.pixel[0])] == thing.id
            case = Case(thing, found, error(view, found) if on_thing else math.nan)
            (boxes if isinstance(request, Box) else points).append(case)
    return Cases(views, boxes, points)


@pytest.mark.parametrize("kind", KINDS)
def test_normals_in_boxes_are_accurate(cases: Cases, kind: str) -> None:
    errors = np.array([case.error for case in cases.boxes if case.thing.kind == kind])
    assert len(cases.boxes) >= 120
    assert len(errors) >= 25
    assert np.isfinite(errors).mean() >= 0.9
    known = errors[np.isfinite(errors)]
    assert np.median(known) <= 10.0
    assert np.percentile(known, 95) <= 25.0


@pytest.mark.parametrize("kind", KINDS)
def test_normals_at_random_points_are_accurate(cases: Cases, kind: str) -> None:
    """Points are anywhere on the visible surface, also at edges, rims and handles, where the pose may be unavailable."""
    errors = np.array([case.error for case in cases.points if case.thing.kind == kind])
    assert len(cases.points) >= 1000
    assert np.isfinite(errors).mean() >= 0.5
    known = errors[np.isfinite(errors)]
    assert np.median(known) <= 10.0
    assert np.percentile(known, 95) <= 25.0


def test_most_normals_are_within_two_standard_deviations(cases: Cases) -> None:
    known = [case for case in cases.boxes + cases.points if not math.isnan(case.error)]
    angles = [math.degrees(case.found.pose.uncertainty.angle) for case in known if case.found.pose.uncertainty]
    assert len(angles) == len(known)
    within = np.array([case.error for case in known]) <= 2.0 * np.array(angles)
    assert within.mean() >= 0.8


def test_positions_are_on_the_surface(cases: Cases) -> None:
    scenes = {id(thing): view for scene, view, _ in cases.views for thing in scene.objects}
    errors = []
    for case in cases.boxes:
        if not math.isnan(case.error):
            view, (u, v) = scenes[id(case.thing)], case.found.pixel
            true = view.camera.positions([(u, v)], [view.depth[round(v), round(u)]])[0]
            errors.append(float(np.linalg.norm(true - case.found.pose.position)))
    assert np.percentile(errors, 95) <= 0.004


@pytest.mark.parametrize(("kind", "most"), [("ball", 0.015), ("block", 0.015)])
def test_widths_are_those_of_the_objects(cases: Cases, kind: str, most: float) -> None:
    """The width of a ball is its diameter, that of a cube its side, in each direction in which the cube is approached."""
    found = [case for case in cases.boxes if case.thing.kind == kind and case.found.pose.available]
    errors = np.array([case.found.width - case.thing.size[0] for case in found])
    assert np.percentile(np.abs(errors), 95) <= most
    assert all(case.found.length >= case.found.width > 0.0 for case in found)


def background_points(scene: Scene, count: int, seed: int) -> list[Point]:
    """Return random points on the table and the wall, at least two pixels from each object."""
    rng = np.random.default_rng(seed)
    thing = scene.mask > 0
    near = np.zeros_like(thing)
    for down in range(-2, 3):
        for across in range(-2, 3):
            near |= np.roll(thing, (down, across), (0, 1))
    rows, columns = np.nonzero(~near)
    return [Point(float(columns[k]), float(rows[k])) for k in rng.integers(0, len(rows), count)]


def test_points_on_the_background_have_no_pose(cases: Cases) -> None:
    """At most one of 100 is on a strip of the wall that is too small to recognize."""
    found = [
        pose.pose.reason
        for seed, (scene, view, depth) in enumerate(cases.views)
        for pose in poses(view, depth, *background_points(scene, 25, seed))
    ]
    assert found.count(None) <= 0.01 * len(found)
    assert found.count(Unavailable.BACKGROUND) >= 0.85 * len(found)


def test_the_background_has_poses_if_it_is_allowed(cases: Cases) -> None:
    """For example, to place an object on the table."""
    scene, view, depth = cases.views[0]
    found = poses(view, depth, *background_points(scene, 25, 0), limits=Limits(reach=math.inf))
    assert sum(pose.pose.available for pose in found) >= 20


def test_a_box_over_two_objects_has_no_pose(cases: Cases) -> None:
    reasons = []
    for scene, view, depth in cases.views:
        boxes = [thing.box for thing in scene.objects]
        pairs = [(a, b) for index, a in enumerate(boxes) for b in boxes[:index]]
        unions = [Box(min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])) for a, b in pairs]
        reasons += [found.pose.reason for found in poses(view, depth, *unions)]
    assert len(reasons) >= 150
    assert reasons.count(None) <= 0.02 * len(reasons)
    assert reasons.count(Unavailable.SEVERAL_OBJECTS) >= 0.9 * len(reasons)


def test_a_reflective_object_has_no_pose(cases: Cases) -> None:
    """Its depth is 0 everywhere. The table around it is measured."""
    for scene, view, depth in cases.views[:10]:
        samples = depth.samples.copy()
        for thing in scene.objects:
            samples[view.mask == thing.id] = 0
        dark = DepthImage(samples)
        for thing in scene.objects:
            point, box = poses(view, dark, Point(*thing.centre), Box(*thing.box))
            assert point.pose.reason is Unavailable.HOLE
            assert box.pose.reason is Unavailable.HOLE


@pytest.fixture(scope="module")
def still() -> tuple[View, DepthImage]:
    view = render(ball(0.04, x=-0.12), bar(0.14, 0.03, 0.05, x=0.12, yaw=0.5))
    return view, view.measured(1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_request_with_nan_has_no_pose(still: tuple[View, DepthImage], value: float) -> None:
    view, depth = still
    requests: list[Point | Box] = [
        Point(value, 1.0),
        Point(1.0, value),
        Box(value, 1, 9, 9),
        Box(1, value, 9, 9),
        Box(1, 1, value, 9),
        Box(1, 1, 9, value),
    ]
    found = poses(view, depth, *requests, middle_of(view))
    assert [pose.pose.reason for pose in found] == [Unavailable.NOT_FINITE] * 6 + [None]


def test_requests_outside_of_the_image_have_no_pose(still: tuple[View, DepthImage]) -> None:
    view, depth = still
    outside_requests: list[Point | Box] = [Point(-3, 5), Point(5, 481), Point(1e300, 5), Box(-50, -50, -10, -10)]
    found = poses(view, depth, *outside_requests, Box(30, 30, 30, 30), Box(9, 9, 5, 20))
    outside, empty = [Unavailable.OUTSIDE] * 4, [Unavailable.EMPTY_BOX] * 2
    assert [pose.pose.reason for pose in found] == outside + empty


def test_without_depth_there_is_no_pose(still: tuple[View, DepthImage]) -> None:
    view, depth = still
    nothing = DepthImage(np.zeros_like(depth.samples))
    not_measured = DepthImage(np.full(view.depth.shape, np.nan, np.float32))
    for image in (None, nothing, not_measured):
        reasons = {found.pose.reason for found in poses(view, image, middle_of(view), box_of(view))}
        assert reasons == {Unavailable.NO_DEPTH}


@pytest.mark.parametrize("size", [3, 9, 40])
def test_a_hole_at_the_point_has_no_pose(still: tuple[View, DepthImage], size: int) -> None:
    view, depth = still
    point = middle_of(view)
    samples = depth.samples.copy()
    u, v = round(point.u) - size // 2, round(point.v) - size // 2
    samples[v : v + size, u : u + size] = 0
    assert one(view, DepthImage(samples), point).pose.reason is Unavailable.HOLE


def test_a_single_lost_pixel_is_filled(still: tuple[View, DepthImage]) -> None:
    view, _ = still
    point = middle_of(view)
    samples = view.depth.copy()
    samples[round(point.v), round(point.u)] = np.nan
    assert error(view, one(view, DepthImage(samples), point)) < 1.0


def test_a_surface_out_of_range_has_its_reason(still: tuple[View, DepthImage]) -> None:
    view, _ = still
    for limits, reason in ((DepthRange(3.0, 20.0), Unavailable.TOO_NEAR), (DepthRange(0.0, 0.2), Unavailable.TOO_FAR)):
        found = poses(view, DepthImage(view.depth, limits), middle_of(view), box_of(view))
        background = Unavailable.NO_DEPTH
        assert {pose.pose.reason for pose in found} <= {reason, background}
        assert reason in {pose.pose.reason for pose in found}


@pytest.mark.parametrize("seed", range(4))
def test_an_edge_of_a_block_has_no_pose(seed: int) -> None:
    """The camera moves edges by a pixel, so four rows are at the edge."""
    view = render(bar(0.08, 0.08, 0.06))
    rows = np.flatnonzero(view.mask[:, 320])
    fold = float(rows[np.flatnonzero(np.abs(np.diff(view.normals[rows, 320, 1])) > 0.1)[0]])
    offsets = (-1.0, 0.0, 1.0, 2.0, -10.0, 11.0)
    *at_edge, above, below = poses(view, view.measured(seed), *(Point(320.0, fold + offset) for offset in offsets))
    reasons = [found.pose.reason for found in at_edge]
    assert Unavailable.EDGE in reasons
    assert reasons.count(None) <= 2
    assert error(view, above) < 10.0
    assert error(view, below) < 10.0


def test_a_noise_free_ball_is_exact() -> None:
    view = render(ball(0.04))
    assert error(view, one(view, DepthImage(view.depth), middle_of(view))) < 0.5


@pytest.mark.parametrize("yaw", [-0.9, -0.3, 0.0, 0.4, 1.2])
@pytest.mark.parametrize("diameter", [0.010, 0.014, 0.020])
def test_a_pen_is_approached_at_a_right_angle_to_its_axis(yaw: float, diameter: float) -> None:
    """A pen of 14 cm, 5 cm above the table."""
    view = render(pen(0.14, diameter / 2, z=0.05, yaw=yaw))
    found = one(view, view.measured(5), box_of(view))
    assert found.pose.available
    assert found.elongated
    camera = camera_above()
    middle = np.array(camera.to_camera((0.0, 0.6, 0.05 + diameter / 2)))
    direction = np.array(camera.to_camera((math.cos(yaw), 0.6 + math.sin(yaw), 0.05 + diameter / 2))) - middle
    x, _, z = found.pose.axes().T
    assert abs(math.degrees(math.asin(z @ direction))) < 6.0
    assert math.degrees(math.acos(min(abs(x @ direction), 1.0))) < 6.0
    offset = np.array(found.pose.position) - middle
    assert np.linalg.norm(offset - (offset @ direction) * direction) < diameter / 2 + 0.004
    assert abs(found.width - diameter) < 0.010
    assert abs(found.length - 0.14) < 0.02


def test_a_thin_pen_at_a_point_has_no_normal() -> None:
    """A point has no axis. Four of the pen's five pixels are at its sides."""
    view = render(pen(0.14, 0.004, z=0.05, yaw=0.3))
    assert one(view, view.measured(5), middle_of(view)).pose.reason in (Unavailable.UNCERTAIN, Unavailable.EDGE, Unavailable.HOLE)


@pytest.mark.parametrize("radius", [0.02, 0.035, 0.05])
@pytest.mark.parametrize("seed", range(4))
def test_a_cylinder_is_approached_at_a_right_angle(radius: float, seed: int) -> None:
    view = render(cylinder(radius, 0.12, x=0.02 * seed, z=0.0))
    found = one(view, view.measured(seed), box_of(view))
    assert found.pose.available
    assert error(view, found) < 25.0


def test_frames_are_right_handed_and_follow_the_conventions(cases: Cases) -> None:
    available = [case.found for case in cases.boxes + cases.points if case.found.pose.available]
    assert len(available) > 500
    for found in available:
        pose = found.pose
        axes = pose.axes()
        x, y, z = axes.T
        assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-9)
        assert np.allclose(np.cross(z, x), y, atol=1e-9)
        assert z @ pose.position > 0.0, "z points away from the camera, into the surface"
        assert x[0] > -1e-9, "x points to the right in the image"
        assert math.isclose(math.hypot(*pose.orientation), 1.0, rel_tol=1e-9)
        assert (pose.frame, pose.stamp) == ("camera_optical", (7, 9))
        assert pose.uncertainty is not None
        assert pose.uncertainty.angle > 0.0
        assert pose.uncertainty.position > 0.0


def test_an_unavailable_pose_contains_no_numbers(cases: Cases) -> None:
    unavailable = [case.found for case in cases.points if not case.found.pose.available]
    assert unavailable
    for found in unavailable:
        assert found.pose.uncertainty is None
        assert isinstance(found.pose.reason, Unavailable)
        numbers = [*found.pose.position, *found.pose.orientation, *found.pixel, found.width, found.length]
        assert np.isnan(numbers).all()


def test_the_source_is_the_kind_of_the_request(still: tuple[View, DepthImage]) -> None:
    view, depth = still
    point, box, bad = poses(view, depth, middle_of(view), box_of(view), Box(math.nan, 1, 2, 3))
    assert [found.pose.source for found in (point, box, bad)] == [Source.POINT, Source.BOX, Source.BOX]
    assert math.isnan(point.width)
    assert box.width > 0.0


def numbers_of(found: ApproachPose) -> npt.NDArray[np.float64]:
    spread = found.pose.uncertainty
    spreads = (spread.position, spread.angle) if spread else (math.nan, math.nan)
    return np.array([*found.pose.position, *found.pose.orientation, *found.pixel, found.width, found.length, *spreads])


def test_a_batch_has_the_results_of_single_requests(cases: Cases) -> None:
    _, view, depth = cases.views[1]
    rows, columns = np.nonzero(view.mask >= 2)
    chosen = np.random.default_rng(2).integers(0, len(rows), 30)
    requests: list[Point | Box] = [Point(float(columns[k]), float(rows[k])) for k in chosen]
    requests += [Box(*thing.box) for thing in cases.views[1][0].objects]
    requests += [Point(math.nan, 0.0), Point(3.0, 3.0)]
    for request, found in zip(requests, poses(view, depth, *requests), strict=True):
        single = one(view, depth, request)
        assert (single.pose.reason, single.elongated) == (found.pose.reason, found.elongated)
        assert np.allclose(numbers_of(single), numbers_of(found), rtol=1e-6, atol=1e-7, equal_nan=True)


def test_no_requests_have_no_poses(still: tuple[View, DepthImage]) -> None:
    assert poses(*still) == ()


def test_poses_in_a_target_frame_are_the_moved_poses(still: tuple[View, DepthImage]) -> None:
    view, depth = still
    requests = (middle_of(view), box_of(view, 2))
    turn = np.array([0.2, -0.5, 0.3, 0.7])
    quaternion = tuple((turn / np.linalg.norm(turn)).tolist())
    transform = Transform(quaternion, (1.0, -2.0, 0.5))
    moved = poses(view, depth, *requests, transform=transform, target_frame="map")
    for there, here in zip(moved, poses(view, depth, *requests), strict=True):
        expected = here.pose.moved(transform, "map")
        assert there.pose.frame == expected.frame == "map"
        assert np.allclose(there.pose.position, expected.position)
        assert np.allclose(there.pose.axes(), expected.axes())
        # The rotation of a vector by a quaternion, by the formula of Rodrigues.
        axis, w, z = np.array(quaternion[:3]), quaternion[3], here.pose.axes()[:, 2]
        assert np.allclose(there.pose.axes()[:, 2], z + 2.0 * np.cross(axis, np.cross(axis, z) + w * z))


BROKEN = [Transform((0, 0, 0, 0), (0, 0, 0)), Transform((0, 0, 0, 1), (math.nan, 0, 0)), Transform((0, 0, 0, 2), (0, 0, 0))]


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_transform_has_no_pose(still: tuple[View, DepthImage], broken: Transform) -> None:
    view, depth = still
    found = one(view, depth, middle_of(view), transform=broken, target_frame="map")
    assert (found.pose.reason, found.pose.frame) == (Unavailable.BAD_TRANSFORM, "map")
    assert one(view, depth, middle_of(view)).pose.moved(broken, "map").reason is Unavailable.BAD_TRANSFORM


def test_depth_of_half_the_size_gives_the_same_normal(still: tuple[View, DepthImage]) -> None:
    view, _ = still
    # The centre of each pixel is between four pixels of the image.
    half = view.depth.reshape(240, 2, 320, 2).mean(axis=(1, 3))
    found = one(view, DepthImage(half), middle_of(view))
    assert error(view, found) < 2.0
    other = replace(view.camera, width=480)
    with pytest.raises(GeometryError, match="aspect ratios differ"):
        approach_poses(other, DepthImage(half), [Point(1, 1)], frame="c", stamp=(0, 1))


def test_a_lens_with_distortion_gives_the_normal_of_the_plane() -> None:
    """A tilted plane, seen through a lens with barrel distortion."""
    camera = CameraModel(640, 480, 500.0, 500.0, 319.5, 239.5, PLUMB_BOB, (-0.25, 0.08, 0.001, -0.001, 0.0))
    normal = np.array([0.3, 0.5, 1.0]) / np.linalg.norm([0.3, 0.5, 1.0])
    columns, rows = np.meshgrid(np.arange(640.0), np.arange(480.0))
    rays = camera.rays(np.column_stack((columns.ravel(), rows.ravel())))
    depth = (0.8 / (rays @ normal)).reshape(480, 640).astype(np.float32)
    requests: list[Point | Box] = [Point(60, 60), Point(320, 240), Point(600, 400), Box(200, 150, 300, 260)]
    found = approach_poses(camera, DepthImage(depth), requests, frame="c", stamp=(0, 1), limits=Limits(reach=math.inf))
    for pose in found:
        assert pose.pose.available
        assert math.degrees(math.acos(min(pose.pose.axes()[:, 2] @ normal, 1.0))) < 1.0
        assert abs(normal @ pose.pose.position - 0.8) < 0.002
    bounded = approach_poses(camera, DepthImage(depth), requests, frame="c", stamp=(0, 1))
    assert {pose.pose.reason for pose in bounded} == {Unavailable.BACKGROUND}
