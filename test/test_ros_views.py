"""Views of answers over DDS: markers, paths and poses at the positions of objects, and overlays for subscribers."""

import json
import math
from typing import Any

import cv2
import numpy as np
import pytest
from depth_rig import Before, in_model, lens_of, looking, points_text, position
from geometry_msgs.msg import PoseArray
from nav_msgs.msg import Path
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_rig import Rig, now, scripted
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from robobrain_ros.core import overlay
from robobrain_ros.core.messages.markers import PixelRays, Style
from robobrain_ros.core.query import Answer, Point, Task
from robobrain_ros.core.surfaces import Lifted
from robobrain_ros.demo.world import Scene, make_scene
from robobrain_ros.msg import Affordances, Outcome
from robobrain_ros.ros.transforms import Transform
from robobrain_ros.ros.views.markers import CurrentMarkers, to_markers, to_path, to_poses
from robobrain_ros.srv import Approach, Locate, PredictTrajectory, SetStandingQuery

LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
TURN = Transform((0.5, -0.5, 0.5, -0.5), (1.0, 2.0, 3.0))


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene(7)


def places(marker: Marker) -> np.ndarray:
    return np.array([(point.x, point.y, point.z) for point in marker.points])


def place(marker: Marker) -> np.ndarray:
    at = marker.pose.position
    return np.array((at.x, at.y, at.z))


def shown(messages: list[MarkerArray]) -> dict[tuple[str, int], Marker]:
    """Return what a viewer shows after it has received these messages."""
    there: dict[tuple[str, int], Marker] = {}
    for message in messages:
        for marker in message.markers:
            if marker.action == Marker.DELETEALL:
                there.clear()
            elif marker.action == Marker.DELETE:
                there.pop((marker.ns, marker.id), None)
            else:
                there[marker.ns, marker.id] = marker
    return there


def of_kind(messages: list[MarkerArray], namespace: str) -> list[Marker]:
    return [marker for (ns, _), marker in shown(messages).items() if ns == namespace]


def view(it: Rig) -> list[MarkerArray]:
    """Subscribe to the markers, and wait until the node has discovered the subscription."""
    messages = it.listen(MarkerArray, f"{it.name}/markers", LATCHED)
    it.until(lambda: messages, "the first look at what is shown")
    return messages


def point(it: Rig, instruction: str = "the things") -> Any:
    return it.call(Locate, "point", Locate.Request(instruction=instruction))


def in_sight(before: Before) -> None:
    before.image()
    before.info()
    before.depth()


def test_points_and_areas_are_shown_where_they_are(scene: Scene) -> None:
    """They have the frame and stamp of the result and a lifetime. The outline covers the box from the camera's point of view."""
    thing = scene.objects[0]
    box = [*in_model(*thing.box[:2]), *in_model(*thing.box[2:])]
    with looking(scene, points_text(scene.objects), str(box), marker_lifetime=2.5) as before:
        in_sight(before)
        messages = view(before.it)
        found = point(before.it).affordances
        before.it.until(lambda: of_kind(messages, "request/points"))
        spheres, labels = of_kind(messages, "request/points"), of_kind(messages, "request/labels")
        area = before.it.call(Locate, "ground", Locate.Request(instruction="the bowl")).affordances.areas[0]
        before.it.until(lambda: of_kind(messages, "request/areas"))
        (outline,), (label,) = of_kind(messages, "request/areas"), of_kind(messages, "request/labels")
        assert of_kind(messages, "request/points") == []
    assert [marker.type for marker in spheres] == [Marker.SPHERE] * len(scene.objects)
    for marker, part in zip(spheres, found.points, strict=True):
        assert marker.header == before.header
        assert marker.lifetime.sec + marker.lifetime.nanosec * 1e-9 == pytest.approx(2.5)
        assert place(marker) == pytest.approx(position(part))
    assert [marker.text for marker in labels] == [str(number) for number in range(1, len(spheres) + 1)]
    assert label.text == "the bowl"
    corners = lens_of(scene).project(places(outline))
    expected = [(area.u_min, area.v_min), (area.u_max, area.v_min), (area.u_max, area.v_max), (area.u_min, area.v_max)]
    assert corners == pytest.approx(np.array([*expected, expected[0]]), abs=1e-3)
    assert places(outline)[:, 2] == pytest.approx(area.position.z)


