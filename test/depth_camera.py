"""What a structured-light depth camera makes of a scene's true depth: noise, steps and holes as of the first Kinect.

The model, and where it is from:

- Along the axis, normal noise of 1.425 mm at 1 m that grows with the square of the depth, and steps of 2.85 mm at 1 m that grow
  likewise: Khoshelham and Elberink, "Accuracy and Resolution of Kinect Depth Data for Indoor Mapping Applications",
  Sensors 12(2), 2012.
- Across, edges that waver by 0.8 pixels: Nguyen, Izadi and Lovell, "Modeling Kinect Sensor Noise for Improved 3D Reconstruction
  and Tracking", 3DIMPVT 2012.
- No depth where the projector, 75 mm beside the camera, does not reach (the shadow of what is nearer), where a surface is seen
  at more than 80 degrees, nearer than 0.4 m, farther than 5 m, and at 2 % of the pixels by chance.
"""

import math

import numpy as np
import numpy.typing as npt

NOISE, STEP = 1.425e-3, 2.85e-3
"""Standard deviation of the noise, and size of a step: metres at 1 m."""

BASELINE, NEAREST, FARTHEST, STEEPEST, LOST, WAVER = 0.075, 0.4, 5.0, 80.0, 0.02, 0.8
"""Projector to camera, least and greatest depth (m), steepest surface (degrees), part lost by chance, wavering of edges (px)."""


def measure(depth: npt.NDArray[np.float32], focal_length: float, seed: int) -> npt.NDArray[np.uint16]:
    """The depth image, millimetres with 0 for none, that is measured of a true depth (height, width) in metres.

    :param focal_length: pixels.
    """
    rng = np.random.default_rng(seed)
    height, width = depth.shape
    true = depth.astype(np.float64)
    rows, columns = np.mgrid[:height, :width]
    # One pixel's wavering is its neighbour's, too, or edges would be dust: noise on a grid four times as coarse.
    coarse = rng.normal(0.0, WAVER, (2, height // 4 + 1, width // 4 + 1)).repeat(4, axis=1).repeat(4, axis=2)[:, :height, :width]
    rows = np.clip(np.rint(rows + coarse[0]), 0, height - 1).astype(np.intp)
    columns = np.clip(np.rint(columns + coarse[1]), 0, width - 1).astype(np.intp)
    slant = np.hypot(*np.gradient(true)) * focal_length / true
    # A step is no slant: at an edge, the gradient is that of no surface.
    step = np.hypot(*np.gradient(true)) > 0.03 * true
    steep = (slant > math.tan(math.radians(STEEPEST))) & ~step
    # A surface's light comes from the right: what is nearer there hides it where it has the smaller disparity.
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
    """Where the projector's light gets to, by the disparities (height, width) in pixels.

    In the projector's image, a pixel lies its disparity to the left; what is not to the right of all those to its left there
    is hidden by one of them.
    """
    place = np.arange(disparity.shape[1]) - disparity
    before = np.maximum.accumulate(place, axis=1)
    lit = np.ones(disparity.shape, np.bool_)
    lit[:, 1:] = place[:, 1:] > before[:, :-1] - 0.5
    return lit
