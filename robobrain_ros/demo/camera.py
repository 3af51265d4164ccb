"""A simulated camera above the table: publishes image, compressed image, camera_info, registered depth and the true poses.

All topics begin with the camera's name. All messages of one image have the same header, with the image's stamp and the camera's
optical frame. The parameters of the node are the fields of `CameraSettings`.
"""

import argparse
import array
import functools
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import cv2
import numpy as np
import rclpy
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from robobrain_ros.demo.encodings import ENCODINGS, encode_image
from robobrain_ros.demo.world import Scene, make_scene
from robobrain_ros.ros.process.command_line import check_parameter_files, own_arguments
from robobrain_ros.ros.process.rcl_errors import explain
from robobrain_ros.ros.views.markers import text_scale

TABLE_FRAME = "table"
"""Parent frame of the camera's frame in tf. Its z axis points up, and its origin is on the table below the camera."""
MILLIMETRES_PER_METRE = 1000.0
JPEG_QUALITY = 95
DEPTH_ENCODINGS = ("16UC1", "32FC1")


LEAST_RATE, MOST_RATE = 0.01, 1000.0
"""Images per second."""


def _setting(default: Any, description: str) -> Any:
    return field(default=default, metadata={"description": description})


@dataclass(frozen=True)
class CameraSettings:
    """The parameters of the node with their defaults."""

    camera: str = _setting("camera", "Name of the camera: the prefix of its topics.")
    frame_id: str = _setting("camera_optical_frame", "Frame of all messages: optical, z forward (REP 103).")
    seed: int = _setting(12, "Seed of the scene: the same seed makes the same scene.")
    width: int = _setting(640, "Width of the images in pixels.")
    height: int = _setting(480, "Height of the images in pixels.")
    rate: float = _setting(10.0, f"Images per second, {LEAST_RATE:g} to {MOST_RATE:g}.")
    encoding: str = _setting("rgb8", f"Encoding of the raw image: {', '.join(ENCODINGS)}.")
    depth_encoding: str = _setting("16UC1", "16UC1: millimetres, 0 invalid. 32FC1: metres, NaN invalid (REP 118).")
    moving: bool = _setting(False, "Whether the objects move.")

    def validate(self) -> None:
        """Check all settings except the size, which `make_scene` checks.

        :raises ValueError: a setting is invalid.
        """
        if self.encoding not in ENCODINGS:
            raise ValueError(f"encoding is {self.encoding!r}; known encodings are {', '.join(ENCODINGS)}.")
        if self.depth_encoding not in DEPTH_ENCODINGS:
            raise ValueError(f"depth_encoding is {self.depth_encoding!r}; known encodings are {', '.join(DEPTH_ENCODINGS)}.")
        if not LEAST_RATE <= self.rate <= MOST_RATE:
            raise ValueError(f"rate is {self.rate}; it must be {LEAST_RATE:g} to {MOST_RATE:g} images per second.")


class SceneMessages:
    """The messages of one scene. Each message is created at its first use."""

    def __init__(self, scene: Scene, settings: CameraSettings) -> None:
        self._scene = scene
        self._settings = settings

    @functools.cached_property
    def image(self) -> Image:
        """The image in the settings' encoding."""
        data, step = encode_image(self._scene.image, self._settings.encoding)
        return self._raw(self._settings.encoding, data.tobytes(), step)

    @functools.cached_property
    def compressed(self) -> CompressedImage:
        """The image as JPEG."""
        bgr = cv2.cvtColor(self._scene.image, cv2.COLOR_RGB2BGR)
        _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        return CompressedImage(format="rgb8; jpeg compressed bgr8", data=array.array("B", data.tobytes()))

    @functools.cached_property
    def depth(self) -> Image:
        """Depth along the optical axis, registered to the image."""
        metres = self._scene.depth
        if self._settings.depth_encoding == "32FC1":
            return self._raw("32FC1", metres.astype("<f4").tobytes(), self._scene.width * 4)
        millimetres = np.nan_to_num(np.round(metres * MILLIMETRES_PER_METRE), nan=0.0, posinf=0.0)
        return self._raw("16UC1", millimetres.clip(0, np.iinfo(np.uint16).max).astype("<u2").tobytes(), self._scene.width * 2)

    @functools.cached_property
    def camera_info(self) -> CameraInfo:
        """Calibration of a pinhole camera without distortion."""
        lens = self._scene.intrinsics
        k = [lens.fx, 0.0, lens.cx, 0.0, lens.fy, lens.cy, 0.0, 0.0, 1.0]
        p = [*k[0:3], 0.0, *k[3:6], 0.0, *k[6:9], 0.0]
        r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
        size = {"width": self._scene.width, "height": self._scene.height}
        return CameraInfo(**size, distortion_model="plumb_bob", d=[0.0] * 5, k=k, r=r, p=p)

    @functools.cached_property
    def transform(self) -> TransformStamped:
        """The pose of the camera in the table's frame. It is constant."""
        camera = self._scene.layout.camera
        # In the optical frame, the table's frame is rotated about x by 90 degrees plus the pitch.
        half = -(math.pi / 2 + math.atan2(camera.sin_pitch, camera.cos_pitch)) / 2
        pose = Transform(
            translation=Vector3(z=camera.height), rotation=Quaternion(x=math.sin(half), y=0.0, z=0.0, w=math.cos(half))
        )
        header = Header(frame_id=TABLE_FRAME)
        return TransformStamped(header=header, child_frame_id=self._settings.frame_id, transform=pose)

    @functools.cached_property
    def ground_truth(self) -> MarkerArray:
        """The pose of each object in the optical frame: a marker whose namespace and text are the name of the object."""
        markers = []
        for thing in self._scene.objects:
            marker = Marker(ns=thing.name, id=thing.id, type=Marker.TEXT_VIEW_FACING, text=thing.name)
            position, orientation = thing.pose.position, thing.pose.orientation
            marker.pose.position.x, marker.pose.position.y, marker.pose.position.z = map(float, position)
            marker.pose.orientation.x, marker.pose.orientation.y, marker.pose.orientation.z = map(float, orientation[:3])
            marker.pose.orientation.w = float(orientation[3])
            marker.scale = text_scale(0.02)
            marker.color = ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0)
            marker.lifetime = Duration(sec=1)
            markers.append(marker)
        return MarkerArray(markers=markers)

    def _raw(self, encoding: str, data: bytes, step: int) -> Image:
        image = Image(width=self._scene.width, height=self._scene.height, encoding=encoding, step=step)
        # If bytes are assigned, rclpy checks and copies each byte.
        image.data = array.array("B", data)
        return image


