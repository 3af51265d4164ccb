"""Time jumps by real messages on /clock, by stamps, and by a patched system clock: no data from before the jump remains."""

import asyncio
import math
import sys
import types
from typing import Any, ClassVar

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from depth_rig import Before, ask_point, error, looking, points_text, position
from diagnostic_msgs.msg import DiagnosticArray
from fakes import Script, ScriptedEngine
from geometry_msgs.msg import PoseArray, TransformStamped
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_rig import Rig, image_message, rig
from rosgraph_msgs.msg import Clock
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from robobrain_ros.demo.world import Scene, make_scene
from robobrain_ros.msg import Outcome
from robobrain_ros.ros import clock
from robobrain_ros.ros.clock import Jump, reported_age
from robobrain_ros.srv import Ask, Locate, SetStandingQuery


def stamp(seconds: float) -> Time:
    nanoseconds = round(seconds * 1e9)
    return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


class Simulation:
    """A publisher of /clock."""

    def __init__(self, it: Rig) -> None:
        self.it = it
        self.publisher = it.client.create_publisher(Clock, "/clock", 10)
        it.until(self.publisher.get_subscription_count, "the node on /clock")

    def tick(self, seconds: float) -> None:
        """Set the time, and wait until the node has received it."""
        wanted = round(seconds * 1e9)

        def there() -> bool:
            self.publisher.publish(Clock(clock=stamp(seconds)))
            self.it.executor.spin_once(timeout_sec=0.01)
            return bool(self.it.node.get_clock().now().nanoseconds == wanted)

        self.it.until(there, "the time")


class Buffer:
    """A buffer like that of tf2: it holds 10 s and rejects older transforms."""

    made: ClassVar["list[Buffer]"] = []

    def __init__(self) -> None:
        self.stamps: list[float] = []
        Buffer.made.append(self)

    def clear(self) -> None:
        self.stamps.clear()

    def set_transform(self, transform: TransformStamped, authority: str) -> None:
        seconds = transform.header.stamp.sec + transform.header.stamp.nanosec * 1e-9
        if not self.stamps or seconds > max(self.stamps) - 10.0:
            self.stamps.append(seconds)

    def lookup_transform(self, target: str, source: str, when: Any) -> TransformStamped:
        seconds = when.nanoseconds * 1e-9
        if not self.stamps or not min(self.stamps) <= seconds <= max(self.stamps):
            raise LookupError(f"{seconds} is not within {self.stamps}")
        found = TransformStamped()
        found.transform.rotation.w = 1.0
        found.transform.translation.x = 100.0
        return found


class Listener:
    def __init__(self, buffer: Buffer, node: Any, **options: Any) -> None:
        pass

    def unregister(self) -> None:
        pass


