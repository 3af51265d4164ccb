"""Views for late subscribers over DDS: they show the current state, and nothing of a superseded answer."""

from typing import Any

import numpy as np
import pytest
from depth_rig import Before, all_invalid, ask_point, in_model, lens_of, looking, points_text
from fakes import Script
from geometry_msgs.msg import PoseArray
from lifecycle_msgs.msg import Transition
from nav_msgs.msg import Path
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_rig import LIMIT, Rig, image_message, now, scripted
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from robobrain_ros.core.messages.markers import PixelRays, Style
from robobrain_ros.core.overlay import PALETTE
from robobrain_ros.core.query import Answer, Point, Task
from robobrain_ros.core.surfaces import Lifted
from robobrain_ros.demo.camera import CameraSettings, SceneMessages
from robobrain_ros.demo.world import Scene, make_scene
from robobrain_ros.msg import Outcome, QueryOptions
from robobrain_ros.ros.views.markers import CurrentMarkers, to_markers
from robobrain_ros.srv import Locate, PredictTrajectory, SetStandingQuery

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
TRAJECTORY = str([in_model(u, 400) for u in (200, 320, 440)])


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene(7)


def in_sight(before: Before) -> None:
    before.header = Header(stamp=now(), frame_id="camera_optical")
    before.image()
    before.info()
    before.depth()


def ask_trajectory(it: Rig) -> PredictTrajectory.Response:
    return it.call(PredictTrajectory, "trajectory", PredictTrajectory.Request(instruction="wipe"))


def poses_of(messages: list[Any]) -> list[int]:
    return [len(message.poses) for message in messages]


def seconds(moment: Any) -> float:
    return float(moment.sec + moment.nanosec * 1e-9)


FAILURES: dict[str, Any] = {
    "NOTHING_FOUND": "[]",
    "UNPARSABLE_ANSWER": "I do not know.",
    "ENGINE_FAILED": Script([RuntimeError("broken")]),
}


@pytest.mark.parametrize("outcome", FAILURES)
def test_a_failure_supersedes_the_target(scene: Scene, outcome: str) -> None:
    """~/poses, ~/path and ~/markers: late subscribers get no target to follow."""
    failure = FAILURES[outcome]
    with looking(scene, points_text(scene.objects[:1]), failure, TRAJECTORY, failure) as before:
        it = before.it
        in_sight(before)
        poses = it.listen(PoseArray, f"{it.name}/poses", LATCHED)
        paths = it.listen(Path, f"{it.name}/path", LATCHED)
        assert ask_point(it).outcome.code == Outcome.OK
        it.until(lambda: poses_of(poses) == [1], "the poses")
        assert ask_point(it).outcome.code == getattr(Outcome, outcome)
        it.until(lambda: poses_of(poses) == [1, 0], "the empty poses")
        assert ask_trajectory(it).outcome.code == Outcome.OK
        it.until(lambda: poses_of(paths) == [3], "the path")
        assert ask_trajectory(it).outcome.code == getattr(Outcome, outcome)
        it.until(lambda: poses_of(paths) == [3, 0], "the empty path")
        late_poses = it.listen(PoseArray, f"{it.name}/poses", LATCHED)
        late_paths = it.listen(Path, f"{it.name}/path", LATCHED)
        it.until(lambda: late_poses and late_paths, "the latched messages")
        assert poses_of(late_poses) == poses_of(late_paths) == [0]
        assert late_poses[0].header == late_paths[0].header == before.header
        markers = it.listen(MarkerArray, f"{it.name}/markers", LATCHED)
        it.until(lambda: markers, "the markers for a late subscriber")
        assert [marker.action for marker in markers[-1].markers] == [Marker.DELETEALL]


