"""Resize an image for the model, and convert the model's coordinates to pixels of the original image.

The sides of the resized image are multiples of `Profile.cell`, and its area is within a pixel budget. The model's processor would
also resize images, but to a size that the caller does not know. This module therefore resizes the image first, to a size that the
processor does not change. The model's coordinates refer to this size, so the conversion is exact.

The coordinate of a pixel is the coordinate of its centre. (0, 0) is the centre of the top left pixel. An image with a width of W
pixels extends from -0.5 to W - 0.5. If the resized image has a width of w pixels, a coordinate x of the model becomes

- for pixels of the resized image: ``u = (x + 0.5) * W / w - 0.5``. This maps centres to centres, as OpenCV's resize does.
- for thousandths: ``u = x / 1000 * W - 0.5``. Thousandths divide the image's extent: 0 is its left border and 1000 its right
  border, so no half pixel is added to x.
- for fractions, which some models write instead: as for thousandths, with 1 in place of 1000.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from robobrain_ros.bounds.files import UnreadableFileError, read_small_file
from robobrain_ros.core.formats.bit_depth import colour_to_8_bits, gray_to_8_bits
from robobrain_ros.core.profiles import CoordinateRule
from robobrain_ros.core.query import Box, Point, RgbImage
from robobrain_ros.engine.base import MAX_CELLS, MIN_CELLS
from robobrain_ros.errors import BadImageError, EngineConfigError

_LARGEST_FILE = 256 << 20
"""Largest image file in bytes."""

MAX_SIDE_RATIO = 200
"""Largest ratio of the sides. The processor of Qwen-VL rejects larger ratios."""


@dataclass(frozen=True)
class FittedSize:
    """The size of an image, and its size after resizing for the model, in pixels."""

    width: int
    height: int
    model_width: int
    model_height: int

    def to_image(self, point: Point, rule: CoordinateRule, normalized: bool = False) -> Point:
        """Convert a point from the model's coordinates to pixels of the image.

        :param normalized: whether the coordinates are fractions of the image (`ParsedAnswer.normalized`).
        :returns: ``u`` in [0, width - 1], ``v`` in [0, height - 1]. ``clamped`` is true if the model's point was outside.
        """
        grid = _Grid.of(self, rule, normalized)
        (u, u_clamped), (v, v_clamped) = grid.across.map(point.u), grid.down.map(point.v)
        return replace(point, u=u, v=v, clamped=u_clamped or v_clamped)

    def box_to_image(self, box: Box, rule: CoordinateRule, normalized: bool = False) -> Box:
        """Convert a box as `to_image` converts a point. Corners on the image's border are valid: models write such boxes."""
        grid = _Grid.of(self, rule, normalized)
        corners = [grid.across.map(box.u_min, True), grid.down.map(box.v_min, True)]
        corners += [grid.across.map(box.u_max, True), grid.down.map(box.v_max, True)]
        (u_min, _), (v_min, _), (u_max, _), (v_max, _) = corners
        clamped = any(clamped for _, clamped in corners)
        return replace(box, u_min=u_min, v_min=v_min, u_max=u_max, v_max=v_max, clamped=clamped)


@dataclass(frozen=True)
class _Axis:
    """One axis of the model's coordinates.

    :param extent: length of the image's side in the model's unit.
    :param centre: offset from a coordinate to the centre of its pixel: 0.5 for pixels, 0 for fractions of the side.
    :param size: length of the image's side in pixels.
    """

    extent: int
    centre: float
    size: int

    def map(self, value: float, borders: bool = False) -> tuple[float, bool]:
        """Return the value in pixels of the image, and whether it was clamped to the image.

        :param borders: whether values up to the image's border are valid, not only up to the centre of the last pixel.
        """
        place = value + self.centre
        end = self.extent + (self.centre if borders else 0.0)
        mapped = place * self.size / self.extent - 0.5
        return min(max(mapped, 0.0), self.size - 1.0), not 0.0 <= place <= end


