"""From answers to motion over DDS: the service ~/approach, goals, and poses and checks of trajectories."""

import json
import math
from array import array
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from depth_rig import Before, ask_point, depth_message, float_depth, in_model, lens_of, looking, points_text
from geometry_msgs.msg import PoseArray, PoseStamped
from nan_fields import documented_as_nan, is_unknown
from nav_msgs.msg import Path as PathMessage
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_rig import now
from sensor_msgs.msg import Image
from visualization_msgs.msg import Marker, MarkerArray

from robobrain_ros.core.overlay import PALETTE
from robobrain_ros.core.poses import to_matrices
from robobrain_ros.demo.world import Scene, make_scene
from robobrain_ros.msg import Outcome, QueryOptions, TraceIssue
from robobrain_ros.ros.transforms import Transform, TransformError
from robobrain_ros.ros.views.targets import goals_type
from robobrain_ros.srv import Approach, PredictTrajectory

LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
UPRIGHT = Transform((0.5, -0.5, 0.5, -0.5), (0.0, 0.0, 1.0))
"""From an optical frame to one with x ahead, y to the left and z up. The camera is 1 m above the floor."""


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene(7)


class Frames:
    """A buffer with one transform between the camera and each of some frames."""

    def __init__(self, *frames: str) -> None:
        self.frames = frames

    def lookup(self, target: str, source: str, stamp: Time) -> Transform:
        if target in self.frames and source == "camera_optical":
            return UPRIGHT
        raise TransformError(f"there is no frame {target}")

    def close(self) -> None:
        pass


def in_sight(before: Before, depth: Image | None = None) -> None:
    before.header.stamp = now()
    before.image()
    before.info()
    before.depth(depth)


def approach(before: Before, **fields: Any) -> Approach.Response:
    response: Approach.Response = before.it.call(Approach, "approach", Approach.Request(**fields))
    return response


def box_of(scene: Scene, number: int = 0) -> list[float]:
    return [float(side) for side in scene.objects[number].box]


def at(pose: PoseStamped) -> np.ndarray:
    return np.array([pose.pose.position.x, pose.pose.position.y, pose.pose.position.z])


def axes(pose: PoseStamped) -> np.ndarray:
    turn = pose.pose.orientation
    return to_matrices(np.array([[turn.x, turn.y, turn.z, turn.w]]))[0]


def assert_no_pose(response: Approach.Response) -> None:
    assert is_unknown(response.approach.pose)
    assert is_unknown(response.approach.pre_grasp)
    assert is_unknown(response.approach.floor_pose)
    assert math.isnan(response.approach.width)


def test_the_approach_pose_of_an_instruction_has_the_objects_size_and_a_pose_before_it(scene: Scene) -> None:
    left, top, right, bottom = box_of(scene)
    text = json.dumps([{"bbox_2d": [*in_model(left, top), *in_model(right, bottom)], "label": "thing"}])
    with looking(scene, text, target_frame="base_link", transform_source=lambda node: Frames("base_link")) as before:
        in_sight(before)
        found = approach(before, instruction="the thing", distance=0.2, floor_distance=0.5)
        by_pixels = approach(before, pixels=[left, top, right, bottom])
    assert found.outcome.code == Outcome.OK, found.outcome.message
    pose, first = found.approach.pose, found.approach.pre_grasp
    assert pose.header == first.header == found.affordances.header
    assert pose.header.frame_id == "base_link"
    assert at(pose) - at(first) == pytest.approx(0.2 * axes(pose)[:, 2])
    assert np.linalg.det(axes(pose)) == pytest.approx(1.0)
    assert 0.0 < found.approach.width < found.approach.opening <= 0.1
    assert 0.0 < found.approach.angle_deviation < math.radians(7.5)
    assert (found.approach.reason, found.approach.floor_reason, found.approach.label) == ("", "", "thing")
    # The pose is on the object, and the robot on the floor looks at it.
    u, v = lens_of(scene).project(UPRIGHT.inverse().apply(at(pose)[None]))[0]
    assert scene.mask[round(v), round(u)] == scene.objects[0].id
    assert (u, v) == pytest.approx((found.approach.u, found.approach.v), abs=0.6)
    floor = found.approach.floor_pose
    assert at(floor)[2] == pytest.approx(0.0)
    assert at(floor) + 0.5 * axes(floor)[:, 0] == pytest.approx(at(pose) * (1.0, 1.0, 0.0))
    assert by_pixels.outcome.code == Outcome.OK
    assert at(by_pixels.approach.pose) == pytest.approx(at(pose), abs=0.005)
    assert at(by_pixels.approach.pose) - at(by_pixels.approach.pre_grasp) == pytest.approx(
        0.1 * axes(by_pixels.approach.pose)[:, 2]
    )
    assert len(by_pixels.affordances.areas) == 0


