"""Publish the depth image of the node as coloured points, which RViz shows behind the answers."""

import asyncio
from array import array
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from robobrain_ros.core.clouds import Cloud, CloudMaker
from robobrain_ros.core.geometry import GeometryError
from robobrain_ros.errors import BadImageError
from robobrain_ros.ros.cameras.cameras import Camera, Cameras
from robobrain_ros.ros.cameras.images import Frame
from robobrain_ros.ros.cameras.position_topics import PositionInputs
from robobrain_ros.ros.delivery.boundary import GuardedNode
from robobrain_ros.ros.model import Model
from robobrain_ros.ros.parameters.declared import Parameters
from robobrain_ros.ros.positions import Locator
from robobrain_ros.ros.views.subscribers import Subscribers

_MOST_POINTS = 50_000

_PROFILE = QoSProfile(depth=2, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.VOLATILE)
"""The queue is deep enough that a cloud, which is large, does not replace one that is still being sent."""

_POINT = np.dtype([("position", "<f4", 3), ("rgb", "<u4")])
_FIELDS = [
    PointField(name=name, offset=4 * number, datatype=PointField.FLOAT32, count=1)
    for number, name in enumerate(("x", "y", "z", "rgb"))
]


@dataclass(frozen=True)
class CloudSource:
    """Where the clouds come from.

    :param cameras: returns the open cameras.
    :param locator: returns the calibration and the depth image of an image.
    """

    cameras: Callable[[], Cameras]
    locator: Callable[[], Locator]


class CloudTopic:
    """Publishes ~/cloud, about once a second while it has subscribers. Called in the executor.

    The cloud is made in a thread, from the newest image with depth of the first camera with depth, in the image's frame.
    """

    def __init__(self, node: GuardedNode, parameters: Parameters, model: Model, source: CloudSource) -> None:
        self._node = node
        self._parameters = parameters
        self._model = model
        self._source = source
        self._publisher: Publisher | None = node.create_publisher(PointCloud2, "~/cloud", _PROFILE)
        self._subscribers = Subscribers(node, self._publisher)
        self._maker = CloudMaker(_MOST_POINTS)
        self._making = False
        self._shown = -1
        """Number of the image of the newest cloud."""

    def close(self) -> None:
        """Destroy the publisher. A cloud that is being made is not published."""
        self._node.destroy_publisher(self._publisher)
        self._publisher = None

    def on_timer(self) -> None:
        """Begin a cloud of a newer image, or of the same image for a new subscriber; called each second."""
        if self._publisher is None or self._making or not self._publisher.get_subscription_count():
            return
        is_new = self._subscribers.has_new()
        camera = next((camera for camera in self._source.cameras() if camera.position_topics.depth is not None), None)
        frame = camera.newest_with_depth(self._parameters["sync_tolerance"], 0.0) if camera is not None else None
        if camera is None or frame is None or (frame.sequence == self._shown and not is_new):
            return
        self._begin(camera, frame)

    def _begin(self, camera: Camera, frame: Frame) -> None:
        self._making, self._shown = True, frame.sequence
        inputs = camera.position_inputs(frame)
        self._model.submit(self._make(frame, inputs))

    async def _make(self, frame: Frame, inputs: PositionInputs) -> None:
        message = None
        try:
            message = await asyncio.to_thread(self._message, frame, inputs)
        except (BadImageError, GeometryError):
            pass  # The next request about this camera reports the reason.
        except Exception:
            self._node.log_traceback("The cloud could not be made")
        if self._node.executor is None:
            self._making = False
        self._node.start_task(self._made, inputs, message)

    def _message(self, frame: Frame, inputs: PositionInputs) -> PointCloud2 | None:
        image = frame.image()
        view = self._source.locator().view(inputs, (image.shape[1], image.shape[0]))
        return None if view is None else to_cloud(self._maker.make(frame.sequence, image, view[1], view[0]), inputs.header)

    def _made(self, inputs: PositionInputs, message: PointCloud2 | None) -> None:
        self._making = False
        inputs.close()
        if self._publisher is not None and message is not None:
            self._publisher.publish(message)


def to_cloud(cloud: Cloud, header: Header) -> PointCloud2:
    """Return a cloud as a message with the fields x, y, z (metres) and rgb."""
    points = np.empty(len(cloud.points), _POINT)
    points["position"] = cloud.points
    red, green, blue = cloud.colours.astype(np.uint32).T
    points["rgb"] = red << 16 | green << 8 | blue
    return PointCloud2(
        header=header,
        height=1,
        width=len(points),
        fields=_FIELDS,
        is_bigendian=False,
        point_step=_POINT.itemsize,
        row_step=_POINT.itemsize * len(points),
        data=array("B", points.tobytes()),
        is_dense=True,
    )
