"""Convert pixels to rays and positions, and positions to pixels. The module uses OpenCV and the camera models of ROS.

Pixel coordinates refer to the camera's own image. (0, 0) is the centre of the top left pixel. Positions are in metres in the
optical frame: x to the right, y down, z forward. The depth of a position is its z, not its distance from the camera.

As everywhere in ROS, the optical frame is the frame of the rectified image. If a calibration has a rotation R (stereo), this
module rotates the rays of a raw image by R. The origin of the frame is the camera's own optical centre, so the baseline in P is
not used.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

PLUMB_BOB, RATIONAL, EQUIDISTANT = "plumb_bob", "rational_polynomial", "equidistant"
_COEFFICIENTS = {PLUMB_BOB: (4, 5), RATIONAL: (4, 5, 8, 12, 14), EQUIDISTANT: (4,)}
"""The distortion models of ROS, and the numbers of coefficients that OpenCV accepts for each."""
_ALIASES = {
    PLUMB_BOB: (
        "plumbbob",
        "radtan",
        "radial_tangential",
        "radtan4",
        "radtan5",
        "brown",
        "brown_conrady",
        "opencv",
        "opencv4",
        "opencv5",
    ),
    RATIONAL: ("rational", "radtan8", "opencv8", "opencv_rational"),
    EQUIDISTANT: (
        "equi",
        "fisheye",
        "kannala_brandt",
        "kannala_brandt4",
        "kannalabrandt",
        "kannalabrandt4",
        "kb4",
        "opencv_fisheye",
    ),
}
"""Other names that drivers and calibration tools use for the same models."""
_MODELS = {name: model for model, names in _ALIASES.items() for name in (model, *names)}
_OWN_PROJECTIONS = re.compile(
    "fish|equi|kannala|omni|mei|sphere|ucm|theta|stereo|ortho|scara|ocam|cylind|panoram|division|(^|_)(fov|ds|kb[0-9]*)($|_)"
)
"""Names of lenses whose projection differs from a pinhole's even if all coefficients are 0."""

_LONGEST_MODEL = 100
"""The module reads at most this many characters of a distortion model's name."""

_PRECISION = 1e-3
"""Largest reprojection error of a ray in pixels. A ray with a larger error becomes NaN."""

_ROUNDS = 20
"""Most Newton steps. With OpenCV's result as the first guess, three are usually enough."""

_WIDEST_LENS, _LONGEST_LENS = 60.0, 2000.0
"""Bounds of the focal length: from 1/60 of the image's longer side (a field of view of 178 degrees) to 2000 times that side."""
_MOST_SQUEEZED = 5.0
"""Largest ratio of the two focal lengths. They differ if pixels are not square."""
_FARTHEST_CENTRE = 5.0
"""Largest distance of the principal point from the image's middle, in sides of the image. A cropped image has such a distance."""

_FARTHEST_RAY = 1e3
"""Largest tangent of the angle between a ray and the optical axis. A ray beyond it is parallel to the image plane: NaN."""


class GeometryError(ValueError):
    """Pixels cannot be converted to metres. The message is a sentence. The error has no outcome code: the request goes on."""


class OtherSizeError(GeometryError):
    """The calibration belongs to an image of another size."""