@pytest.fixture
def tf2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Return a buffer that the test fills, because tf2_ros is not always installed."""
    module: Any = types.ModuleType("tf2_ros")
    module.Buffer, module.TransformListener, module.TransformException = Buffer, Listener, LookupError
    monkeypatch.setitem(sys.modules, "tf2_ros", module)


def tell_tf(seconds: float) -> None:
    for moment in (seconds - 0.05, seconds + 0.05):
        Buffer.made[-1].set_transform(TransformStamped(header=Header(stamp=stamp(moment))), "test")


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene(7)


def show(before: Before, seconds: float, *, whole: bool = True) -> None:
    """Publish an image of that time, and also its calibration and depth if it must be complete."""
    before.header = Header(stamp=stamp(seconds), frame_id="camera_optical")
    if whole:
        before.info()
        before.depth()
    before.image()


def seconds_of(header: Header) -> float:
    return float(header.stamp.sec + header.stamp.nanosec * 1e-9)


def test_when_simulated_time_jumps_back_nothing_of_the_time_before_remains(scene: Scene, tf2: None) -> None:
    """A bag is played in a loop: images, depth, transforms and losses start again with the second pass."""
    parameters: dict[str, Any] = {"use_sim_time": True, "max_image_age": 2.0, "target_frame": "base_link"}
    with looking(scene, points_text(scene.objects), **parameters) as before:
        simulation = Simulation(before.it)
        for number in range(10):
            simulation.tick(100.0 + number / 10)
            show(before, 99.95 + number / 10)
        tell_tf(100.85)
        first = ask_point(before.it)
        assert (first.outcome.code, first.affordances.header.frame_id) == (Outcome.OK, "base_link")
        camera = before.it.node.cameras["camera"]

        simulation.tick(40.0)
        empty = ask_point(before.it)
        assert empty.outcome.code == Outcome.NO_IMAGE
        assert "since time jumped back by 60.9 s" in empty.outcome.message
        assert Buffer.made[-1].stamps == []

        show(before, 39.95, whole=False)
        without = ask_point(before.it)
        assert without.outcome.code == Outcome.OK
        assert "No depth image has arrived" in without.outcome.message
        assert seconds_of(without.affordances.header) == pytest.approx(39.95)
        assert np.isnan(position(without.affordances.points[0])).all()

        simulation.tick(40.2)
        show(before, 40.1)
        tell_tf(40.1)
        second = ask_point(before.it)
        assert second.outcome == Outcome(code=Outcome.OK)
        assert second.affordances.header == Header(stamp=stamp(40.1), frame_id="base_link")
        assert second.affordances.report.image_age == pytest.approx(0.1, abs=1e-3)
        assert position(second.affordances.points[0])[0] > 50.0
        assert camera.statistics.lost == 0


def test_a_transform_sent_before_a_jump_and_delivered_after_it_is_not_kept(tf2: None, scene: Scene) -> None:
    """In the buffer, it would cause the rejection of all transforms of the second pass."""
    parameters: dict[str, Any] = {"use_sim_time": True, "target_frame": "base_link"}
    with looking(scene, points_text(scene.objects), **parameters) as before:
        simulation = Simulation(before.it)
        simulation.tick(100.0)
        tell_tf(100.0)
        simulation.tick(40.0)
        tell_tf(100.0)
        tell_tf(40.0)
        assert Buffer.made[-1].stamps == pytest.approx([39.95, 40.05])


def test_with_the_real_tf2_target_frame_works_again_after_time_jumped_back(scene: Scene) -> None:
    """A chain of a moving and a static frame is sent on /tf and /tf_static. tf2 alone would reject the second pass."""
    pytest.importorskip("tf2_ros")
    from tf2_msgs.msg import TFMessage

    parameters: dict[str, Any] = {"use_sim_time": True, "target_frame": "base_link", "transform_timeout": 20.0}
    with looking(scene, points_text(scene.objects), **parameters) as before:
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        static = before.it.client.create_publisher(TFMessage, "/tf_static", latched)
        moving = before.it.client.create_publisher(TFMessage, "/tf", 10)
        before.it.until(moving.get_subscription_count, "tf2's subscription")
        mount = TransformStamped(header=Header(frame_id="mount"), child_frame_id="camera_optical")
        mount.transform.translation.z = 5.0
        static.publish(TFMessage(transforms=[mount]))
        simulation = Simulation(before.it)
        for seconds, x in ((100.0, 10.0), (40.0, 20.0)):
            simulation.tick(seconds)
            for moment in (seconds - 0.1, seconds + 0.1):
                base = TransformStamped(header=Header(frame_id="base_link", stamp=stamp(moment)), child_frame_id="mount")
                base.transform.translation.x = x
                moving.publish(TFMessage(transforms=[base]))
            show(before, seconds)
            response = ask_point(before.it)
            assert (response.outcome.message, response.affordances.header.frame_id) == ("", "base_link")
            found = position(response.affordances.points[0])
            assert error(scene, scene.objects[0], (found[0] - x, found[1], found[2] - 5.0)) < 0.01


@pytest.mark.parametrize("after", [40.0, 160.0])
def test_a_request_in_flight_when_time_jumps_ends_with_the_reason(after: float) -> None:
    gate = asyncio.Event()
    engine = ScriptedEngine([Script([gate, "[(10, 20)]"]), "[(10, 20)]"])
    with rig(engine, use_sim_time=True) as it:
        it.until_ready()
        simulation = Simulation(it)
        simulation.tick(100.0)
        it.show(image_message(stamp=stamp(99.9)))
        answer = it.send(Locate, "point", Locate.Request(instruction="mug"))
        it.until(lambda: engine.generations, "the question")
        simulation.tick(after)
        outcome = it.answer(answer).outcome
        it.until(lambda: not engine.running, "the end of the work in the engine")
        it.show(image_message(stamp=stamp(after)))
        again = it.call(Locate, "point", Locate.Request(instruction="mug"))
    assert outcome.code == Outcome.STALE_IMAGE
    assert f"time jumped {'back' if after < 100.0 else 'forward'} by 60.0 s" in outcome.message
    assert again.outcome.code == Outcome.OK


def test_images_of_a_request_do_not_depend_on_the_clock() -> None:
    """A request that contains its image is answered despite a time jump."""
    gate = asyncio.Event()
    engine = ScriptedEngine([Script([gate, "Two mugs."])])
    with rig(engine, use_sim_time=True) as it:
        it.until_ready()
        simulation = Simulation(it)
        simulation.tick(100.0)
        request = Ask.Request(question="What is there?")
        request.options.images = [image_message(stamp=stamp(99.9))]
        answer = it.send(Ask, "ask", request)
        it.until(lambda: engine.generations, "the question")
        simulation.tick(40.0)
        it.on_loop(gate.set)
        assert it.answer(answer).outcome.code == Outcome.OK


def test_a_standing_query_goes_on_after_a_jump() -> None:
    engine = ScriptedEngine(["[(10, 20)]"])
    with rig(engine, use_sim_time=True) as it:
        it.until_ready()
        simulation = Simulation(it)
        query = SetStandingQuery.Request(enabled=True, name="mug", task="point", instruction="mug")
        assert it.call(SetStandingQuery, "set_standing_query", query).outcome.code == Outcome.OK
        for number, seconds in enumerate((100.0, 40.0, 100.0), 1):
            simulation.tick(seconds)
            it.show(image_message(stamp=stamp(seconds)))
            it.until(lambda number=number: it.node._standing.statistics["mug"].answered == number, "the answer")  # type: ignore[misc]


def test_simulated_time_that_starts_or_runs_fast_is_no_jump() -> None:
    with rig(ScriptedEngine(["Two mugs."]), use_sim_time=True, max_image_age=0.0) as it:
        it.until_ready()
        it.show(image_message(stamp=stamp(1000.0)))
        simulation = Simulation(it)
        for seconds in (1000.0, 1002.0, 1004.9):
            simulation.tick(seconds)
        assert it.node._watch.jumps == 0
        for seconds in (1020.0, 1040.0, 1060.0):
            simulation.tick(seconds)
        assert it.node._watch.jumps <= 1, "steps that follow one another are a recording that is played fast"


def test_a_bag_in_a_loop_without_a_clock_begins_anew(scene: Scene, tf2: None) -> None:
    """Stamps go back while the system time advances. Another camera keeps its image."""
    parameters: dict[str, Any] = {"target_frame": "base_link", "cameras": ["camera", "other"]}
    with looking(scene, points_text(scene.objects), **parameters) as before:
        before.it.show(image_message(), "other")
        for number in range(5):
            show(before, 100.0 + number / 10)
        tell_tf(100.4)
        show(before, 40.0, whole=False)
        assert Buffer.made[-1].stamps == []
        without = ask_point(before.it)
        show(before, 40.1)
        tell_tf(40.1)
        second = ask_point(before.it)
        assert before.it.node.cameras["camera"].statistics.lost == 0
        assert before.it.node.cameras["other"].newest is not None
    assert "No depth image has arrived" in without.outcome.message
    assert second.affordances.header == Header(stamp=stamp(40.1), frame_id="base_link")


@pytest.fixture
def system_clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A system clock with an offset: the first entry is added to the system time, in seconds."""
    offset = [0.0]
    real = clock.system_time
    monkeypatch.setattr(clock, "system_time", lambda: real() + round(offset[0] * 1e9))
    return offset