Selector = Callable[[SceneMessages], Any]
"""Selects one message of a scene."""


class DemoCamera(Node):
    """Publishes the messages of one scene at a fixed rate. It publishes a message only if its topic has a subscriber."""

    def __init__(self, **options: Any) -> None:
        """:param options: arguments of `rclpy.node.Node`."""
        super().__init__("demo_camera", **options)
        self.settings = self._declare_settings()
        self._scene = make_scene(self.settings.seed, size=(self.settings.width, self.settings.height))
        self._still = SceneMessages(self._scene, self.settings)
        self._started = self.get_clock().now()
        self._outputs = [
            self._output(CameraInfo, "camera_info", lambda scene: scene.camera_info),
            self._output(Image, "depth", lambda scene: scene.depth),
            self._output(Image, "image", lambda scene: scene.image),
            self._output(CompressedImage, "image/compressed", lambda scene: scene.compressed),
            self._output(MarkerArray, "ground_truth", lambda scene: scene.ground_truth),
        ]
        self._publish_transform()
        self.create_timer(1.0 / self.settings.rate, self._publish)
        names = ", ".join(f"the {thing.name}" for thing in self._scene.objects)
        self.get_logger().info(f"Camera '{self.settings.camera}' looks at a table with {names} (seed {self.settings.seed}).")

    def _declare_settings(self) -> CameraSettings:
        values: dict[str, Any] = {}
        for setting in fields(CameraSettings):
            descriptor = ParameterDescriptor(description=setting.metadata["description"], read_only=True)
            values[setting.name] = self.declare_parameter(setting.name, setting.default, descriptor).value
        settings = CameraSettings(**values)
        settings.validate()
        return settings

    def _output(self, kind: type, topic: str, select: Selector) -> tuple[Any, Selector]:
        # A reliable publisher matches reliable and best-effort subscribers. DDS resends the last ten messages if they are lost.
        return self.create_publisher(kind, f"{self.settings.camera}/{topic}", QoSProfile(depth=10)), select

    def _publish_transform(self) -> None:
        try:
            from tf2_msgs.msg import TFMessage
        except ImportError:  # ROS 2 from PyPI has no tf2.
            return
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.create_publisher(TFMessage, "/tf_static", latched).publish(TFMessage(transforms=[self._still.transform]))

    def _publish(self) -> None:
        now = self.get_clock().now()
        header = Header(stamp=now.to_msg(), frame_id=self.settings.frame_id)
        messages = self._still
        if self.settings.moving:
            messages = SceneMessages(self._scene.at((now - self._started).nanoseconds * 1e-9), self.settings)
        for publisher, select in self._outputs:
            if publisher.get_subscription_count() == 0:
                continue
            message = select(messages)
            for stamped in message.markers if isinstance(message, MarkerArray) else [message]:
                stamped.header = header
            publisher.publish(message)


def main() -> None:
    """Run the camera until it is interrupted."""
    settings = "\n".join(f"  {it.name} ({it.default}): {it.metadata['description']}" for it in fields(CameraSettings))
    parser = argparse.ArgumentParser(
        description="Publishes images of the tabletop world until it is interrupted.",
        usage="%(prog)s [--help] [--ros-args [-p NAME:=VALUE ...] [-r FROM:=TO ...]]",
        epilog=f"parameters:\n{settings}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(own_arguments(sys.argv[1:]))
    check_parameter_files("demo_camera", sys.argv[1:])
    try:
        try:
            rclpy.init()
            camera = DemoCamera()
        except (ValueError, ParameterException) as error:
            sys.exit(f"The demo camera cannot start: {error}")
        except RuntimeError as error:  # From rcl.
            sys.exit(f"The demo camera cannot start: {explain(error)}")
        rclpy.spin(camera)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