@dataclass(frozen=True)
class CameraModel:
    """The mapping between positions and the pixels of a camera's images.

    :param width: width of the image in pixels. ``height`` is its height.
    :param fx: focal length in pixels, horizontal. ``fy`` is the vertical one.
    :param cx: horizontal coordinate of the principal point in pixels. ``cy`` is the vertical one.
    :param distortion: `PLUMB_BOB`, `RATIONAL` or `EQUIDISTANT`, or empty for no distortion.
    :param coefficients: coefficients of the distortion model, in OpenCV's order.
    :param rotation: rows of the 3x3 matrix that rotates vectors from the lens's axes to the optical frame.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: str = ""
    coefficients: tuple[float, ...] = ()
    rotation: tuple[tuple[float, ...], ...] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))

    @classmethod
    def from_info(
        cls,
        *,
        width: int,
        height: int,
        distortion_model: str,
        d: Sequence[float],
        k: Sequence[float],
        r: Sequence[float],
        p: Sequence[float],
        binning_x: int = 0,
        binning_y: int = 0,
        roi: tuple[int, int, int, int] = (0, 0, 0, 0),
        rectified: bool,
        image_size: tuple[int, int] | None = None,
    ) -> "CameraModel":
        """Return the model for the fields of a sensor_msgs/CameraInfo.

        :param roi: x_offset, y_offset, width and height in pixels of the sensor.
        :param rectified: the images are rectified, so P describes them. Otherwise, K, D and R describe them.
        :param image_size: (width, height) of the image in pixels. The fields must result in the same size. None skips this check.
        :raises OtherSizeError: the image has another size.
        :raises GeometryError: the camera is not calibrated, or the fields contradict each other.
        """
        matrix, row = (p, 4) if rectified else (k, 3)
        if len(k) != 9 or len(r) != 9 or len(p) != 12:
            raise GeometryError(
                f"camera_info is broken: K, R and P have {len(k)}, {len(r)} and {len(p)} numbers, not 9, 9 and 12."
            )
        if not np.isfinite([*d, *k, *r, *p]).all():
            raise GeometryError("camera_info is broken: some of its numbers are not finite. Check the driver.")
        if width < 1 or height < 1:
            raise GeometryError(
                f"camera_info is broken: its size is {width}x{height} pixels. Set width and height in the driver."
            )
        fx, fy, cx, cy = matrix[0], matrix[row + 1], matrix[2], matrix[row + 2]
        if fx == 0.0 or fy == 0.0:
            which = "P contains zeros, which the rectified image needs" if rectified else "K contains zeros"
            raise GeometryError(f"The camera is not calibrated: {which} in its camera_info. Calibrate it, or publish its values.")
        if fx < 0.0 or fy < 0.0 or (not rectified and any(r) and not _is_rotation(r)):
            raise GeometryError(
                "camera_info is broken: a focal length is negative, or R is not a rotation. Calibrate the camera."
            )
        _check_lens("P" if rectified else "K", (width, height), (fx, fy), (cx, cy))
        left, top, size, bins = _region(width, height, (max(binning_x, 1), max(binning_y, 1)), roi)
        if image_size is not None and image_size != size:
            raise OtherSizeError(
                f"camera_info describes an image of {size[0]}x{size[1]} pixels, but the image has "
                f"{image_size[0]}x{image_size[1]}. Resize both, or use the camera_info of this image."
            )
        name, coefficients = ("", ()) if rectified else _distortion(distortion_model, d)
        turned = any(r) and not rectified
        return cls(
            *size,
            fx / bins[0],
            fy / bins[1],
            # The centre of a binned pixel is the middle of the sensor pixels that it combines.
            (cx - left + 0.5) / bins[0] - 0.5,
            (cy - top + 0.5) / bins[1] - 0.5,
            name,
            coefficients,
            tuple(tuple(float(value) for value in r[i : i + 3]) for i in (0, 3, 6)) if turned else cls.rotation,
        )

    def project(self, positions: npt.ArrayLike) -> Floats:
        """Return the pixels (n, 2) of positions (n, 3) in the optical frame. A position behind the camera becomes NaN."""
        points = np.asarray(positions, np.float64).reshape(-1, 3) @ np.asarray(self.rotation)
        with np.errstate(divide="ignore", invalid="ignore"):
            flat = points[:, :2] / points[:, 2:]
        flat[~(points[:, 2] > 0.0)] = np.nan
        return self._distort(flat)[0]

    def rays(self, pixels: npt.ArrayLike) -> Floats:
        """Return the positions (n, 3) at a depth of 1 m that pixels (n, 2) show. NaN: the lens model does not cover the pixel."""
        wanted = np.asarray(pixels, np.float64).reshape(-1, 2)
        flat = (wanted - (self.cx, self.cy)) / (self.fx, self.fy)
        if self.distortion and len(wanted):
            flat = self._undistort(wanted, flat)
        rays: Floats = np.column_stack((flat, np.ones(len(flat)))) @ np.asarray(self.rotation).T
        ahead = rays[:, 2] > 0.0  # R can turn a ray to the back. It would otherwise be mirrored at the optical centre.
        with np.errstate(divide="ignore", invalid="ignore"):
            rays /= rays[:, 2:]
        rays[~(ahead & (np.hypot(rays[:, 0], rays[:, 1]) < _FARTHEST_RAY))] = np.nan
        return rays

    def positions(self, pixels: npt.ArrayLike, depths: npt.ArrayLike) -> Floats:
        """Return the positions (n, 3) of pixels (n, 2) at depths (n) in metres. A position with a depth of NaN is all NaN."""
        return self.rays(pixels) * np.asarray(depths, np.float64).reshape(-1, 1)

    @property
    def _matrix(self) -> Floats:
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    def _distort(self, flat: Floats) -> tuple[Floats, Floats]:
        """Return the pixels (n, 2) of points (n, 2) in the lens's plane at depth 1, and their derivatives (n, 2, 2)."""
        if not self.distortion or not len(flat):
            return flat * (self.fx, self.fy) + (self.cx, self.cy), np.broadcast_to(np.diag((self.fx, self.fy)), (len(flat), 2, 2))
        points = np.column_stack((flat, np.ones(len(flat))))[:, None, :]
        zero, coefficients = np.zeros(3), np.array(self.coefficients)
        if self.distortion == EQUIDISTANT:
            pixels, jacobian = cv2.fisheye.projectPoints(points, zero, zero, self._matrix, coefficients)
            columns = slice(11, 13)  # x and y of the translation, after f (2), c (2), k (4) and the rotation (3).
        else:
            pixels, jacobian = cv2.projectPoints(points, zero, zero, self._matrix, coefficients)
            columns = slice(3, 5)
        return np.array(pixels, np.float64).reshape(-1, 2), np.array(jacobian[:, columns], np.float64).reshape(-1, 2, 2)

    def _undistort(self, wanted: Floats, guess: Floats) -> Floats:
        """Return points (n, 2) in the lens's plane. Newton's method refines OpenCV's result, which is not exact enough."""
        coefficients = np.array(self.coefficients)
        undistort = cv2.fisheye.undistortPoints if self.distortion == EQUIDISTANT else cv2.undistortPoints
        flat: Floats = np.array(undistort(wanted[:, None, :], self._matrix, coefficients), np.float64).reshape(-1, 2)
        # OpenCV returns huge numbers for pixels that it cannot solve.
        flat = np.where(np.abs(flat).max(axis=1, keepdims=True) < _FARTHEST_RAY, flat, guess)
        for _ in range(_ROUNDS):
            pixels, jacobian = self._distort(flat)
            miss = wanted - pixels
            with np.errstate(invalid="ignore", over="ignore"):  # Implausible coefficients overflow. Their rays become NaN.
                determinant = jacobian[:, 0, 0] * jacobian[:, 1, 1] - jacobian[:, 0, 1] * jacobian[:, 1, 0]
            if not (np.abs(miss) > 1e-7).any():
                break
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                flat = flat + np.column_stack(
                    (
                        (jacobian[:, 1, 1] * miss[:, 0] - jacobian[:, 0, 1] * miss[:, 1]) / determinant,
                        (jacobian[:, 0, 0] * miss[:, 1] - jacobian[:, 1, 0] * miss[:, 0]) / determinant,
                    )
                )
        # Beyond a certain angle, the distortion formula folds back into the image and the determinant is negative. A real lens
        # sees nothing there.
        flat[~((np.abs(miss).max(axis=1) < _PRECISION) & (determinant > 0.0))] = np.nan
        return flat


