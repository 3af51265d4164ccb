"""~/cloud: the depth image as coloured points, over DDS."""

import numpy as np
from depth_rig import Before, lens_of, looking
from ros_rig import LIMIT
from sensor_msgs.msg import PointCloud2

from robobrain_ros.demo.world import make_scene
from robobrain_ros.ros.views.cloud import _MOST_POINTS, CloudTopic


def read(cloud: PointCloud2) -> tuple[np.ndarray, np.ndarray]:
    """Return positions (n, 3) and colours (n, 3) by the fields of the message."""
    assert [(field.name, field.offset, field.datatype, field.count) for field in cloud.fields] == [
        (name, 4 * number, 7, 1) for number, name in enumerate(("x", "y", "z", "rgb"))
    ]
    assert (cloud.height, cloud.point_step, cloud.row_step) == (1, 16, 16 * cloud.width)
    words = np.frombuffer(bytes(cloud.data), np.uint32).reshape(cloud.width, 4)
    colours = np.stack([words[:, 3] >> shift & 255 for shift in (16, 8, 0)], axis=1)
    return words[:, :3].copy().view(np.float32), colours


def topic_of(before: Before) -> CloudTopic:
    topic = before.it.node._results._cloud
    assert topic is not None
    return topic


def test_a_subscriber_gets_the_depth_image_in_the_colours_of_the_image() -> None:
    """Each point projects to a pixel of its colour and depth. The header is that of the image."""
    scene = make_scene(7)
    with looking(scene, "[]") as before:
        clouds = before.it.listen(PointCloud2, f"{before.it.name}/cloud")
        before.image()
        before.info()
        before.depth()
        before.it.until(lambda: clouds, "a cloud", LIMIT)
    (cloud, *_) = clouds
    assert cloud.header == before.header
    points, colours = read(cloud)
    assert _MOST_POINTS / 2 < len(points) <= _MOST_POINTS
    pixels = np.rint(lens_of(scene).project(points.astype(np.float64))).astype(int)
    columns, rows = pixels.T
    assert np.median(np.abs(points[:, 2] - scene.depth[rows, columns])) < 0.01
    assert (colours == scene.image[rows, columns]).all(axis=1).mean() > 0.9


def test_nothing_is_made_without_subscribers_or_for_the_same_image() -> None:
    with looking(make_scene(7), "[]") as before:
        before.image()
        before.info()
        before.depth()
        topic = topic_of(before)
        topic.on_timer()
        assert topic._shown == -1
        clouds = before.it.listen(PointCloud2, f"{before.it.name}/cloud")
        before.it.until(lambda: clouds, "a cloud")
        shown = topic._shown
        before.it.until(lambda: not topic._making, "the end of the work")
        topic.on_timer()
        assert (topic._making, topic._shown) == (False, shown)


def test_an_image_without_calibration_has_no_cloud_and_the_node_goes_on() -> None:
    with looking(make_scene(7), "[]") as before:
        clouds = before.it.listen(PointCloud2, f"{before.it.name}/cloud")
        before.image()
        before.depth()
        topic = topic_of(before)
        before.it.until(lambda: topic._shown >= 0 and not topic._making, "the attempt")
        assert not clouds
        before.image()
        before.info()
        before.depth()
        before.it.until(lambda: clouds, "a cloud of the next image")
