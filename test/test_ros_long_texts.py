"""Frame names and other texts of messages are truncated before the node copies them into answers, logs and diagnostics."""

import sys
import types
from array import array
from typing import Any, cast

import cv2
import pytest
from depth_rig import ask_in_base_link, ask_point, depth_message, looking, points_text
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import TransformStamped
from ros_rig import image, image_message, scripted
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from robobrain_ros.demo.world import Scene, make_scene
from robobrain_ros.errors import BadImageError
from robobrain_ros.msg import Outcome, QueryOptions
from robobrain_ros.ros.messages.conversions import read_image_message
from robobrain_ros.ros.parameters.table import table
from robobrain_ros.ros.transforms import Tf2, TransformError
from robobrain_ros.srv import Locate

LONG = "x" * 1_000_000
LONGEST = 1000
"""Maximum characters of a message that is still easy to read in a log."""


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene(7)


def in_frame(frame: str) -> Image:
    message = image_message()
    message.header.frame_id = frame
    return message


@pytest.mark.parametrize("frame", ["x" * 256, "/" + LONG])
def test_a_camera_image_in_a_frame_with_a_long_name_is_a_bad_image(frame: str) -> None:
    with scripted("[(10, 10)]") as (it, engine):
        it.show(in_frame(frame))
        heard = it.listen(DiagnosticArray, "/diagnostics")
        response = it.call(Locate, "point", Locate.Request(instruction="mug"))
        status = it.until(
            lambda: next((s for m in heard for s in m.status if "camera camera" in s.name and "frame_id" in s.message), None),
            "the camera's warning",
        )
        assert not engine.generations
    assert response.outcome.code == Outcome.BAD_IMAGE
    assert "camera camera" in response.outcome.message
    assert "at most 255" in response.outcome.message
    assert "Set the name" in response.outcome.message
    assert len(response.outcome.message) < LONGEST
    assert response.affordances.header == Header()
    assert status.level == status.WARN
    assert len(status.message) <= LONGEST


def test_a_name_of_255_characters_is_a_frames(scene: Scene) -> None:
    with scripted("[(10, 10)]") as (it, _):
        it.show(in_frame("x" * 255))
        response = it.call(Locate, "point", Locate.Request(instruction="mug"))
    assert response.outcome.code == Outcome.OK
    assert response.affordances.header.frame_id == "x" * 255


def test_an_image_of_a_request_in_a_frame_with_a_long_name_is_named() -> None:
    with scripted("[(10, 10)]", "a mug") as (it, engine):
        images = [in_frame("camera"), in_frame(LONG)]
        response = it.call(Locate, "point", Locate.Request(instruction="mug", options=QueryOptions(images=images[1:])))
        assert not engine.generations
    assert response.outcome.code == Outcome.BAD_IMAGE
    assert response.outcome.message.startswith("Image 1 of the request cannot be used")
    assert len(response.outcome.message) < LONGEST


@pytest.mark.parametrize("what", ["frame of camera_info", "frame of depth", "encoding of depth"])
def test_what_belongs_to_an_image_is_quoted_in_short(scene: Scene, what: str) -> None:
    with looking(scene, points_text(scene.objects)) as before:
        before.image()
        before.info(frame=LONG if what == "frame of camera_info" else "camera_optical")
        depth = depth_message(scene)
        if what == "encoding of depth":
            depth.encoding, depth.data = f"16UC1{' ' * len(LONG)}", array("B")
        before.depth(depth, frame=LONG if what == "frame of depth" else "camera_optical")
        response = ask_point(before.it)
    assert response.outcome.code == Outcome.OK
    assert response.affordances.position_note == response.outcome.message
    assert 0 < len(response.outcome.message) < LONGEST


def test_the_encoding_of_a_file_in_a_raw_image_is_quoted_in_short() -> None:
    jpeg = array("B", cv2.imencode(".jpg", image())[1].tobytes())
    with pytest.raises(BadImageError) as caught:
        read_image_message(Image(width=1, height=1, encoding=f"jpeg{' ' * len(LONG)}", data=jpeg))
    assert len(caught.value.message) < LONGEST


def test_a_note_that_quotes_a_long_error_is_cut(scene: Scene) -> None:
    class Talkative:
        def lookup(self, *arguments: Any) -> Any:
            raise TransformError(LONG)

        def close(self) -> None:
            pass

    source = Talkative()
    _, response = ask_in_base_link(scene, source)
    assert response.outcome.code == Outcome.OK
    assert len(response.outcome.message) <= 4000
    assert len(response.affordances.position_note) <= 4000


def test_target_frame_has_the_bound_of_a_frame() -> None:
    parameter = next(parameter for parameter in table() if parameter.name == "target_frame")
    assert not parameter.fault("x" * 255)
    assert parameter.fault(LONG) == "target_frame has 1000000 characters; at most 255 are allowed."


class Buffer:
    """A stand-in for tf2's buffer, which keeps each received frame as long as it runs."""

    def __init__(self) -> None:
        self.children: list[str] = []

    def set_transform(self, transform: TransformStamped, authority: str) -> None:
        self.children.append(transform.child_frame_id)


def test_a_transform_between_frames_with_long_names_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("tf2_ros")
    module.Buffer, module.TransformListener, module.TransformException = Buffer, lambda *given, **options: None, LookupError
    monkeypatch.setitem(sys.modules, "tf2_ros", module)
    buffer: Any = vars(Tf2(cast(Any, None)))["_buffer"]
    for parent, child in (("base_link", LONG), (LONG, "camera"), ("base_link", "camera_optical")):
        buffer.set_transform(TransformStamped(header=Header(frame_id=parent), child_frame_id=child), "a publisher")
    assert buffer.children == ["camera_optical"]