def _check_lens(what: str, size: tuple[int, int], focal: tuple[float, float], centre: tuple[float, float]) -> None:
    """Raise GeometryError for values that no lens has. Drivers without a calibration publish the identity or other units."""
    longest = max(size)
    plausible = all(longest / _WIDEST_LENS <= f <= longest * _LONGEST_LENS for f in focal)
    if not plausible or not 1.0 / _MOST_SQUEEZED <= focal[0] / focal[1] <= _MOST_SQUEEZED:
        raise GeometryError(
            f"The camera is not calibrated: {what} in its camera_info has focal lengths of {focal[0]:g} and {focal[1]:g} pixels, "
            f"which no lens of an image of {size[0]}x{size[1]} pixels has. Calibrate it, or publish its values."
        )
    if centre == (0.0, 0.0) or any(abs(c - side / 2) > _FARTHEST_CENTRE * side for c, side in zip(centre, size, strict=True)):
        raise GeometryError(
            f"The camera is not calibrated: {what} in its camera_info has its principal point at {centre[0]:g}, {centre[1]:g}, "
            f"for an image of {size[0]}x{size[1]} pixels. Calibrate it, or publish its values."
        )


def _is_rotation(r: Sequence[float]) -> bool:
    matrix = np.reshape(np.asarray(r, np.float64), (3, 3))
    if not (np.abs(matrix) <= 2.0).all():  # Larger numbers would overflow below.
        return False
    return bool(np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-3) and np.linalg.det(matrix) > 0.0)


