"""Simulate the noise, steps and holes of a structured-light depth camera, the first Kinect.

The model and its sources:

- Depths have normal noise of 1.425 mm at 1 m, and steps of 2.85 mm at 1 m. Both grow with the square of the depth. Khoshelham
and Elberink, "Accuracy and Resolution of Kinect Depth Data for Indoor Mapping Applications", Sensors 12(2), 2012.
- Edges move by 0.8 pixels. Nguyen, Izadi and Lovell, "Modeling Kinect Sensor Noise for Improved 3D Reconstruction and Tracking",
3DIMPVT 2012.
- There is no depth in shadows of the projector, which is 75 mm beside the camera; on surfaces that are seen at more than 80
degrees; below 0.4 m and above 5 m; and at a random 2 % of the pixels.
"""

import math

import numpy as np
import numpy.typing as npt

NOISE, STEP = 1.425e-3, 2.85e-3
"""Standard deviation of the noise and size of a step, in metres at 1 m."""

BASELINE, NEAREST, FARTHEST, STEEPEST, LOST, WAVER = 0.075, 0.4, 5.0, 80.0, 0.02, 0.8
"""Distance of projector and camera, smallest and largest depth (m), steepest surface (degrees), share of random holes, and
movement of edges (pixels).
"""


def measure(depth: npt.NDArray[np.float32], focal_length: float, seed: int) -> npt.NDArray[np.uint16]:
    """Return the depth image that the camera measures: (height, width), uint16, millimetres, 0 for no depth.

    :param true: true depth (height, width) in metres.
    :param focal_length: pixels.
    """
    rng = np.random.default_rng(seed)
    height, width = depth.shape
    true = depth.astype(np.float64)
    rows, columns = np.mgrid[:height, :width]
    # Neighbouring pixels move together, so the noise is generated on a grid that is four times as coarse. Otherwise, edges would
    # become dust.
    coarse = rng.normal(0.0, WAVER, (2, height // 4 + 1, width // 4 + 1)).repeat(4, axis=1).repeat(4, axis=2)[:, :height, :width]
    rows = np.clip(np.rint(rows + coarse[0]), 0, height - 1).astype(np.intp)
    columns = np.clip(np.rint(columns + coarse[1]), 0, width - 1).astype(np.intp)
    slant = np.hypot(*np.gradient(true)) * focal_length / true
    # Edges are not slanted surfaces, so their gradient is ignored.
    step = np.hypot(*np.gradient(true)) > 0.03 * true
    steep = (slant > math.tan(math.radians(STEEPEST))) & ~step
    # The light comes from the right. A nearer surface on the right hides a pixel if the pixel has the smaller disparity.
    disparity = focal_length * BASELINE / true
    lit = columns_lit(disparity)
    seen = true[rows, columns]
    noisy = seen + rng.normal(0.0, 1.0, seen.shape) * NOISE * seen**2
    # Steps are equal in disparity, so they grow with the square of the depth.
    inverse = np.rint(1.0 / np.maximum(noisy, 0.1) / STEP) * STEP
    measured = 1.0 / np.maximum(inverse, STEP)
    hole = steep | ~lit | (seen < NEAREST) | (seen > FARTHEST) | (rng.random(seen.shape) < LOST)
    return np.where(hole, 0.0, np.rint(measured * 1000.0)).astype(np.uint16)


def columns_lit(disparity: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return which pixels the light of the projector reaches.

    In the projector's image, each pixel is shifted to the left by its disparity. A pixel is hidden if a pixel to its left is
    shifted to the same column or further to the right.

    :param disparity: (height, width), pixels.
    """
    place = np.arange(disparity.shape[1]) - disparity
    before = np.maximum.accumulate(place, axis=1)
    lit = np.ones(disparity.shape, np.bool_)
    lit[:, 1:] = place[:, 1:] > before[:, :-1] - 0.5
    return lit