def test_the_direction_of_the_approach_is_the_requested_one(scene: Scene) -> None:
    """By default, the gripper comes from above. One that is too small for the object leaves the surface normal."""
    pixels = box_of(scene)
    camera = scene.layout.camera
    up, origin = UPRIGHT.apply(np.array([[0.0, -camera.cos_pitch, -camera.sin_pitch], [0.0, 0.0, 0.0]]))
    with looking(scene, "[]", target_frame="base_link", transform_source=lambda node: Frames("base_link")) as before:
        in_sight(before)
        above, default, normal = (
            approach(before, pixels=pixels, direction=direction).approach for direction in ("from_above", "", "surface_normal")
        )
        before.it.set_parameter("gripper_opening", 0.01)
        small = approach(before, pixels=pixels, direction="automatic").approach
    assert [found.direction for found in (above, default, normal, small)] == ["from_above"] * 2 + ["surface_normal"] * 2
    assert at(above.pose) == pytest.approx(at(default.pose))
    down = origin - up
    assert down @ axes(above.pose)[:, 2] > math.cos(math.radians(25.0))
    assert down @ axes(normal.pose)[:, 2] < down @ axes(above.pose)[:, 2]
    assert above.graspable
    assert above.width < above.opening <= 0.1
    assert 0.0 < above.finger_depth < 0.055
    assert not small.graspable
    assert math.isnan(small.opening)
    assert math.isnan(small.finger_depth)


def test_bad_requests_have_a_reason_and_no_pose(scene: Scene) -> None:
    """NaN in the request, both or no target, too many numbers, and images without depth."""
    requests: list[tuple[dict[str, Any], str]] = [
        ({}, "Set either instruction or pixels"),
        ({"instruction": "a", "pixels": [1.0, 2.0]}, "Set either instruction or pixels"),
        ({"pixels": [math.nan, 2.0]}, "NaN"),
        ({"pixels": [1.0, 2.0, math.inf, 4.0]}, "NaN or infinity"),
        ({"pixels": [1.0, 2.0, 3.0]}, "3 numbers"),
        ({"pixels": [1.0, 2.0], "distance": math.nan}, "distance is nan"),
        ({"pixels": [1.0, 2.0], "distance": -0.1}, "distance is -0.1"),
        ({"pixels": [1.0, 2.0], "floor_distance": 1e9}, "floor_distance is 1e+09"),
        ({"instruction": "a", "task": "plan"}, "task is 'plan'"),
        ({"instruction": "a", "direction": "left"}, "direction is 'left'"),
        ({"pixels": [1.0, 2.0], "options": QueryOptions(camera="nose")}, "nose"),
        ({"pixels": [1.0, 2.0], "options": QueryOptions(images=[Image()])}, "options.images"),
        ({"instruction": " "}, "empty"),
    ]
    with looking(scene, "[]") as before:
        in_sight(before)
        responses = [approach(before, **fields) for fields, _ in requests]
    for response, (fields, reason) in zip(responses, requests, strict=True):
        assert response.outcome.code == Outcome.BAD_REQUEST, fields
        assert reason in response.outcome.message
        assert_no_pose(response)


