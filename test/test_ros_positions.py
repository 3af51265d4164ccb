"""Positions in metres over DDS: correct if depth and calibration belong to the image, and otherwise NaN with a specific note."""

import asyncio
from typing import Any

import numpy as np
import pytest
from depth_rig import Before, ask_point, error, float_depth, float_millimetres, in_model, lens_of, looking, points_text, position
from diagnostic_msgs.msg import DiagnosticArray
from fakes import Script, ScriptedEngine
from ros_rig import Rig, now, rig
from std_msgs.msg import Header

from robobrain_ros.core.messages.positions import names_rectified
from robobrain_ros.demo.world import Scene, make_scene
from robobrain_ros.msg import Affordances, Outcome, QueryOptions
from robobrain_ros.ros.cameras import cameras
from robobrain_ros.ros.cameras.checks import is_body_frame
from robobrain_ros.ros.messages.conversions import to_image
from robobrain_ros.srv import Locate, PredictTrajectory, SetStandingQuery


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene(7)


def test_points_and_areas_lie_on_the_things_in_metres(scene: Scene) -> None:
    """The depth camera has noise and holes. Positions are in the image's own frame and have its stamp."""
    boxes = [[*in_model(*thing.box[:2]), *in_model(*thing.box[2:])] for thing in scene.objects[:1]]
    with looking(scene, points_text(scene.objects), str(boxes[0])) as before:
        before.image()
        before.info()
        before.depth()
        points = ask_point(before.it)
        areas = before.it.call(Locate, "ground", Locate.Request(instruction="the thing"))
    assert points.outcome == Outcome(code=Outcome.OK)
    assert points.affordances.header == before.header
    assert points.affordances.position_note == ""
    assert len(points.affordances.points) == len(scene.objects)
    for thing, point in zip(scene.objects, points.affordances.points, strict=True):
        assert error(scene, thing, position(point)) < 0.01
        assert lens_of(scene).project([position(point)])[0] == pytest.approx((point.u, point.v), abs=1e-3)
    assert error(scene, scene.objects[0], position(areas.affordances.areas[0])) < 0.02


def test_waypoints_are_lifted_and_bridged(scene: Scene) -> None:
    """A hole in the depth image between two waypoints with depth is bridged, and the note states it."""
    depth = scene.depth.copy()
    depth[:, 300:340] = np.nan
    text = str([in_model(u, 400) for u in (200, 320, 440)])
    with looking(scene, text) as before:
        before.image()
        before.info()
        before.depth(float_depth(depth))
        response = before.it.call(PredictTrajectory, "trajectory", PredictTrajectory.Request(instruction="wipe"))
    waypoints = response.trajectory.waypoints
    assert [point.interpolated for point in waypoints] == [False, True, False]
    assert response.trajectory.position_note == response.outcome.message == ""
    for point in waypoints:
        assert point.position.z == pytest.approx(scene.depth[round(point.v), round(point.u)], abs=0.005)


def test_waiting_for_depth_ends_at_the_deadline_and_the_answer_is_sent_without_positions(scene: Scene) -> None:
    with looking(scene, points_text(scene.objects), transform_timeout=50.0) as before:
        before.info()
        before.image()
        request = Locate.Request(instruction="the things", options=QueryOptions(timeout=1.0))
        response = before.it.call(Locate, "point", request)
    assert response.outcome.code == Outcome.OK
    assert "No depth image" in response.affordances.position_note
    assert all(np.isnan(position(point)).all() for point in response.affordances.points)


@pytest.mark.parametrize("later", [None, -3.0, 0.02, 5.0])
def test_a_calibration_of_another_moment_serves(scene: Scene, later: float | None) -> None:
    """It is stamped 0, published once long ago, or has its own stamp. The answer does not wait for another one."""
    with looking(scene, points_text(scene.objects), transform_timeout=50.0) as before:
        stamp = before.header.stamp
        if later is None:
            before.header = Header(frame_id="camera_optical")
        before.info(**({} if later is None else {"later": later}))
        before.header = Header(stamp=stamp, frame_id="camera_optical")
        before.image()
        before.depth()
        response = ask_point(before.it)
    assert response.outcome == Outcome(code=Outcome.OK)
    assert error(scene, scene.objects[0], position(response.affordances.points[0])) < 0.01


def test_the_newest_calibration_that_fits_the_image_is_used(scene: Scene) -> None:
    """Calibrations of another size or frame on the same topic do not replace it, even if newer or with the image's own stamp."""
    with looking(scene, points_text(scene.objects)) as before:
        before.info(later=-3.0)
        before.info(width=320, height=240)
        before.info(frame="other", later=0.5)
        before.image()
        before.depth()
        response = ask_point(before.it)
    assert response.outcome == Outcome(code=Outcome.OK)
    assert error(scene, scene.objects[0], position(response.affordances.points[0])) < 0.01