@dataclass(frozen=True)
class _Grid:
    across: _Axis
    down: _Axis

    @classmethod
    def of(cls, size: FittedSize, rule: CoordinateRule, normalized: bool) -> "_Grid":
        if normalized:
            return cls(_Axis(1, 0.0, size.width), _Axis(1, 0.0, size.height))
        if rule is CoordinateRule.THOUSANDTHS:
            return cls(_Axis(1000, 0.0, size.width), _Axis(1000, 0.0, size.height))
        return cls(_Axis(size.model_width, 0.5, size.width), _Axis(size.model_height, 0.5, size.height))


@dataclass(frozen=True)
class Fitted:
    """An image after resizing for the model: RGB, (model_height, model_width, 3), uint8."""

    image: RgbImage
    size: FittedSize


@dataclass(frozen=True)
class PixelBudget:
    """The least and most pixels of a resized image, and the side in pixels of the square that one visual token covers."""

    min_pixels: int
    max_pixels: int
    cell: int

    @classmethod
    def within(cls, max_pixels: int, checkpoint_min: int, checkpoint_max: int, cell: int) -> "PixelBudget":
        """Return the checkpoint's budget, limited to ``max_pixels``. A checkpoint's limit of 0 means that the limit is unknown.

        :raises EngineConfigError: ``max_pixels`` is below the checkpoint's minimum.
        """
        smallest = checkpoint_min or MIN_CELLS * cell * cell
        largest = checkpoint_max or MAX_CELLS * cell * cell
        if max_pixels < smallest:
            raise EngineConfigError(
                f"max_pixels is {max_pixels}; this checkpoint needs at least {smallest}. Increase max_pixels."
            )
        return cls(smallest, min(max_pixels, largest), cell)

    def narrowed(self, max_pixels: int) -> "PixelBudget":
        """Return this budget with a lower pixel limit, but not below the minimum. 0 returns the same budget.

        A higher limit has no effect. Otherwise, the model's processor would shrink the image again, and the conversion of
        coordinates would be wrong.
        """
        if not max_pixels:
            return self
        return replace(self, max_pixels=min(max(max_pixels, self.min_pixels), self.max_pixels))


def fit(image_size: tuple[int, int], min_pixels: int, max_pixels: int, cell: int) -> FittedSize:
    """Return the size of an image after resizing for the model.

    It is the result of ``smart_resize`` of transformers' Qwen2-VL processor with ``factor=cell``, applied until the size no
    longer changes. One application is not always enough: a long narrow image under a tight budget shrinks again each time.

    :param image_size: (width, height) in pixels.
    :param min_pixels: least pixels of the resized image, if a size in whole cells permits this.
    :param max_pixels: most pixels of the resized image. It always has at least one cell.
    :param cell: the side in pixels of the square that one visual token covers.
    :raises BadImageError: the image is empty, or the ratio of its sides exceeds `MAX_SIDE_RATIO`.
    """
    width, height = image_size
    if width < 1 or height < 1:
        raise BadImageError(f"The image is empty: {width}x{height} pixels.")
    if max(width, height) > MAX_SIDE_RATIO * min(width, height):
        raise BadImageError(
            f"The image has {width}x{height} pixels: the longer side exceeds {MAX_SIDE_RATIO} times the "
            "shorter side. Crop the image."
        )
    model_width, model_height = _resting_size(width, height, max(min_pixels, cell * cell), max_pixels, cell)
    return FittedSize(width, height, model_width, model_height)


def fit_image(image: RgbImage, budget: PixelBudget) -> Fitted:
    """Resize an image to the model's grid, with area interpolation to a smaller size, and bicubic interpolation to a larger size.

    :param image: RGB, (height, width, 3), uint8; returned unchanged if its size already fits.
    :raises BadImageError: the array has another shape or dtype, or the size cannot be fitted (see `fit`).
    """
    check_image(image)
    height, width = image.shape[:2]
    size = fit((width, height), budget.min_pixels, budget.max_pixels, budget.cell)
    if (size.model_width, size.model_height) == (width, height):
        return Fitted(image, size)
    shrinks = size.model_width * size.model_height < width * height
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    resized = cv2.resize(image, (size.model_width, size.model_height), interpolation=interpolation)
    return Fitted(resized, size)  # type: ignore[arg-type]