def test_each_cause_without_a_pose_has_its_name(scene: Scene) -> None:
    """No depth, holes, background, zero depth, a box over two objects or nothing, and pixels outside of the image."""
    u, v = (float(value) for value in scene.objects[0].centre)
    table = np.argwhere(scene.mask == 0)[-1]
    several = np.array([thing.box for thing in scene.objects])
    over_all = [*map(float, several[:, :2].min(axis=0)), *map(float, several[:, 2:].max(axis=0))]
    metres = scene.depth.copy()
    hole = metres.copy()
    hole[round(v) - 12 : round(v) + 13, round(u) - 12 : round(u) + 13] = np.nan
    zero = depth_message(scene)
    zero.data = array("B", bytes(len(zero.data)))
    with looking(scene, "[]") as before:
        in_sight(before)
        reasons = {
            "BACKGROUND": approach(before, pixels=[float(table[1]), float(table[0])]),
            "OUTSIDE": approach(before, pixels=[-50.0, 10.0]),
            "EMPTY_BOX": approach(before, pixels=[u, v, u - 20.0, v]),
        }
        all_things = approach(before, pixels=over_all)
        in_sight(before, float_depth(hole))
        reasons["HOLE"] = approach(before, pixels=[u, v])
        in_sight(before, zero)
        reasons["NO_DEPTH"] = approach(before, pixels=[u, v])
        without_floor = approach(before, pixels=[u, v], floor_distance=1.0)
    assert {name: response.approach.reason for name, response in reasons.items()} == {name: name for name in reasons}
    for response in (*reasons.values(), all_things, without_floor):
        assert response.outcome.code == Outcome.NO_POSE
        assert f"({response.approach.reason})" in response.outcome.message
        assert_no_pose(response)
    assert all_things.approach.reason in ("SEVERAL_OBJECTS", "NOT_FILLED", "BACKGROUND")
    assert without_floor.approach.floor_reason == "NO_FLOOR"


def test_without_depth_camera_info_or_transform_there_is_no_pose(scene: Scene) -> None:
    pixels = box_of(scene)
    with looking(scene, "[]", camera__use_depth=False) as before:
        before.image()
        flat = approach(before, pixels=pixels)
    with looking(scene, "[]", target_frame="nowhere", transform_source=lambda node: Frames("base_link")) as before:
        goals = before.it.listen(goals_type(), f"{before.it.name}/goals", LATCHED)
        before.image()
        before.depth()
        blind = approach(before, pixels=pixels)
        before.info()
        lost = approach(before, pixels=pixels)
    assert [each.approach.reason for each in (flat, blind, lost)] == ["NO_DEPTH", "NO_CAMERA", "NO_TRANSFORM"]
    assert "use_depth" in flat.outcome.message
    assert "there is no frame nowhere" in lost.outcome.message
    for response in (flat, blind, lost):
        assert response.outcome.code == Outcome.NO_POSE
        assert_no_pose(response)
    assert goals == []


def test_before_activation_and_without_an_image_the_outcome_states_it(scene: Scene) -> None:
    with looking(scene, "[]") as before:
        early = approach(before, pixels=[1.0, 2.0])
        assert before.it.transition(4)  # Deactivate.
        inactive = approach(before, pixels=[1.0, 2.0])
    assert early.outcome.code == Outcome.NO_IMAGE
    assert inactive.outcome.code == Outcome.NOT_READY
    for response in (early, inactive):
        assert_no_pose(response)
        assert all(map(is_unknown, documented_as_nan(response).values()))


def test_goals_are_approach_poses_and_go_when_the_newest_answer_has_none(scene: Scene) -> None:
    with looking(
        scene, points_text(scene.objects), "[]", target_frame="base_link", transform_source=lambda node: Frames("base_link")
    ) as before:
        in_sight(before)
        goals = before.it.listen(goals_type(), f"{before.it.name}/goals", LATCHED)
        poses = before.it.listen(PoseStamped, f"{before.it.name}/goal_pose")
        before.it.until(lambda: before.it.node.count_subscribers(f"{before.it.name}/goal_pose"), "the subscription")
        answer = ask_point(before.it)
        before.it.until(lambda: goals and poses, "the goals")
        wanted = [approach(before, pixels=[point.u, point.v]) for point in answer.affordances.points]
        late: list[PoseStamped] = []
        before.it.client.create_subscription(PoseStamped, f"{before.it.name}/goal_pose", late.append, LATCHED)
        assert ask_point(before.it).outcome.code == Outcome.NOTHING_FOUND
        before.it.until(lambda: len(goals) == 2, "the empty goals")
        known = before.it.listen(goals_type(), f"{before.it.name}/goals", LATCHED)
        before.it.until(lambda: known, "the latched goals")
    expected = [response.approach.pose for response in wanted if response.outcome.code == Outcome.OK]
    assert len(expected) >= 1
    assert goals[0].header.frame_id == "base_link"
    shown = goals[0].goals if hasattr(goals[0], "goals") else [PoseStamped(pose=pose) for pose in goals[0].poses]
    assert np.array([at(pose) for pose in shown]) == pytest.approx(np.array([at(pose) for pose in expected]), abs=1e-4)
    assert len(poses) == 1
    assert at(poses[0]) == pytest.approx(at(expected[0]), abs=1e-4)
    assert late == []
    assert not (goals[1].goals if hasattr(goals[1], "goals") else goals[1].poses)
    assert known == goals[1:]


