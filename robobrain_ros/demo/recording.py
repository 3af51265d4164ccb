"""Record a bag of the tabletop demo, without ROS, to try the bag program::

    python -m robobrain_ros.demo.recording table_bag

The bag has images, camera_info, registered depth and the camera's pose above the table, with the topics of the demo's camera.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robobrain_ros.bags.errors import BagError
from robobrain_ros.bags.messages import CAMERA_INFO, COMPRESSED, IMAGE, TRANSFORMS, message_type, require_rosbags, ros2_types
from robobrain_ros.bags.output import STORAGES
from robobrain_ros.bags.profiles import latched
from robobrain_ros.core.formats.jpeg import encode_jpeg
from robobrain_ros.demo.world import Scene, make_scene

TABLE_FRAME, CAMERA_FRAME = "table", "camera_optical_frame"
BEGIN = 1_700_000_000 * 10**9
"""Stamp of the first image in ns."""
RATE = 10.0
"""Images per second."""
_LONGEST = 3600.0
"""Seconds of the longest bag."""


def stamped(nanoseconds: int, frame: str) -> Any:
    """Return a std_msgs/Header."""
    time = message_type("builtin_interfaces/msg/Time")(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)
    return message_type("std_msgs/msg/Header")(stamp=time, frame_id=frame)


def image_message(scene: Scene, header: Any) -> Any:
    """Return the image as sensor_msgs/Image in rgb8."""
    return _raw(scene.image, "rgb8", header)


def compressed_message(scene: Scene, header: Any) -> Any:
    """Return the image as sensor_msgs/CompressedImage with a JPEG."""
    data = np.frombuffer(encode_jpeg(scene.image), np.uint8)
    return message_type(COMPRESSED)(header=header, format="rgb8; jpeg compressed bgr8", data=data)


def depth_message(scene: Scene, header: Any) -> Any:
    """Return the registered depth as sensor_msgs/Image in 16UC1 (millimetres)."""
    millimetres = np.nan_to_num(np.round(scene.depth * 1000.0), nan=0.0, posinf=0.0).clip(0, 65535).astype("<u2")
    return _raw(millimetres, "16UC1", header)


def info_message(scene: Scene, header: Any) -> Any:
    """Return the calibration as sensor_msgs/CameraInfo."""
    lens = scene.intrinsics
    k = [lens.fx, 0.0, lens.cx, 0.0, lens.fy, lens.cy, 0.0, 0.0, 1.0]
    p = [*k[0:3], 0.0, *k[3:6], 0.0, *k[6:9], 0.0]
    region = message_type("sensor_msgs/msg/RegionOfInterest")(x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    return message_type(CAMERA_INFO)(
        header=header, height=scene.height, width=scene.width, distortion_model="plumb_bob", d=np.zeros(5), k=np.array(k),
        r=np.eye(3).ravel(), p=np.array(p), binning_x=0, binning_y=0, roi=region,
    )  # fmt: skip


def transform_message(scene: Scene, header: Any, child: str = CAMERA_FRAME) -> Any:
    """Return the pose of the camera above the table as tf2_msgs/TFMessage. ``header`` has the frame of the table."""
    camera = scene.layout.camera
    half = -(math.pi / 2 + math.atan2(camera.sin_pitch, camera.cos_pitch)) / 2
    shift = message_type("geometry_msgs/msg/Vector3")(x=0.0, y=0.0, z=camera.height)
    turn = message_type("geometry_msgs/msg/Quaternion")(x=math.sin(half), y=0.0, z=0.0, w=math.cos(half))
    transform = message_type("geometry_msgs/msg/Transform")(translation=shift, rotation=turn)
    found = message_type("geometry_msgs/msg/TransformStamped")(header=header, child_frame_id=child, transform=transform)
    return message_type(TRANSFORMS[0])(transforms=[found])


def _raw(samples: np.ndarray[Any, Any], encoding: str, header: Any) -> Any:
    height, width = samples.shape[:2]
    data = np.frombuffer(np.ascontiguousarray(samples).tobytes(), np.uint8)
    step = data.size // height
    return message_type(IMAGE)(header=header, height=height, width=width, encoding=encoding, is_bigendian=0, step=step, data=data)


def record(path: Path, *, seconds: float, seed: int, storage: str = "mcap", compressed: bool = False) -> int:
    """Write the bag, and return the number of its images.

    :param seed: scene; its objects move.
    :param compressed: write the images as JPEG.
    :raises BagError: rosbags is not installed, or the path exists.
    """
    require_rosbags()
    from rosbags.rosbag2 import StoragePlugin, Writer

    if path.exists():
        raise BagError(f"{path} exists already.")
    store = ros2_types()
    count = max(1, round(seconds * RATE))
    with Writer(path, version=8, storage_plugin=StoragePlugin[storage.upper()]) as writer:

        def topic(name: str, kind: str, profiles: Sequence[Any] = ()) -> Any:
            return writer.add_connection(name, kind, typestore=store, offered_qos_profiles=profiles), kind

        image_topic = topic("/camera/image/compressed", COMPRESSED) if compressed else topic("/camera/image", IMAGE)
        info_topic, depth_topic = topic("/camera/camera_info", CAMERA_INFO), topic("/camera/depth", IMAGE)
        static_topic = topic("/tf_static", TRANSFORMS[0], latched())
        first = make_scene(seed)
        messages = [(static_topic, transform_message(first, stamped(BEGIN, TABLE_FRAME)))]
        for number in range(count):
            time = BEGIN + round(number * 1e9 / RATE)
            scene, header = first.at(number / RATE), stamped(time, CAMERA_FRAME)
            shown = compressed_message(scene, header) if compressed else image_message(scene, header)
            depth = depth_message(scene, header)
            messages += [(image_topic, shown), (info_topic, info_message(scene, header)), (depth_topic, depth)]
            for (connection, kind), message in messages:
                writer.write(connection, time, store.serialize_cdr(message, kind))
            messages = []
    return count


def main(arguments: Sequence[str] | None = None) -> int:
    """Record the bag of the command line, and return the exit code."""
    parser = argparse.ArgumentParser(description="Record a bag of the tabletop demo, without ROS.")
    parser.add_argument("output", type=Path, help="folder of the new bag")
    parser.add_argument("--seconds", type=float, default=5.0, help="length (default: 5), with 10 images per second")
    parser.add_argument("--seed", type=int, default=12, help="scene (default: 12)")
    parser.add_argument("--storage", choices=list(STORAGES), default="mcap", help="format (default: mcap)")
    parser.add_argument("--compressed", action="store_true", help="write the images as JPEG")
    options = parser.parse_args(arguments)
    if not 0.0 < options.seconds <= _LONGEST:
        parser.error(f"--seconds must be above 0 and at most {_LONGEST:g}")
    try:
        count = record(
            options.output,
            seconds=options.seconds,
            seed=options.seed,
            storage=options.storage,
            compressed=options.compressed,
        )
    except BagError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{count} images of scene {options.seed} are in {options.output}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
