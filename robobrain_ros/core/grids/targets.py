"""Rendered images with unmistakable targets at known positions.

The sizes and positions are such that an answer that hits its target on one grid misses it on every other grid: a test checks this
for each pair of grids. So each image is larger than the model sees it, its sides differ from 1000 pixels, and no target is near
the top left corner, where all grids agree.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from robobrain_ros.core.query import RgbImage

MAX_PIXELS = 300_000
"""Pixel limit of the images for the model. A lower limit makes the check faster."""
REACH = 0.08
"""Largest distance of a hit from the centre of its target, as a share of the mean side of the image."""
_RADIUS = 0.06
"""Half of the side of a target, in the same unit."""
_GREY = 205
_COLOURS = {"red disc": (215, 25, 30), "blue cross": (25, 60, 200), "green square": (20, 140, 50)}


@dataclass(frozen=True)
class TargetImage:
    """An image with a disc, a cross and a square.

    :param size: (width, height) in pixels.
    :param places: centre of each target by its name, as shares of the width and of the height.
    """

    size: tuple[int, int]
    places: dict[str, tuple[float, float]]

    @property
    def mean_side(self) -> float:
        """The mean of the width and of the height in pixels."""
        return sum(self.size) / 2

    def centre(self, target: str) -> tuple[float, float]:
        """Return the centre of a target in pixels."""
        x, y = self.places[target]
        return x * self.size[0] - 0.5, y * self.size[1] - 0.5

    def render(self) -> RgbImage:
        """Return the image: RGB, (height, width, 3), uint8."""
        width, height = self.size
        image = np.full((height, width, 3), _GREY, np.uint8)
        radius = round(_RADIUS * self.mean_side)
        for target, colour in _COLOURS.items():
            u, v = (round(value) for value in self.centre(target))
            low, high = (u - radius, v - radius), (u + radius, v + radius)
            if target == "red disc":
                cv2.circle(image, (u, v), radius, colour, -1, cv2.LINE_AA)
            elif target == "green square":
                cv2.rectangle(image, low, high, colour, -1)
            else:
                for start, end in ((low, high), ((low[0], high[1]), (high[0], low[1]))):
                    cv2.line(image, start, end, colour, max(radius // 2, 3), cv2.LINE_AA)
        return image


IMAGES = (
    TargetImage((1600, 900), {"red disc": (0.80, 0.64), "blue cross": (0.30, 0.80), "green square": (0.55, 0.36)}),
    TargetImage((900, 1600), {"blue cross": (0.66, 0.82), "green square": (0.78, 0.40), "red disc": (0.30, 0.62)}),
    TargetImage((1440, 1440), {"green square": (0.74, 0.76), "red disc": (0.36, 0.80), "blue cross": (0.82, 0.36)}),
    TargetImage((1920, 720), {"red disc": (0.62, 0.34), "green square": (0.36, 0.76), "blue cross": (0.80, 0.70)}),
)
ROUNDS = tuple(tuple((image, list(image.places)[number]) for image in IMAGES) for number in range(3))
"""The questions in the order in which they are asked: each round has one question about each image."""