def test_the_poses_of_a_trajectory_are_resampled_and_the_issues_name_its_waypoints(scene: Scene) -> None:
    """A late subscriber gets the poses. An answer without positions clears them, and wrong parts are red."""
    waypoints = [in_model(u, 440) for u in (120, 320, 520)]
    with looking(scene, str(waypoints), str(waypoints), "[]", trajectory_max_step=0.05) as before:
        in_sight(before)
        markers = before.it.listen(MarkerArray, f"{before.it.name}/markers", LATCHED)
        before.it.until(lambda: markers, "the first markers")
        request = PredictTrajectory.Request(instruction="wipe")
        plain = before.it.call(PredictTrajectory, "trajectory", request)
        before.it.set_parameter("trajectory_poses", 9)
        resampled = before.it.call(PredictTrajectory, "trajectory", request)
        poses = before.it.listen(PoseArray, f"{before.it.name}/trajectory/poses", LATCHED)
        before.it.until(lambda: poses, "the poses")
        before.it.call(PredictTrajectory, "trajectory", request)
        before.it.until(lambda: len(poses) == 2, "the empty poses")
        shown = [marker for message in markers for marker in message.markers if marker.ns == "request/trajectory"]
    assert (plain.outcome.code, plain.outcome.message) == (Outcome.OK, "")
    found = plain.trajectory
    assert [(issue.waypoint, issue.kind) for issue in found.issues] == [(1, TraceIssue.LONG_STEP), (2, TraceIssue.LONG_STEP)]
    for issue, (start, end) in zip(found.issues, pairwise(found.waypoints), strict=True):
        step = math.dist(*((it.position.x, it.position.y, it.position.z) for it in (start, end)))
        assert (issue.measured, issue.allowed) == pytest.approx((step, 0.05))
        assert issue.text.startswith(f"The step to waypoint {issue.waypoint} is")
    assert all("samples of the trajectory have no depth" in reason for reason in found.unchecked)
    assert [pose.position for pose in found.poses] == [waypoint.position for waypoint in found.waypoints]
    assert len(resampled.trajectory.poses) == 9
    assert resampled.trajectory.poses == poses[0].poses
    assert [issue.waypoint for issue in resampled.trajectory.issues] in ([], [1, 2])
    assert len(poses[1].poses) == 0
    red = tuple(value / 255.0 for value in PALETTE.fault)
    (segments,) = [marker for marker in shown if marker.type == Marker.LINE_LIST][:1]
    assert (segments.color.r, segments.color.g, segments.color.b) == pytest.approx(red)
    assert len(segments.points) == 4


def test_strict_traces_end_with_an_outcome_and_show_the_trajectory_in_red_only(scene: Scene) -> None:
    waypoints = [in_model(u, 440) for u in (120, 320, 520)]
    with looking(scene, str(waypoints), str(waypoints), trajectory_max_step=0.05) as before:
        in_sight(before)
        paths = before.it.listen(PathMessage, f"{before.it.name}/path", LATCHED)
        request = PredictTrajectory.Request(instruction="wipe")
        assert before.it.call(PredictTrajectory, "trajectory", request).outcome.code == Outcome.OK
        before.it.until(lambda: paths, "the path")
        before.it.set_parameter("strict_traces", True)
        markers = before.it.listen(MarkerArray, f"{before.it.name}/markers", LATCHED)
        before.it.until(lambda: markers, "the first markers")
        markers.clear()
        response = before.it.call(PredictTrajectory, "trajectory", request)
        before.it.until(lambda: len(paths) == 2 and markers, "the empty path and the markers")
    assert response.outcome.code == Outcome.UNSAFE_TRAJECTORY
    assert "The step to waypoint 1" in response.outcome.message
    assert "strict_traces" in response.outcome.message
    assert [issue.kind for issue in response.trajectory.issues] == [TraceIssue.LONG_STEP] * 2
    assert (response.trajectory.waypoints, response.trajectory.poses, paths[1].poses) == ([], [], [])
    assert response.trajectory.report.raw_text
    assert any(marker.ns == "request/trajectory" for marker in markers[-1].markers)