@pytest.mark.parametrize("step", [-3600.0, -0.8, 3600.0])
def test_a_step_of_the_system_clock_is_noticed_before_the_next_answer(step: float, system_clock: list[float]) -> None:
    with rig(ScriptedEngine(["Two mugs."]), max_image_age=0.0) as it:
        it.until_ready()
        heard = it.listen(DiagnosticArray, "/diagnostics")
        it.show(image_message())
        system_clock[0] = step
        outcome = it.call(Ask, "ask", Ask.Request(question="What is there?")).outcome
        assert outcome.code == Outcome.NO_IMAGE
        assert f"by {abs(step):.1f} s" in outcome.message
        for number in range(20):
            it.show(image_message(stamp=stamp(clock.system_time() * 1e-9 - 2.0 + number / 10)))
        answer = it.call(Ask, "ask", Ask.Request(question="What is there?"))
        heard.clear()
        it.until(lambda: heard, "diagnostics")
    assert answer.outcome.code == Outcome.OK
    assert answer.answer.report.image_age >= 0.0
    (camera,) = [status for status in heard[0].status if status.name.endswith("camera camera")]
    assert "lost" not in camera.message


def test_markers_of_the_time_before_are_deleted(scene: Scene) -> None:
    with looking(scene, points_text(scene.objects), use_sim_time=True) as before:
        simulation = Simulation(before.it)
        markers = before.it.listen(MarkerArray, f"{before.it.name}/markers")
        poses = before.it.listen(PoseArray, f"{before.it.name}/poses")
        simulation.tick(100.0)
        show(before, 99.9)
        ask_point(before.it)
        before.it.until(lambda: markers and markers[-1].markers[-1].action == Marker.ADD, "markers")
        simulation.tick(40.0)
        before.it.until(lambda: [marker.action for marker in markers[-1].markers] == [Marker.DELETEALL], "their end")
        before.it.until(lambda: len(poses) == 2 and not poses[-1].poses, "the end of the poses")