def _distortion(name: str, d: Sequence[float]) -> tuple[str, tuple[float, ...]]:
    """Return the distortion model and its coefficients.

    Zeros at the end of ``d`` have no effect and are removed. A pinhole lens whose coefficients are all 0 needs no model.
    """
    plain = re.sub(r"[^a-z0-9]+", "_", name[:_LONGEST_MODEL].lower()).strip("_")
    model = _MODELS.get(plain)
    if not any(d) and model != EQUIDISTANT and (model or not _OWN_PROJECTIONS.search(plain)):
        return "", ()
    if model is None:
        raise GeometryError(
            f"The distortion model {name[:40]!r} is unknown. Supported are {', '.join(_COEFFICIENTS)} and their usual "
            "aliases, and any name if all coefficients are 0."
        )
    used = max((index for index, value in enumerate(d, 1) if value), default=0)
    length = next((length for length in _COEFFICIENTS[model] if used <= length <= len(d)), None)
    if length is None:
        wanted = " or ".join(str(length) for length in _COEFFICIENTS[model])
        raise GeometryError(f"camera_info is broken: {model} has {wanted} coefficients, not {len(d)}.")
    return model, tuple(float(value) for value in d[:length])


def _region(
    width: int, height: int, bins: tuple[int, int], roi: tuple[int, int, int, int]
) -> tuple[int, int, tuple[int, int], tuple[int, int]]:
    """Return left and top of the region of the sensor, the image's (width, height), and the binning; all in pixels."""
    left, top, across, down = roi
    if across == 0 and down == 0:
        left, top, across, down = 0, 0, width, height
    if across < bins[0] or down < bins[1]:
        raise GeometryError(f"camera_info is broken: its binning of {bins[0]}x{bins[1]} exceeds {across}x{down} pixels.")
    if left < 0 or top < 0 or left + across > width or top + down > height:
        raise GeometryError(
            f"camera_info is broken: its roi of {across}x{down} pixels at {left}, {top} does not fit in {width}x{height} pixels."
        )
    return left, top, (across // bins[0], down // bins[1]), bins


def to_depth_pixels(pixels: Floats, scale: tuple[float, float]) -> Floats:
    """Return the pixels (..., 2) of the depth image that show the same as pixels of the image. Centres map to centres.

    :param scale: depth pixels per pixel of the image: (horizontal, vertical).
    """
    return np.asarray((pixels + 0.5) * scale - 0.5, np.float64)


def to_image_pixels(pixels: Floats, scale: tuple[float, float]) -> Floats:
    """Return the pixels (..., 2) of the image for pixels of the depth image: the inverse of `to_depth_pixels`."""
    return np.asarray((pixels + 0.5) / scale - 0.5, np.float64)