def test_strict_traces_reject_a_trajectory_that_is_not_checked_completely(scene: Scene) -> None:
    """The speed has a limit, but the duration is unknown. With a duration, nothing is left out."""
    text = str([in_model(u, 440) for u in (300, 340)])
    options: dict[str, Any] = {"strict_traces": True, "trajectory_max_speed": 10.0}
    with looking(scene, text, text, **options) as before:
        in_sight(before)
        request = PredictTrajectory.Request(instruction="wipe")
        strict = before.it.call(PredictTrajectory, "trajectory", request)
        before.it.set_parameter("trajectory_duration", 5.0)
        checked = before.it.call(PredictTrajectory, "trajectory", request)
    assert strict.outcome.code == Outcome.UNSAFE_TRAJECTORY
    assert "the speed was not checked. The parameter strict_traces rejects" in strict.outcome.message
    assert strict.trajectory.issues == []
    assert ["speed" in reason for reason in strict.trajectory.unchecked] == [True]
    assert strict.trajectory.poses == []
    assert checked.outcome.code == Outcome.OK, checked.outcome.message
    assert len(checked.trajectory.poses) == 2


def test_strict_traces_reject_a_trajectory_without_positions(scene: Scene) -> None:
    text = str([in_model(u, 440) for u in (120, 320)])
    with looking(scene, text, text, camera__use_depth=False) as before:
        before.image()
        request = PredictTrajectory.Request(instruction="wipe")
        unchecked = before.it.call(PredictTrajectory, "trajectory", request)
        before.it.set_parameter("strict_traces", True)
        strict = before.it.call(PredictTrajectory, "trajectory", request)
    assert unchecked.outcome.code == Outcome.OK
    assert unchecked.trajectory.poses == []
    assert ["no positions" in reason for reason in unchecked.trajectory.unchecked] == [True]
    assert strict.outcome.code == Outcome.UNSAFE_TRAJECTORY


@pytest.mark.parametrize(
    ("waypoints", "count", "kinds"),
    [
        ([(320, 440)], 1, [TraceIssue.TOO_FEW]),
        ([(320, 440)] * 4, 1, [TraceIssue.TOO_FEW]),  # The parser drops repetitions.
        ([(320 + number % 7, 440) for number in range(10_000)], 10_000, [TraceIssue.TOO_MANY]),
    ],
)
def test_trajectories_that_are_none_have_a_reason_and_no_poses(
    scene: Scene, waypoints: list[tuple[int, int]], count: int, kinds: list[int]
) -> None:
    with looking(scene, str([in_model(*each) for each in waypoints])) as before:
        in_sight(before)
        found = before.it.call(PredictTrajectory, "trajectory", PredictTrajectory.Request(instruction="wipe")).trajectory
    assert len(found.waypoints) == count
    assert [issue.kind for issue in found.issues] == kinds
    assert [issue.waypoint for issue in found.issues] == [-1]
    assert found.poses == []