def test_an_answer_to_another_task_supersedes_the_target(scene: Scene) -> None:
    """~/path, ~/poses and ~/markers never show two answers of one query. A bounding box has no pose and also supersedes them."""
    thing = scene.objects[0]
    box = str([*in_model(*thing.box[:2]), *in_model(*thing.box[2:])])
    with looking(scene, TRAJECTORY, points_text(scene.objects[:1]), TRAJECTORY, points_text(scene.objects[:1]), box) as before:
        it = before.it
        in_sight(before)
        poses = it.listen(PoseArray, f"{it.name}/poses", LATCHED)
        paths = it.listen(Path, f"{it.name}/path", LATCHED)
        ask_trajectory(it)
        it.until(lambda: poses_of(paths) == [3], "the path")
        ask_point(it)
        it.until(lambda: poses_of(paths) == [3, 0] and poses_of(poses) == [1], "the poses instead of the path")
        ask_trajectory(it)
        it.until(lambda: poses_of(paths) == [3, 0, 3] and poses_of(poses) == [1, 0], "the path instead of the poses")
        ask_point(it)
        it.until(lambda: poses_of(paths)[3:] == [0] and poses_of(poses)[2:] == [1], "the poses again")
        assert it.call(Locate, "ground", Locate.Request(instruction="it")).outcome.code == Outcome.OK
        it.until(lambda: poses_of(poses)[3:] == [0], "the empty poses")
        assert {message.header.frame_id for message in (*poses, *paths)} == {"camera_optical"}


def test_a_standing_query_keeps_its_target_when_another_task_is_requested(scene: Scene) -> None:
    """Each query has its own answer: a request for points does not change the path of a standing query."""
    with looking(scene, TRAJECTORY, max_image_age=0.0) as before:
        it = before.it
        paths = it.listen(Path, f"{it.name}/path", LATCHED)
        in_sight(before)
        standing = SetStandingQuery.Request(name="wipe", enabled=True, task="trajectory", instruction="wipe")
        assert it.call(SetStandingQuery, "set_standing_query", standing).outcome.code == Outcome.OK
        while not paths:  # The query may ask about the first image before its depth arrives.
            in_sight(before)
        poses = it.listen(PoseArray, f"{it.name}/poses", LATCHED)
        assert ask_point(it).outcome.code == Outcome.OK
        it.until(lambda: poses, "the poses of the request")
        assert set(poses_of(paths)) == {3}


def test_no_image_supersedes_too_and_a_rejected_request_does_not(scene: Scene) -> None:
    """The camera has stopped, so the target may have moved. A rejected request of another client does not concern the target."""
    with looking(scene, points_text(scene.objects[:1]), max_image_age=0.0) as before:
        it = before.it
        in_sight(before)
        poses = it.listen(PoseArray, f"{it.name}/poses", LATCHED)
        ask_point(it)
        it.until(lambda: poses_of(poses) == [1])
        wrong = Locate.Request(instruction="x", options=QueryOptions(camera="nowhere"))
        assert it.call(Locate, "point", wrong).outcome.code == Outcome.BAD_REQUEST
        assert it.set_parameter("max_image_age", 0.001).successful
        assert ask_point(it).outcome.code == Outcome.STALE_IMAGE
        it.until(lambda: len(poses) > 1, "the empty poses")
        assert poses_of(poses) == [1, 0]
        assert poses[1].header.frame_id == "camera_optical"


def test_an_answer_without_positions_supersedes_the_target(scene: Scene) -> None:
    """Its points have no depth. A late subscriber must not get those of the previous answer."""
    with looking(scene, points_text(scene.objects[:1])) as before:
        it = before.it
        in_sight(before)
        poses = it.listen(PoseArray, f"{it.name}/poses", LATCHED)
        ask_point(it)
        it.until(lambda: poses_of(poses) == [1])
        before.header = Header(stamp=now(), frame_id="camera_optical")
        before.image()
        all_invalid(before)
        assert ask_point(it).outcome.code == Outcome.OK
        it.until(lambda: len(poses) > 1, "the empty poses")
        assert poses_of(poses) == [1, 0]
        assert poses[1].header == before.header