def test_the_reason_is_that_of_the_newest_calibration(scene: Scene) -> None:
    with looking(scene, points_text(scene.objects)) as before:
        before.info(later=-3.0, k=[0.0] * 9)
        before.info(width=1280, height=960)
        before.image()
        before.depth()
        response = ask_point(before.it)
    assert "camera_info describes an image of 1280x960 pixels" in response.outcome.message


def test_the_range_of_depths_is_a_parameter_of_the_camera_and_acts_at_once(scene: Scene) -> None:
    with looking(scene, points_text(scene.objects)) as before:
        before.image()
        before.info()
        before.depth()
        assert ask_point(before.it).outcome == Outcome(code=Outcome.OK)
        assert before.it.set_parameter("camera.max_depth", 0.2).successful
        far = ask_point(before.it)
        assert before.it.set_parameter("camera.max_depth", 20.0).successful
        assert before.it.set_parameter("camera.min_depth", 10.0).successful
        near = ask_point(before.it)
    assert "farther than max_depth" in far.outcome.message
    assert "nearer than min_depth" in near.outcome.message
    for response in (far, near):
        assert all(np.isnan(position(point)).all() for point in response.affordances.points)


def test_the_models_own_depth_keeps_to_the_range(scene: Scene) -> None:
    with looking(scene, "[(250, 500, 0.8), (750, 500, 900.0)]", model_type="qwen3_vl", camera__use_depth=False) as before:
        before.image()
        before.info()
        response = before.it.call(PredictTrajectory, "trajectory", PredictTrajectory.Request(instruction="wipe"))
    first, second = response.trajectory.waypoints
    assert first.position.z == pytest.approx(0.8, abs=1e-4)
    assert np.isnan(position(second)).all()
    assert "the model's own depth is outside min_depth to max_depth" in response.outcome.message


def test_the_node_waits_for_depth_during_the_answer_and_newer_depth_does_not_replace_it(scene: Scene) -> None:
    gate = asyncio.Event()
    engine = ScriptedEngine([Script([gate, points_text(scene.objects)])])
    with rig(engine, camera__use_depth=True, max_image_age=0.0, transform_timeout=5.0) as it:
        it.until_ready()
        before = Before(it, scene)
        before.image()
        answer = it.send(Locate, "point", Locate.Request(instruction="the things"))
        it.until(lambda: engine.generations, "the question")
        before.info()
        before.depth(later=-0.03)
        before.depth(later=0.004)
        for number in range(1, 20):
            far = scene.depth.copy()
            far += 1.0
            before.depth(float_depth(far), later=0.03 * number)
        it.on_loop(gate.set)
        response = it.answer(answer)
        assert not any(topic._matches for topic in it.node.cameras["camera"].position_topics.topics)
    assert response.outcome == Outcome(code=Outcome.OK)
    for thing, point in zip(scene.objects, response.affordances.points, strict=True):
        assert error(scene, thing, position(point)) < 0.01


