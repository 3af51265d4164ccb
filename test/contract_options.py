"""The options of the contract test's requests: limits, cameras, own images, and images of different times."""

import math
from array import array
from typing import TYPE_CHECKING

from contract_node import GRID, image_of
from sensor_msgs.msg import Image

from robobrain_ros.msg import QueryOptions

if TYPE_CHECKING:
    from contract_client import ContractClient

UNCHECKED = -1
"""Number of the image that the engine answers about if it gets several of the camera's images."""
HISTORY = {"camera.history_seconds": 2.0, "camera.history_frames": 4}
"""Parameters of the first camera."""
_WRONG_HISTORIES = [(1.0, 0), (0.0, 3), (1.0, 1), (1.0, 4_000), (math.nan, 3), (-1.0, 3), (1e-38, 2), (100.0, 3)]
_SEVERAL = ("ask", "plan")
"""The tasks that take several images."""


def own_image(client: "ContractClient", later: float = 0.0) -> tuple[Image, int]:
    """Return an image of a request, and the number that it encodes."""
    number = client._random.randrange(GRID * GRID)
    image = Image(width=64, height=48, encoding="rgb8", step=192, data=array("B", image_of(number).tobytes()))
    image.header.stamp = client._stamp(client.now() + later)
    return image, number


def make_options(client: "ContractClient", task: str = "") -> tuple[QueryOptions, bool, bool, int | None]:
    """Return options, whether they and their images are valid, and the number of the request's own image.

    :param task: task of the request. Empty: the options have one image at most.
    """
    random = client._random
    options = QueryOptions(timeout=random.choice([0.0, 0.3, 1.0, 2.0]))
    valid = readable = True
    number: int | None = None
    kind = random.random()
    if kind < 0.10:
        options.timeout = random.choice([-1.0, math.nan, math.inf, -math.inf, -1e-30])
        valid = False
    elif kind < 0.15:
        options.think, valid = random.choice([3, 255]), False
    elif kind < 0.20:
        options.camera, valid = random.choice(["nope", "x" * 2_000, "../camera"]), False
    elif kind < 0.30:
        image, number = own_image(client)
        if random.random() < 0.4:
            readable = False
            spoilt = [(array("B"), "rgb8"), (image.data, "foo"), (image.data[:7], "rgb8")]
            image.data, image.encoding = random.choice(spoilt)
        options.images = [image]
    elif kind < 0.5:
        options.camera = "deep"
    elif kind < 0.6 and task:
        valid, number = _add_images(client, options, task)
    if valid and random.random() < 0.1:
        options.think = QueryOptions.THINK_ON
    return options, valid, readable, number


def _add_images(client: "ContractClient", options: QueryOptions, task: str) -> tuple[bool, int | None]:
    """Request several images. Return whether the task takes them, and the number of the first own image."""
    random = client._random
    kind = random.choice(["history", "no history", "images in time", "cameras"])
    if kind == "history":
        options.history_seconds, options.history_frames = random.choice([0.5, 2.0]), random.choice([2, 4])
        return task in _SEVERAL, UNCHECKED
    if kind == "no history":
        options.history_seconds, options.history_frames = random.choice(_WRONG_HISTORIES)
        return False, None
    if kind == "images in time":
        (first, number), (second, _) = own_image(client), own_image(client, 0.5)
        options.images, options.images_in_time = [first, second], True
        return task in _SEVERAL, number
    options.cameras = ["camera", "deep"]
    return task in _SEVERAL, UNCHECKED