def set_query(before: Before) -> None:
    """Set a standing query for the mug on each image, and publish two images for it."""
    in_sight(before)
    standing = SetStandingQuery.Request(name="mug", enabled=True, task="point", instruction="the mug")
    assert before.it.call(SetStandingQuery, "set_standing_query", standing).outcome.code == Outcome.OK
    in_sight(before)


def show_standing_target(before: Before) -> list[PoseArray]:
    """Set a standing query and wait for its target. Return the list of messages of ~/poses, which continues to grow."""
    poses = before.it.listen(PoseArray, f"{before.it.name}/poses", LATCHED)
    set_query(before)
    while not poses:  # The query may ask about the first image before its depth arrives.
        in_sight(before)
    return poses


def test_each_query_supersedes_its_own_target_only(scene: Scene) -> None:
    """A standing query that finds nothing does not change a request's poses."""
    with looking(scene, points_text(scene.objects[:1]), "[]") as before:
        it = before.it
        in_sight(before)
        asked = before.header
        poses = it.listen(PoseArray, f"{it.name}/poses", LATCHED)
        overlays = it.listen(Image, f"{it.name}/overlay")
        ask_point(it)
        it.until(lambda: poses_of(poses) == [1])
        set_query(before)
        it.until(lambda: any(overlay.header != asked for overlay in overlays), "an answer of the standing query")
        assert poses_of(poses) == [1]
        assert ask_point(it).outcome.code == Outcome.NOTHING_FOUND
        it.until(lambda: poses_of(poses) == [1, 0], "the empty poses")


def test_a_removed_query_takes_its_target_away(scene: Scene) -> None:
    with looking(scene, points_text(scene.objects[:1])) as before:
        it = before.it
        poses = show_standing_target(before)
        it.call(SetStandingQuery, "set_standing_query", SetStandingQuery.Request(name="mug"))
        it.until(lambda: poses_of(poses)[-1] == 0, "the empty poses")
        assert poses[-1].header.frame_id == "camera_optical"


@pytest.mark.parametrize("change", [{"instruction": "the bowl"}, {"task": "ask"}, {"task": "trajectory"}])
def test_a_replaced_query_takes_its_target_away(scene: Scene, change: dict[str, str]) -> None:
    """The old target does not belong to the new query, whose first answer may take long. A new rate changes nothing."""
    with looking(scene, points_text(scene.objects[:1]), max_image_age=0.0) as before:
        it = before.it
        poses = show_standing_target(before)
        described: dict[str, Any] = {"name": "mug", "enabled": True, "task": "point", "instruction": "the mug"}
        it.call(SetStandingQuery, "set_standing_query", SetStandingQuery.Request(**described, rate=0.01))
        count = len(poses)
        changed = SetStandingQuery.Request(**(described | change), rate=0.01)
        assert it.call(SetStandingQuery, "set_standing_query", changed).outcome.code == Outcome.OK
        it.until(lambda: len(poses) > count, "the empty poses")
        assert poses_of(poses)[count - 1 :] == [1, 0]


def test_the_target_of_a_query_ends_with_its_camera(scene: Scene) -> None:
    """Without the camera the query does not ask again, so nothing else would supersede its target."""
    with looking(scene, points_text(scene.objects[:1])) as before:
        poses = show_standing_target(before)
        assert before.it.set_parameter("max_image_age", 0.001).successful
        before.it.until(lambda: poses_of(poses)[-1] == 0, "the empty poses")
        assert poses[-1].header.frame_id == "camera_optical"