def test_a_request_uses_the_newest_image_with_depth(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception is an image that is much older than the newest one."""
    with looking(scene, points_text(scene.objects)) as before:
        before.info()
        before.depth()
        before.image()
        whole, before.header = before.header, Header(stamp=now(), frame_id="camera_optical")
        before.info()
        before.image()
        response = ask_point(before.it)
        monkeypatch.setattr(cameras, "_WORTH_DEPTH", 0.0)
        without_depth = ask_point(before.it)
    assert response.outcome == Outcome(code=Outcome.OK)
    assert response.affordances.header == whole
    assert error(scene, scene.objects[0], position(response.affordances.points[0])) < 0.01
    assert without_depth.affordances.header == before.header
    assert "No depth image with the image's stamp" in without_depth.outcome.message


def test_an_image_with_depth_that_is_too_old_is_not_asked_about(scene: Scene) -> None:
    with looking(scene, points_text(scene.objects), max_image_age=10.0) as before:
        before.header.stamp.sec -= 60
        before.info()
        before.depth()
        before.image()
        before.header = Header(stamp=now(), frame_id="camera_optical")
        before.image()
        response = ask_point(before.it)
    assert response.affordances.header == before.header


def test_a_standing_query_asks_once_about_each_image_with_depth(scene: Scene) -> None:
    """If the depth of an image is lost, there is no second question about the previous image."""
    with looking(scene, *[points_text(scene.objects)] * 3) as before:
        answers = before.it.listen(Affordances, f"{before.it.name}/affordances")
        query = SetStandingQuery.Request(enabled=True, name="things", task="point", instruction="the things")
        assert before.it.call(SetStandingQuery, "set_standing_query", query).outcome.code == Outcome.OK
        headers = []
        for has_depth in (True, False, True):
            before.header = Header(stamp=now(), frame_id="camera_optical")
            before.info()
            if has_depth:
                before.depth()
                headers.append(before.header)
            before.image()
            before.it.until(lambda: len(answers) == len(headers), "the answer")
    assert [answer.header for answer in answers] == headers


def test_a_standing_query_of_rate_0_asks_about_the_last_image_when_its_depth_comes(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No further image triggers the question, and the previous image was asked about already."""
    monkeypatch.setattr(cameras, "_WORTH_DEPTH", 60.0)
    with looking(scene, *[points_text(scene.objects)] * 3, transform_timeout=0.0) as before:
        answers = before.it.listen(Affordances, f"{before.it.name}/affordances")
        query = SetStandingQuery.Request(enabled=True, name="things", task="point", instruction="the things")
        before.info()
        before.depth()
        assert before.it.call(SetStandingQuery, "set_standing_query", query).outcome.code == Outcome.OK
        headers = []
        for number in (1, 2, 3):
            headers.append(before.header)
            before.image()
            before.depth()
            before.it.until(lambda: len(answers) == number, "the answer")  # noqa: B023
            before.header = Header(stamp=now(), frame_id="camera_optical")
    assert [answer.header for answer in answers] == headers
    assert not any(np.isnan(position(answer.points[0])).any() for answer in answers)


def test_an_answer_waits_for_depth_that_comes_after_it(scene: Scene) -> None:
    with looking(scene, points_text(scene.objects), transform_timeout=30.0) as before:
        before.image()
        before.info()
        answer = before.it.send(Locate, "point", Locate.Request(instruction="the things"))
        topic = before.it.node.cameras["camera"].position_topics.depth
        assert topic is not None
        before.it.until(lambda: topic._matches, "the request")
        before.depth()
        response = before.it.answer(answer)
    assert response.outcome == Outcome(code=Outcome.OK)
    assert not np.isnan(position(response.affordances.points[0])).any()


def test_without_use_depth_the_node_neither_subscribes_nor_waits_nor_warns(scene: Scene) -> None:
    with looking(scene, points_text(scene.objects), camera__use_depth=False, transform_timeout=30.0) as before:
        before.image()
        response = ask_point(before.it)
        assert before.it.client.count_subscribers(f"{before.it.client.get_namespace()}/camera/depth") == 0
    assert response.outcome == Outcome(code=Outcome.OK)
    assert response.affordances.header == before.header
    assert np.isnan(position(response.affordances.points[0])).all()


def test_images_of_a_request_have_no_positions(scene: Scene) -> None:
    with looking(scene, points_text(scene.objects)) as before:
        image = to_image(scene.image, before.header)
        request = Locate.Request(instruction="the things", options=QueryOptions(images=[image]))
        response = before.it.call(Locate, "point", request)
    assert response.outcome == Outcome(code=Outcome.OK)
    assert np.isnan(position(response.affordances.points[0])).all()


def camera_status(it: Rig, wanted: str) -> Any:
    """Return the camera's next status in /diagnostics whose message contains these words."""
    heard = it.listen(DiagnosticArray, "/diagnostics")

    def found() -> Any:
        parts = [status for message in heard for status in message.status if status.name.endswith("camera camera")]
        return next((status for status in parts if wanted in status.message), None)

    return it.until(found, wanted)


def test_an_image_in_a_body_frame_is_named_once(scene: Scene, capfd: pytest.CaptureFixture[str]) -> None:
    """Its positions would be rotated by 90 degrees."""
    with looking(scene, points_text(scene.objects)) as before:
        for _ in range(2):
            before.header = Header(stamp=now(), frame_id="camera_link")
            before.image()
            before.info(frame="camera_link")
            before.depth(frame="camera_link")
            status = camera_status(before.it, "The frame 'camera_link' of the images")
        assert status.level == status.WARN
    assert capfd.readouterr().err.count("The frame 'camera_link'") == 1


@pytest.mark.parametrize(
    ("frame", "body"),
    [
        ("camera_link", True),
        ("base_link", True),
        ("/base_link", True),
        ("base_footprint", True),
        ("map", True),
        ("robot1/odom", True),
        ("vehicle/camera_link/rgb", True),
        ("Camera_Link", True),
        ("cameraLink", True),
        ("camera-link", True),
        ("camera_link_0", True),
        ("panda_link8", True),
        ("base_link_frame", True),
        ("robot1.base_frame", True),
        ("odom_frame", True),
        ("tool0", True),
        ("left_camera_frame", True),
        ("zed2i_left_camera_frame", True),
        ("camera_color_frame", True),
        ("head_camera_rgb_frame", True),
        ("camera_infra1_frame", True),
        ("camera_optical_frame", False),
        ("camera_link_optical", False),
        ("camera_color_optical_frame", False),
        ("camera_optical", False),
        ("zed_left_camera_optical_frame", False),
        ("cameraOptical", False),
        ("camera", False),
        ("camera_frame", False),
        ("left_camera", False),
        ("camera_left", False),
        ("rgb_frame", False),
        ("link_camera", False),
        ("frame", False),
        ("カメラ", False),
        ("usb_cam", False),
        ("linkage_camera", False),
        ("database", False),
        ("", False),
    ],
)
def test_a_body_frame_is_known_by_its_name(frame: str, body: bool) -> None:
    assert is_body_frame(frame) is body


def test_depth_in_millimetres_as_floats_is_named_without_a_request(scene: Scene, capfd: pytest.CaptureFixture[str]) -> None:
    with looking(scene, points_text(scene.objects)) as before:
        before.image()
        float_millimetres(before)
        status = camera_status(before.it, "the values are millimetres")
    assert status.level == status.WARN
    assert capfd.readouterr().err.count("the values are millimetres") == 1


def test_the_models_own_depth_gives_positions_without_a_depth_camera(scene: Scene) -> None:
    """The trajectories of RoboBrain 2.5 only need camera_info."""
    with looking(scene, "[(250, 500, 0.8), (750, 500, 0.9)]", model_type="qwen3_vl", camera__use_depth=False) as before:
        before.image()
        request = PredictTrajectory.Request(instruction="wipe")
        without = before.it.call(PredictTrajectory, "trajectory", request)
        before.info()
        with_info = before.it.call(PredictTrajectory, "trajectory", request)
    assert "No camera_info has arrived" in without.trajectory.position_note
    assert np.isnan(position(without.trajectory.waypoints[0])).all()
    assert with_info.outcome == Outcome(code=Outcome.OK)
    for waypoint, depth in zip(with_info.trajectory.waypoints, (0.8, 0.9), strict=True):
        expected = lens_of(scene).positions([(waypoint.u, waypoint.v)], [depth])[0]
        assert position(waypoint) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("rectified", "shift"), [("auto", 0.0), ("no", 0.0), ("yes", 60.0)])