def read_image(path: str | Path) -> RgbImage:
    """Read an image file (JPEG, PNG, ...) as RGB, (height, width, 3), uint8.

    `core.formats.bit_depth` describes how 16-bit images are scaled.

    :raises BadImageError: the file does not exist, or is not an image.
    """
    try:
        data = np.frombuffer(read_small_file(path, _LARGEST_FILE).content, np.uint8)
    except UnreadableFileError as error:
        raise BadImageError(f"{path} cannot be read: {error}.") from error
    image = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH) if data.size else None
    if image is not None and image.dtype == np.uint16:
        gray = np.array_equal(image[:, :, 0], image[:, :, 1]) and np.array_equal(image[:, :, 0], image[:, :, 2])
        image = (gray_to_8_bits if gray else colour_to_8_bits)(image)  # type: ignore[arg-type]
    elif image is not None and image.dtype != np.uint8:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if image is None:
        raise BadImageError(f"{path} is not an image that OpenCV can read.")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]


def check_image(image: object) -> None:
    """Raise BadImageError unless the image is RGB: a non-empty array (height, width, 3), uint8."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise BadImageError(f"An image must be an array of shape (height, width, 3) and type uint8, not {_kind_of(image)}.")
    if image.size == 0:
        raise BadImageError(f"The image is empty: {image.shape[1]}x{image.shape[0]} pixels.")


def _kind_of(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"shape {value.shape} and type {value.dtype}"
    return type(value).__name__


def _resting_size(width: int, height: int, min_pixels: int, max_pixels: int, cell: int) -> tuple[int, int]:
    """Apply ``smart_resize`` until the size no longer changes. If it keeps changing, use the nearest aspect ratio."""
    size = width, height
    for _ in range(16):
        resized = _smart_resize(*size, min_pixels, max_pixels, cell)
        if resized == size:
            return size
        size = _within_ratio(*resized)
    return _nearest_size(width, height, min_pixels, max_pixels, cell)


def _smart_resize(width: int, height: int, min_pixels: int, max_pixels: int, cell: int) -> tuple[int, int]:
    new_width, new_height = round(width / cell) * cell, round(height / cell) * cell
    if new_width * new_height > max_pixels:
        shrink = math.sqrt(width * height / max_pixels)
        new_width = max(cell, math.floor(width / shrink / cell) * cell)
        new_height = max(cell, math.floor(height / shrink / cell) * cell)
    elif new_width * new_height < min_pixels:
        grow = math.sqrt(min_pixels / (width * height))
        new_width = math.ceil(width * grow / cell) * cell
        new_height = math.ceil(height * grow / cell) * cell
    return new_width, new_height


def _within_ratio(width: int, height: int) -> tuple[int, int]:
    return min(width, MAX_SIDE_RATIO * height), min(height, MAX_SIDE_RATIO * width)


def _nearest_size(width: int, height: int, min_pixels: int, max_pixels: int, cell: int) -> tuple[int, int]:
    """Return the largest size with the nearest aspect ratio. In a narrow budget, ``smart_resize`` rounds to no valid size."""
    least, most = math.ceil(min_pixels / cell**2), max_pixels // cell**2
    best: tuple[float, int, tuple[int, int]] | None = None
    for rows in range(1, most + 1):
        fewest = max(math.ceil(least / rows), math.ceil(rows / MAX_SIDE_RATIO))
        greatest = min(most // rows, MAX_SIDE_RATIO * rows)
        if fewest > greatest:
            continue
        columns = min(max(round(rows * width / height), fewest), greatest)
        off = abs(math.log(columns * height / (rows * width)))
        candidate = (off, -rows * columns, (columns * cell, rows * cell))
        best = candidate if best is None or candidate < best else best
    if best is None:
        raise EngineConfigError(
            f"No image size in multiples of {cell} pixels has between {min_pixels} and {max_pixels} pixels. Increase max_pixels."
        )
    return best[2]