def test_the_target_of_a_query_ends_with_the_model(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    with looking(scene, points_text(scene.objects[:1])) as before:
        poses = show_standing_target(before)
        monkeypatch.setattr(before.it.node._standing, "_ready", lambda task: False)
        before.it.until(lambda: poses_of(poses)[-1] == 0, "the empty poses")


def test_an_inactive_node_shows_no_target(scene: Scene) -> None:
    """A robot must not follow the last target of a node that has stopped asking, and a viewer must not show it for ever."""
    with looking(scene, TRAJECTORY, points_text(scene.objects[:1])) as before:
        it = before.it
        in_sight(before)
        paths = it.listen(Path, f"{it.name}/path", LATCHED)
        ask_trajectory(it)
        poses = show_standing_target(before)
        assert (poses_of(paths), poses_of(poses)[-1]) == ([3], 1)
        assert it.transition(Transition.TRANSITION_DEACTIVATE)
        it.until(lambda: poses_of(poses)[-1] == 0 and poses_of(paths) == [3, 0], "the empty messages")


def test_the_end_of_the_node_takes_the_targets_away(scene: Scene) -> None:
    """A viewer that continues to run must not show the last target for ever."""
    with looking(scene, points_text(scene.objects[:1])) as before:
        it = before.it
        in_sight(before)
        poses = it.listen(PoseArray, f"{it.name}/poses", LATCHED)
        ask_point(it)
        it.until(lambda: poses_of(poses) == [1])
        assert it.transition(Transition.TRANSITION_ACTIVE_SHUTDOWN)
        it.until(lambda: poses_of(poses) == [1, 0], "the empty poses")


def test_late_subscribers_get_the_rest_of_the_lifetime_and_a_stamp_of_now(scene: Scene) -> None:
    """The second viewer starts while the first one runs. The tf buffer of RViz starts with RViz."""
    with looking(scene, points_text(scene.objects[:1]), marker_lifetime=500.0) as before:
        it = before.it
        in_sight(before)
        first = it.listen(MarkerArray, f"{it.name}/markers", LATCHED)
        ask_point(it)
        it.until(lambda: any(len(message.markers) == 2 for message in first), "the markers")
        assert {seconds(marker.lifetime) for marker in first[-1].markers} == {500.0}
        began = seconds(now())
        second = it.listen(MarkerArray, f"{it.name}/markers", LATCHED)
        it.until(lambda: second and second[-1].markers[0].action == Marker.DELETEALL, "all that is shown")
        markers = second[-1].markers[1:]
        assert [marker.ns for marker in markers] == ["request/points", "request/labels"]
        for marker in markers:
            assert seconds(marker.header.stamp) >= began
            assert marker.header.frame_id == "camera_optical"
            assert 500.0 - LIMIT < seconds(marker.lifetime) < 500.0


def test_a_restarted_viewer_gets_what_is_shown(scene: Scene) -> None:
    """This includes a restart so fast that the number of subscribers does not change."""
    with looking(scene, points_text(scene.objects[:1])) as before:
        it = before.it
        in_sight(before)
        ask_point(it)
        messages: list[MarkerArray] = []
        for _ in range(3):
            messages.clear()
            viewer = it.client.create_subscription(MarkerArray, f"{it.name}/markers", messages.append, QoSProfile(depth=10))
            it.until(lambda: messages, "all that is shown")
            assert [marker.action for marker in messages[0].markers] == [Marker.DELETEALL, Marker.ADD, Marker.ADD]
            it.client.destroy_subscription(viewer)


def test_the_remaining_lifetime_of_a_marker() -> None:
    """The lifetime counts from the first publication of a marker, and a clock that jumps back does not extend it."""
    time = [100.0]
    current = CurrentMarkers(lambda: time[0])
    marker = Marker(ns="a/points", id=0)
    marker.lifetime.sec = 2
    current.show("a", [marker])
    for now_, left in ((100.5, 1.5), (101.75, 0.25), (90.0, 2.0)):
        time[0] = now_
        assert [seconds(it.lifetime) for it in current.everything().markers[1:]] == [left]
    time[0] = 102.0
    assert current.everything().markers[1:] == []
    assert seconds(marker.lifetime) == 2.0


def test_the_overlay_of_nothing_found_supersedes_the_one_before() -> None:
    """The new overlay shows the newer image without the point."""
    with scripted("[(20, 20)]", "[]") as (it, _):
        overlays = it.listen(Image, f"{it.name}/overlay", QoSProfile(depth=10))
        it.until(lambda: it.node.count_subscribers(f"{it.name}/overlay"))
        assert it.call(Locate, "point", Locate.Request(instruction="it")).outcome.code == Outcome.OK
        it.until(lambda: overlays, "the first overlay")
        message = image_message(width=80)
        it.show(message)
        assert it.call(Locate, "point", Locate.Request(instruction="it")).outcome.code == Outcome.NOTHING_FOUND
        it.until(lambda: overlays[-1].header == message.header, "the second overlay")
        assert overlays[-1].width == 80
        pink = (np.frombuffer(overlays[-1].data, np.uint8).reshape(-1, 3) == PALETTE.point).all(axis=1)
        assert not pink.any()


def test_no_overlay_is_lost_when_many_follow_each_other() -> None:
    """The overlays have 1920x1080 pixels, are sent in many fragments, and the subscriber reads at its own pace."""
    with scripted("[(20, 20)]", max_image_age=0.0) as (it, _):
        it.show(image_message(width=1920, height=1080))
        overlays = it.listen(Image, f"{it.name}/overlay", QoSProfile(depth=10))
        it.until(lambda: overlays or it.call(Locate, "point", Locate.Request(instruction="first")), "an overlay")
        it.until(lambda: overlays, "the first overlay")
        count = len(overlays)
        futures = [it.send(Locate, "point", Locate.Request(instruction=f"thing {number}")) for number in range(8)]
        for future in futures:
            assert it.answer(future).outcome.code == Outcome.OK
        it.until(lambda: len(overlays) >= count + 8, "eight overlays")


def test_labels_are_readable_in_rviz_and_do_not_meet_at_the_gripper(scene: Scene) -> None:
    """RViz 2 uses scale.x as the width of a blank; if it is 0, the width is that for letters of 1 m."""
    lens = lens_of(scene)
    ways = [[(320, 470), (320, 300), (u, 200)] for u in (150, 500)]
    labels = []
    for number, way in enumerate(ways):
        positions = lens.positions(np.array(way, float), np.full(3, 0.7))
        lifted = Lifted(positions, ("",) * 3, np.zeros(3, bool))
        answer = Answer(Task.TRAJECTORY, "", waypoints=tuple(Point(*pixel) for pixel in way))
        markers = to_markers(answer, Header(), str(number), Style(), text="wipe it", rays=PixelRays(lens), waypoints=lifted)
        labels += [marker for marker in markers if marker.type == Marker.TEXT_VIEW_FACING]
        end, start = positions[-1], positions[0]
        place = np.array([getattr(labels[-1].pose.position, axis) for axis in "xyz"])
        assert np.linalg.norm(place - end) < np.linalg.norm(place - start) / 3
        assert np.linalg.norm(place) < 0.9 * np.linalg.norm(end), "above a bowl that the way ends in"
    assert len(labels) == 2
    for label in [*labels, *SceneMessages(scene, CameraSettings()).ground_truth.markers]:
        assert label.scale.x == pytest.approx(0.3 * label.scale.z)


def test_a_viewer_that_misses_a_deletion_shows_one_label() -> None:
    """The label of a query has the same id in every answer, however many arrows a trajectory has."""
    lens = lens_of(make_scene(7))
    labels = set()
    for count in (2, 5):
        way = [(200 + 40 * n, 200 + 30 * n) for n in range(count)]
        lifted = Lifted(lens.positions(np.array(way, float), np.full(count, 0.7)), ("",) * count, np.zeros(count, bool))
        answer = Answer(Task.TRAJECTORY, "", waypoints=tuple(Point(*pixel) for pixel in way))
        markers = to_markers(answer, Header(), "reach", Style(), text="wipe it", rays=PixelRays(lens), waypoints=lifted)
        assert len({(marker.ns, marker.id) for marker in markers}) == len(markers)
        labels |= {(marker.ns, marker.id) for marker in markers if marker.type == Marker.TEXT_VIEW_FACING}
    assert len(labels) == 1