def test_a_rectified_image_goes_by_p(scene: Scene, rectified: str, shift: float) -> None:
    lens = scene.intrinsics
    p = [lens.fx, 0.0, lens.cx + 60.0, 0.0, 0.0, lens.fy, lens.cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    with looking(scene, points_text(scene.objects), camera__rectified=rectified) as before:
        before.image()
        before.info(p=p)
        before.depth()
        response = ask_point(before.it)
    point = response.affordances.points[0]
    x, _, z = position(point)
    assert x == pytest.approx((point.u - lens.cx - shift) / lens.fx * z, abs=1e-4)


@pytest.mark.parametrize(
    ("topic", "rectified"),
    [
        ("/camera/image_rect", True),
        ("/camera/image_rect/compressed", True),
        ("/left/image_rect_color", True),
        ("/rectified/image", True),
        ("/camera/color/image_raw", False),
        ("/director/image", False),
        ("/rectangle/image", False),
    ],
)
def test_a_rectified_image_is_known_by_its_topic(topic: str, rectified: bool) -> None:
    assert names_rectified(topic) is rectified


def test_answers_lie_within_a_centimetre_of_the_true_surface_at_a_metre() -> None:
    """The median over all objects in twelve scenes, with the noise and holes of a depth camera, over the topics."""
    scenes = [make_scene(seed) for seed in range(12)]
    errors = []
    with looking(scenes[0], *[points_text(scene.objects) for scene in scenes]) as before:
        for seen in scenes:
            before.scene = seen
            before.header = Header(stamp=now(), frame_id="camera_optical")
            before.image()
            before.info()
            before.depth()
            response = ask_point(before.it)
            for thing, point in zip(seen.objects, response.affordances.points, strict=True):
                if not np.isnan(position(point)).any():
                    errors.append(error(seen, thing, position(point)))
    assert len(errors) > 0.85 * sum(len(seen.objects) for seen in scenes), "most have a position"
    assert np.median(errors) < 0.002, "at 0.5 to 1 m; the goal is 1 cm"
    assert max(errors) < 0.03