def test_the_limits_of_robots_file_and_the_named_height_are_checked(scene: Scene, tmp_path: Path) -> None:
    """The reach is in another frame than the positions. Without its transform, the trajectory states what was not checked."""
    robots = tmp_path / "robots.yaml"
    arm = "{skills: [wipe], reach: {frame: %s, distance: 0.2}}"
    robots.write_text(f"skills: {{wipe: {{}}}}\nrobots:\n  arm: {arm % 'shoulder'}\n")
    waypoints = str([in_model(u, 440) for u in (300, 340)])
    request = PredictTrajectory.Request(instruction="move 5 to 10 cm above the table")
    options: dict[str, Any] = {"target_frame": "base_link", "robots_file": str(robots)}
    with looking(scene, waypoints, transform_source=lambda node: Frames("base_link", "shoulder"), **options) as before:
        in_sight(before)
        # The buffer has no transform from base_link to shoulder.
        missing = before.it.call(PredictTrajectory, "trajectory", request).trajectory
    robots.write_text(f"skills: {{wipe: {{}}}}\nrobots:\n  arm: {arm % 'base_link'}\n")
    with looking(scene, waypoints, transform_source=lambda node: Frames("base_link"), **options) as before:
        in_sight(before)
        found = before.it.call(PredictTrajectory, "trajectory", request).trajectory
    assert [reason for reason in missing.unchecked if "'shoulder' is missing, so the reach was not checked" in reason]
    assert TraceIssue.OUT_OF_REACH not in [issue.kind for issue in missing.issues]
    assert [(issue.waypoint, issue.kind) for issue in found.issues] == [
        (0, TraceIssue.OUT_OF_REACH),
        (1, TraceIssue.OUT_OF_REACH),
        (1, TraceIssue.WRONG_DISTANCE),
    ]
    assert found.issues[2].measured == pytest.approx(0.0, abs=0.02)
    assert found.issues[2].allowed == pytest.approx(0.05)


def test_a_wall_has_a_pose_on_the_floor_and_with_the_parameter_an_approach_pose(scene: Scene) -> None:
    """A robot can drive to a wall, although nothing can be grasped there."""
    with looking(scene, "[]", target_frame="map", transform_source=lambda node: Frames("map")) as before:
        in_sight(before)
        pixels = [float(scene.width) / 2, 5.0]
        found = approach(before, pixels=pixels, floor_distance=0.3)
        before.it.set_parameter("approach_background", 0.0)
        pushed = approach(before, pixels=pixels)
    assert (found.outcome.code, found.approach.reason, found.approach.floor_reason) == (Outcome.OK, "BACKGROUND", "")
    assert is_unknown(found.approach.pose)
    floor = found.approach.floor_pose
    assert floor.header.frame_id == "map"
    assert at(floor)[2] == pytest.approx(0.0)
    assert axes(floor)[:, 2] == pytest.approx((0.0, 0.0, 1.0))
    assert (pushed.outcome.code, pushed.approach.reason) == (Outcome.OK, "")
    assert is_unknown(pushed.approach.floor_pose)


def test_without_the_transform_background_has_no_pose_on_the_floor(scene: Scene) -> None:
    """The position is then in the camera's frame, where z is no height above the floor."""
    with looking(scene, "[]", target_frame="map", transform_source=lambda node: Frames("base_link")) as before:
        in_sight(before)
        found = approach(before, pixels=[float(scene.width) / 2, 5.0], floor_distance=0.3)
    assert_no_pose(found)
    assert (found.outcome.code, found.approach.reason, found.approach.floor_reason) == (
        Outcome.NO_POSE,
        "BACKGROUND",
        "NO_TRANSFORM",
    )
    assert "there is no frame map" in found.outcome.message


def test_free_space_and_the_gripper_are_checked_in_target_frame(scene: Scene) -> None:
    """RoboBrain 2.5 states depths: this trajectory leads behind the table. The gripper is at the camera."""
    waypoints = str([[500, 900, 0.4], [500, 900, 1.5]])
    options: dict[str, Any] = {"target_frame": "base_link", "trajectory_gripper_frame": "camera_optical"}
    options |= {"model_type": "qwen3_vl", "transform_source": lambda node: Frames("base_link")}
    with looking(scene, waypoints, **options) as before:
        in_sight(before)
        found = before.it.call(PredictTrajectory, "trajectory", PredictTrajectory.Request(instruction="reach")).trajectory
    assert found.header.frame_id == "base_link"
    assert [(issue.waypoint, issue.kind) for issue in found.issues] == [(0, TraceIssue.FAR_START), (1, TraceIssue.NOT_FREE)]
    assert found.issues[0].measured == pytest.approx(0.45, abs=0.1)
    assert found.issues[1].measured > 0.1