def test_a_camera_whose_stamps_jump_back_loses_its_markers_and_targets(scene: Scene) -> None:
    """A jump of another camera leaves them."""
    with looking(scene, points_text(scene.objects), cameras=["camera", "other"]) as before:
        it = before.it
        markers, poses = it.listen(MarkerArray, f"{it.name}/markers"), it.listen(PoseArray, f"{it.name}/poses")
        show(before, 100.0)
        ask_point(it)
        it.until(lambda: markers and markers[-1].markers[-1].action == Marker.ADD and len(poses) == 1, "markers and poses")
        names = {(marker.ns, marker.id) for marker in markers[-1].markers if marker.action == Marker.ADD}
        for seconds in (100.0, 40.0):
            it.show(image_message(stamp=stamp(seconds)), "other")
        assert it.node._watch.jumps == 1
        assert len(poses) == 1
        show(before, 40.0, whole=False)
        it.until(lambda: len(poses) == 2, "the end of the poses")
        assert (poses[0].poses != [], poses[1].poses, poses[1].header.frame_id) == (True, [], "camera_optical")
        it.until(lambda: {marker.action for marker in markers[-1].markers} == {Marker.DELETE}, "the end of the markers")
        assert {(marker.ns, marker.id) for marker in markers[-1].markers} == names
        assert it.node._watch.jumps == 2


def test_diagnostics_report_jumps_and_a_simulation_without_a_clock() -> None:
    with rig(ScriptedEngine(["Two mugs."]), use_sim_time=True) as it:
        it.until_ready()
        heard = it.listen(DiagnosticArray, "/diagnostics")

        def status(words: str) -> Any:
            parts = [part for message in heard for part in message.status if part.name.endswith("robobrain: clock")]
            return next((part for part in parts if words in part.message), None)

        missing = it.until(lambda: status("no message has arrived on /clock"), "the missing clock")
        it.show(image_message())
        refused = it.call(Ask, "ask", Ask.Request(question="What is there?")).outcome
        assert refused.code == Outcome.STALE_IMAGE
        assert "Simulated time has not started: use_sim_time is true, but no message has arrived on /clock." in refused.message
        simulation = Simulation(it)
        simulation.tick(100.0)
        simulation.tick(40.0)
        jump = it.until(lambda: status("time jumped back by 60.0 s"), "the jump")
    assert missing.level == jump.level == jump.WARN
    assert {value.key: value.value for value in jump.values}["jumps"] == "1"


@pytest.mark.parametrize(("age", "reported"), [(1.5, 1.5), (0.0, 0.0), (-0.2, 0.0), (-60.0, math.nan), (math.nan, math.nan)])
def test_no_reported_age_is_negative(age: float, reported: float) -> None:
    assert reported_age(age) == pytest.approx(reported, nan_ok=True)


def test_an_image_ahead_of_the_clock_has_no_age(scene: Scene) -> None:
    with rig(ScriptedEngine(["Two mugs."]), max_image_age=0.0) as it:
        it.until_ready()
        message = image_message()
        message.header.stamp.sec += 100
        it.show(message)
        answer = it.call(Ask, "ask", Ask.Request(question="What is there?")).answer
    assert math.isnan(answer.report.image_age)


@pytest.mark.parametrize(
    ("before", "after", "old", "new"),
    [
        (100.0, 40.0, [99.9, 100.1, 80.0], [40.0, 39.9, 45.0, 1.7e9]),
        (100.0, 99.5, [99.9, 100.0], [99.5, 99.4, 1.7e9]),
        (100.0, 200.0, [99.0, 120.0], [200.0, 190.0]),
        (1.7e9, 0.5, [1.7e9 - 3600.0], [0.4]),
    ],
)
def test_a_stamp_is_old_when_it_is_near_the_time_before(before: float, after: float, old: list[float], new: list[float]) -> None:
    """A stamp that matches neither time, or no stamp, does not count as old."""
    jump = Jump(round(before * 1e9), round(after * 1e9))
    assert all(jump.is_old(round(each * 1e9)) for each in old)
    assert not any(jump.is_old(round(each * 1e9)) for each in new)
    assert not jump.is_old(0)
