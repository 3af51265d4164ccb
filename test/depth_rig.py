"""A node with a depth camera, and the messages of this camera."""

from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from depth_camera import measure
from fakes import ScriptedEngine
from ros_rig import Rig, now, rig
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from robobrain_ros.core.geometry import CameraModel
from robobrain_ros.demo.camera import CameraSettings, SceneMessages
from robobrain_ros.demo.world import Scene, SceneObject
from robobrain_ros.engine.base import EngineInfo
from robobrain_ros.ros.messages.conversions import to_image
from robobrain_ros.srv import Locate

MODEL_SIZE = (644, 476)
"""Width and height of a 640x480 image after resizing for RoboBrain 2.0."""


def lens_of(scene: Scene) -> CameraModel:
    lens = scene.intrinsics
    return CameraModel(scene.width, scene.height, lens.fx, lens.fy, lens.cx, lens.cy)


def in_model(u: float, v: float) -> tuple[int, int]:
    """Return a pixel of the image in the coordinates of RoboBrain 2.0."""
    return round((u + 0.5) * MODEL_SIZE[0] / 640 - 0.5), round((v + 0.5) * MODEL_SIZE[1] / 480 - 0.5)


def points_text(things: tuple[SceneObject, ...]) -> str:
    return str([in_model(*thing.centre) for thing in things])


def depth_message(scene: Scene) -> Image:
    """Return a depth message as a real depth camera measures it."""
    samples = measure(scene.depth, scene.intrinsics.fx, 1)
    message = Image(width=scene.width, height=scene.height, encoding="16UC1", step=scene.width * 2)
    message.data = array("B", samples.astype("<u2").tobytes())
    return message


def float_depth(metres: np.ndarray) -> Image:
    height, width = metres.shape
    data = array("B", metres.astype("<f4").tobytes())
    return Image(width=width, height=height, encoding="32FC1", step=width * 4, data=data)


class Before:
    """The camera of a node. When a message is published, it gets the stamp of the image."""

    def __init__(self, it: Rig, scene: Scene) -> None:
        self.it = it
        self.scene = scene
        self.header = Header(stamp=now(), frame_id="camera_optical")
        self.publishers: dict[str, Any] = {}

    def image(self) -> None:
        self.it.show(to_image(self.scene.image, self.header))

    def companion(self, topic: str, message: Any, *, later: float = 0.0, frame: str = "camera_optical") -> None:
        """Publish a message on another topic of the camera, and wait until the node has received it."""
        nanoseconds = self.header.stamp.sec * 10**9 + self.header.stamp.nanosec + round(later * 1e9)
        message.header = Header(stamp=Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9), frame_id=frame)
        if topic not in self.publishers:
            name = f"{self.it.client.get_namespace()}/camera/{topic}"
            self.publishers[topic] = self.it.client.create_publisher(type(message), name, 10)
        self.it.until(self.publishers[topic].get_subscription_count, f"a subscription to {topic}")
        self.it.until(lambda: list(self.it.node.cameras), "open cameras")
        self.publishers[topic].publish(message)
        topics = self.it.node.cameras["camera"].position_topics
        topic_of_camera = topics.depth if topic == "depth" else topics.info
        assert topic_of_camera is not None
        self.it.until(lambda: topic_of_camera.newest is not None and topic_of_camera.newest.header == message.header, topic)

    def info(self, **changes: Any) -> None:
        where = {name: changes.pop(name) for name in ("later", "frame") if name in changes}
        message = SceneMessages(self.scene, CameraSettings()).camera_info
        for name, value in changes.items():
            setattr(message, name, value)
        self.companion("camera_info", message, **where)

    def depth(self, message: Image | None = None, **where: Any) -> None:
        self.companion("depth", message or depth_message(self.scene), **where)


@contextmanager
def looking(scene: Scene, *scripts: str, model_type: str = "qwen2_5_vl", **parameters: Any) -> Iterator[Before]:
    """Start a ready node with a depth camera whose topics have no messages yet."""
    info = EngineInfo(model="scripted", model_type=model_type, engine="scripted", cell=28 if "2_5" in model_type else 32)
    parameters = {"camera__use_depth": True, "transform_timeout": 0.05, "max_image_age": 0.0} | parameters
    with rig(ScriptedEngine(list(scripts), info=info), **parameters) as it:
        it.until_ready()
        yield Before(it, scene)


def ask_point(it: Rig) -> Locate.Response:
    return it.call(Locate, "point", Locate.Request(instruction="the things"))


def ask_in_base_link(scene: Scene, transforms: Any) -> tuple[Before, Locate.Response]:
    """Ask for all objects of a scene with depth, with target_frame base_link and these transforms."""
    with looking(scene, points_text(scene.objects), target_frame="base_link", transform_source=lambda node: transforms) as before:
        before.image()
        before.info()
        before.depth()
        return before, ask_point(before.it)


def position(part: Any) -> tuple[float, float, float]:
    return part.position.x, part.position.y, part.position.z


def error(scene: Scene, thing: SceneObject, where: tuple[float, float, float]) -> float:
    """Return the distance in metres between a position and the visible surface of an object."""
    rows, columns = np.nonzero(scene.mask == thing.id)
    surface = lens_of(scene).positions(np.column_stack((columns, rows)), scene.depth[rows, columns])
    return float(np.linalg.norm(surface - where, axis=1).min())


def all_invalid(before: Before) -> None:
    before.info()
    message = depth_message(before.scene)
    message.data = array("B", bytes(len(message.data)))
    before.depth(message)


def float_millimetres(before: Before) -> None:
    before.info()
    before.depth(float_depth(before.scene.depth * 1e3))