def test_a_label_of_any_text_is_shown_in_short(scene: Scene) -> None:
    """A lone surrogate cannot be sent, and a null character would end the text."""
    place_of_thing = list(in_model(*scene.objects[0].centre))
    text = json.dumps([{"point_2d": place_of_thing, "label": f"a\ud800\0{'x' * 5000}"}])
    with looking(scene, text) as before:
        heard = before.it.listen(MarkerArray, f"{before.it.name}/markers", LATCHED)
        before.image()
        before.info()
        before.depth()
        response = before.it.call(Locate, "point", Locate.Request(instruction="the thing"))
        before.it.until(lambda: of_kind(heard, "request/labels"), "the label")
    assert response.outcome.code == Outcome.OK
    (label,) = of_kind(heard, "request/labels")
    assert label.text.startswith("a?\N{REPLACEMENT CHARACTER}xxx")
    assert len(label.text) <= 40


def test_a_trajectory_is_a_line_with_directions_and_a_path(scene: Scene) -> None:
    """Late subscribers receive the path too. Its poses point in the direction of motion."""
    text = str([in_model(u, 400) for u in (200, 320, 440)])
    with looking(scene, text) as before:
        in_sight(before)
        messages = view(before.it)
        waypoints = before.it.call(
            PredictTrajectory, "trajectory", PredictTrajectory.Request(instruction="wipe")
        ).trajectory.waypoints
        paths = before.it.listen(Path, f"{before.it.name}/path", LATCHED)
        before.it.until(lambda: paths and of_kind(messages, "request/trajectory"))
        markers = {marker.type: marker for marker in of_kind(messages, "request/trajectory")}
        arrows = [marker for marker in of_kind(messages, "request/trajectory") if marker.type == Marker.ARROW]
    truth = np.array([position(waypoint) for waypoint in waypoints])
    assert places(markers[Marker.LINE_STRIP]) == pytest.approx(truth)
    assert places(markers[Marker.SPHERE_LIST]) == pytest.approx(truth)
    assert len(arrows) == 2
    for arrow, start, end in zip(arrows, truth[:-1], truth[1:], strict=True):
        tail, head = places(arrow)
        assert head == pytest.approx(end)
        assert np.cross(head - tail, end - start) == pytest.approx(np.zeros(3), abs=1e-9)
        assert np.dot(head - tail, end - start) > 0
    assert paths[0].header == before.header
    path = np.array([(p.pose.position.x, p.pose.position.y, p.pose.position.z) for p in paths[0].poses])
    assert path == pytest.approx(truth)


def test_points_are_poses_too(scene: Scene) -> None:
    with looking(scene, points_text(scene.objects)) as before:
        in_sight(before)
        found = point(before.it).affordances
        poses = before.it.listen(PoseArray, f"{before.it.name}/poses", LATCHED)
        before.it.until(lambda: poses)
    assert poses[0].header == before.header
    assert [(p.position.x, p.position.y, p.position.z) for p in poses[0].poses] == [position(part) for part in found.points]
    assert {p.orientation.w for p in poses[0].poses} == {1.0}


def test_the_approach_pose_is_an_arrow_with_the_open_fingers_of_a_gripper_that_fits(scene: Scene) -> None:
    """RViz has no display for nav_msgs/Goals. ``~/ground`` does not check the gripper, so its answer has the arrow only."""
    left, top, right, bottom = (float(side) for side in scene.objects[0].box)
    box = json.dumps([{"bbox_2d": [*in_model(left, top), *in_model(right, bottom)], "label": "thing"}])
    with looking(scene, box, box, "[]") as before:
        in_sight(before)
        messages = view(before.it)
        found = before.it.call(Approach, "approach", Approach.Request(instruction="the thing")).approach
        before.it.until(lambda: len(of_kind(messages, "request/approach")) == 2, "the arrow and the fingers")
        arrow, fingers = of_kind(messages, "request/approach")
        before.it.call(Locate, "ground", Locate.Request(instruction="the thing"))
        before.it.until(lambda: len(of_kind(messages, "request/approach")) == 1, "the arrow alone")
        goal = of_kind(messages, "request/approach")
        point(before.it)
        before.it.until(lambda: not shown(messages), "the end of the markers")
    assert arrow.header == found.pose.header
    pose, before_it = (np.array(position(each.pose)) for each in (found.pose, found.pre_grasp))
    assert places(arrow) == pytest.approx(np.array([before_it, pose]), abs=1e-6)
    along = (pose - before_it) / np.linalg.norm(pose - before_it)
    tip, root, other_root, other_tip = places(fingers)
    assert np.linalg.norm(other_tip - tip) == pytest.approx(found.opening)
    assert (tip + other_tip) / 2 == pytest.approx(pose + along * found.finger_depth, abs=1e-6)
    for start, end in ((root, tip), (other_root, other_tip)):
        assert end - start == pytest.approx(along * 0.055, abs=1e-6), "the length of the parameter gripper_finger_length"
    assert [marker.type for marker in goal] == [Marker.ARROW]


def test_without_depth_there_are_rays(scene: Scene) -> None:
    """The rays pass through the pixels and have the length of the parameter. With length 0 there are no rays."""
    with looking(scene, points_text(scene.objects), camera__use_depth=False, marker_ray_length=0.8) as before:
        before.image()
        before.info()
        messages = view(before.it)
        poses = before.it.listen(PoseArray, f"{before.it.name}/poses", LATCHED)
        found = point(before.it).affordances
        before.it.until(lambda: of_kind(messages, "request/points"))
        rays = of_kind(messages, "request/points")
        before.it.set_parameter("marker_ray_length", 0.0)
        point(before.it)
        before.it.until(lambda: not shown(messages), "the rays' end")
        assert poses == []
    assert len(rays) == len(found.points)
    for ray, part in zip(rays, found.points, strict=True):
        origin, end = places(ray)
        assert np.linalg.norm(end - origin) == pytest.approx(0.8)
        assert math.isnan(part.position.x)
        assert lens_of(scene).project([end])[0] == pytest.approx((part.u, part.v), abs=1e-3)


def test_each_query_supersedes_its_own_markers_only(scene: Scene) -> None:
    """An empty answer supersedes too. Late subscribers see the current markers and not the earlier ones."""
    with looking(scene, points_text(scene.objects[:2]), points_text(scene.objects[:1]), "[]") as before:
        in_sight(before)
        it = before.it
        messages = view(it)
        point(it)
        it.until(lambda: len(of_kind(messages, "request/points")) == 2)
        standing = SetStandingQuery.Request(name="mug", enabled=True, task="point", instruction="the mug")
        assert it.call(SetStandingQuery, "set_standing_query", standing).outcome.code == Outcome.OK
        before.header.stamp = now()
        in_sight(before)
        it.until(lambda: of_kind(messages, "mug/points"))
        assert len(of_kind(messages, "request/points")) == 2
        late = view(it)
        it.until(lambda: shown(late).keys() == shown(messages).keys(), "all that is shown")
        assert point(it).outcome.code == Outcome.NOTHING_FOUND
        it.until(lambda: not of_kind(messages, "request/points"), "the end of the request's markers")
        assert len(of_kind(messages, "mug/points")) == 1
        assert of_kind(messages, "request/labels") == []
        it.call(SetStandingQuery, "set_standing_query", SetStandingQuery.Request(name="mug"))
        it.until(lambda: not shown(messages), "the end of the removed query's markers")


def test_late_subscribers_get_the_overlay_raw_or_compressed() -> None:
    """The overlay is a JPEG of the same image, with the image's header."""
    with scripted("[(20, 20)]") as (it, _):
        point(it)
        compressed = it.listen(CompressedImage, f"{it.name}/overlay/compressed", LATCHED)
        it.until(lambda: compressed, "the compressed overlay")
        raw = it.listen(Image, f"{it.name}/overlay", LATCHED)
        it.until(lambda: raw, "the raw overlay")
        frame = it.node.cameras["camera"].newest
        assert frame is not None
    assert compressed[0].header == raw[0].header == frame.header
    assert compressed[0].format == "rgb8; jpeg compressed bgr8"
    decoded = cv2.imdecode(np.frombuffer(compressed[0].data, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    rgb = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
    drawn = np.frombuffer(raw[0].data, np.uint8).reshape(rgb.shape)
    assert np.abs(rgb.astype(int) - drawn).mean() < 12


def test_the_overlay_is_drawn_once_for_both_topics_and_only_for_subscribers(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[bool] = []
    draw = overlay.draw

    def counting(*args: Any, **options: Any) -> Any:
        drawn.append(options["thinking"])
        return draw(*args, **options)

    monkeypatch.setattr(overlay, "draw", counting)
    with scripted("[(20, 20)]", max_image_age=0.0) as (it, _):
        point(it)
        assert drawn == []
        raw = it.listen(Image, f"{it.name}/overlay")
        compressed = it.listen(CompressedImage, f"{it.name}/overlay/compressed")
        it.until(lambda: raw and compressed)
        before = len(drawn), len(raw), len(compressed)
        it.set_parameter("overlay_thinking", True)
        point(it)
        it.until(lambda: len(raw) > before[1] and len(compressed) > before[2])
        assert drawn[before[0] :] == [True]


def test_answers_to_requests_wait_while_another_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each answer gets its overlay: three requests at once give three images."""
    with scripted("[(20, 20)]", max_image_age=0.0) as (it, _):
        raw = it.listen(Image, f"{it.name}/overlay")
        point(it)
        it.until(lambda: raw)
        count = len(raw)
        futures = [it.send(Locate, "point", Locate.Request(instruction=f"thing {number}")) for number in range(3)]
        for future in futures:
            assert it.answer(future).outcome.code == Outcome.OK
        it.until(lambda: len(raw) == count + 3, "three images")


def test_the_overlay_shows_the_thinking_if_enabled() -> None:
    """It is below the instruction, which stays visible for any length of the thinking."""
    image = np.zeros((480, 640, 3), np.uint8)
    answer = Answer(Task.POINT, "", thinking="It is red. " * 200, points=(Point(320, 20),))
    without, with_it = overlay.draw(image, answer), overlay.draw(image, answer, thinking=True)
    assert not without[300:].any()
    assert with_it[300:].any()
    assert np.array_equal(without[:200], with_it[:200])
    first, second = (overlay.draw(image, answer, thinking=True, instruction=word) for word in ("mug", "cup"))
    changed = np.flatnonzero((first != second).any(axis=(1, 2)))
    assert 240 <= changed[0] < changed[-1] < 290


def test_a_view_that_fails_costs_no_answer(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def broken(*args: object, **options: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("robobrain_ros.ros.views.views.to_markers", broken)
    with scripted("[(20, 20)]", "[]", max_image_age=0.0) as (it, _):
        results = it.listen(Affordances, f"{it.name}/affordances")
        assert point(it).outcome.code == Outcome.OK
        it.until(lambda: results)
        assert point(it).outcome.code == Outcome.NOTHING_FOUND
    assert "An answer could not be shown" in capfd.readouterr().err


def test_everything_is_in_the_results_frame(scene: Scene) -> None:
    """This includes rays and outlines, if the positions have been transformed to another frame."""
    lens = lens_of(scene)
    pixels = np.array([(100.0, 50.0), (500.0, 400.0)])
    depths = lens.rays(pixels) * 0.7
    lifted = Lifted(TURN.apply(np.array([depths[0], (np.nan,) * 3])), ("", "none"), np.zeros(2, bool))
    answer = Answer(Task.POINT, "", points=tuple(Point(*pixel) for pixel in pixels))
    header = Header(frame_id="base_link")
    markers = to_markers(answer, header, "q", Style(0.4), rays=PixelRays(lens, TURN.apply), points=lifted)
    sphere, ray = (marker for marker in markers if marker.ns == "q/points")
    assert {marker.header.frame_id for marker in markers} == {"base_link"}
    assert place(sphere) == pytest.approx(TURN.apply(depths[:1])[0])
    origin, end = places(ray)
    assert origin == pytest.approx((1.0, 2.0, 3.0))
    along = lens.rays(pixels[1:])[0]
    assert end == pytest.approx(TURN.apply((along / np.linalg.norm(along) * 0.4)[None])[0])
    assert to_markers(answer, header, "q", Style(0.4)) == []


def test_a_path_points_along_the_motion() -> None:
    """This holds for each direction, including -x. Standing still keeps the direction, and unknown positions are omitted."""
    corners = np.array([(0, 0, 0), (1, 0, 0), (1, 1, 0), (np.nan,) * 3, (1, 1, -1), (1, 1, -1), (0, 1, -1)], float)
    poses = to_path(Header(frame_id="x"), corners).poses
    expected = [(1, 0, 0), (0, 1, 0), (0, 0, -1), (0, 0, -1), (-1, 0, 0), (-1, 0, 0)]
    assert len(poses) == len(expected)
    for stamped, direction in zip(poses, expected, strict=True):
        turn = stamped.pose.orientation
        axis = Transform((turn.x, turn.y, turn.z, turn.w), (0.0, 0.0, 0.0)).apply(np.array([[1.0, 0.0, 0.0]]))[0]
        assert axis == pytest.approx(direction)
    assert len(to_poses(Header(), corners).poses) == 6


def test_expired_markers_are_forgotten() -> None:
    """Late subscribers do not get markers whose lifetime has ended."""
    time = [0.0]
    current = CurrentMarkers(lambda: time[0])
    short = Marker(ns="a/points", id=0)
    short.lifetime.sec = 2
    current.show("a", [short])
    current.show("b", [Marker(ns="b/points", id=0)])
    assert len(current.everything().markers) == 3
    time[0] = 3.0
    assert [marker.ns for marker in current.everything().markers] == ["", "b/points"]
    assert [marker.action for marker in current.clear().markers] == [Marker.DELETEALL]


def test_the_deletion_of_all_markers_has_a_frame() -> None:
    """Foxglove reports a missing transform for a topic whose first marker has no frame."""
    assert CurrentMarkers(frame="map").everything().markers[0].header.frame_id == "map"
    current = CurrentMarkers(frame="map")
    current.show("a", [Marker(header=Header(frame_id="table"), ns="a/points")])
    for message in (current.everything(), current.clear(), current.everything()):
        assert (message.markers[0].action, message.markers[0].header.frame_id) == (Marker.DELETEALL, "table")


def labels(message: MarkerArray) -> list[Marker]:
    return [marker for marker in message.markers if marker.type == Marker.TEXT_VIEW_FACING and marker.action == Marker.ADD]


def label_at(query: str, x: float, text: str, number: int = 0, frame: str = "table") -> Marker:
    marker = Marker(header=Header(frame_id=frame), ns=f"{query}/labels", id=number, type=Marker.TEXT_VIEW_FACING, text=text)
    marker.pose.position.x, marker.scale.z = x, 0.02
    return marker


def test_labels_of_several_queries_at_one_place_are_stacked() -> None:
    """Each blank line below a text moves it up by half a line. All lines of a stack have one position."""
    current = CurrentMarkers()
    first = label_at("a", 1.0, "mug")
    assert labels(current.show("a", [first])) == [first]
    two_parts = [label_at("b", 1.01, "1", 0), label_at("b", 1.03, "2", 1), label_at("b", 1.2, "3", 2)]
    for _ in range(2):  # The answer replaces its own labels and is not stacked on them.
        shown_labels = labels(current.show("b", two_parts))
        assert [marker.text for marker in shown_labels] == ["1\n\n", "2\n\n\n\n", "3"]
        assert [marker.pose.position.x for marker in shown_labels] == [1.0, 1.0, 1.2]
    assert [marker.text for marker in two_parts] == ["1", "2", "3"]
    (moved_on,) = labels(current.show("a", [label_at("a", 1.02, "mug")]))
    assert (moved_on.text, moved_on.pose.position.x) == ("mug", 1.02)
    elsewhere = label_at("c", 1.0, "cup", frame="map")
    assert labels(current.show("c", [elsewhere])) == [elsewhere]


def test_a_label_takes_the_place_of_one_whose_lifetime_has_ended() -> None:
    time = [0.0]
    current = CurrentMarkers(lambda: time[0])
    first = label_at("a", 1.0, "mug")
    first.lifetime.sec = 2
    current.show("a", [first])
    second = label_at("b", 1.0, "cup")
    assert labels(current.show("b", [second]))[0].text == "cup\n\n"
    time[0] = 3.0
    assert labels(current.show("b", [second])) == [second]
