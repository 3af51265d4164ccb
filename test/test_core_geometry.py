"""Rays and positions of pixels agree with OpenCV's projection, for every camera model of ROS."""

import math
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robobrain_ros.core.geometry import EQUIDISTANT, PLUMB_BOB, RATIONAL, CameraModel, GeometryError

IDENTITY = [1.0, 0, 0, 0, 1, 0, 0, 0, 1]
K = [525.0, 0, 319.5, 0, 526.0, 239.5, 0, 0, 1]
P = [500.0, 0, 310.0, 0, 0, 501.0, 230.0, 0, 0, 0, 1, 0]
INFO: dict[str, Any] = {
    "width": 640,
    "height": 480,
    "distortion_model": "plumb_bob",
    "d": [0.0] * 5,
    "k": K,
    "r": IDENTITY,
    "p": P,
    "rectified": False,
}


def coefficients(model: str, rng: np.random.Generator) -> list[float]:
    """Return coefficients as real lenses have them: k1 from -0.35 to 0.2, and the others in proportion."""
    if model == PLUMB_BOB:
        k1 = rng.uniform(-0.35, 0.2)
        return [k1, rng.uniform(0.2, 0.6) * k1 * k1, *rng.uniform(-2e-3, 2e-3, 2), rng.uniform(-0.02, 0.02)]
    if model == RATIONAL:
        # Numerator and denominator nearly cancel, as in the calibrations of Azure Kinect and RealSense.
        down = rng.uniform(0.1, 1.0), rng.uniform(0.0, 0.3), rng.uniform(0.0, 0.05)
        up = down[0] + rng.uniform(-0.3, 0.1), down[1] + rng.uniform(0.0, 0.1), down[2] + rng.uniform(0.0, 0.01)
        return [up[0], up[1], *rng.uniform(-2e-3, 2e-3, 2), up[2], *down]
    if model == EQUIDISTANT:
        angle = np.linspace(0.0, 1.5, 50)
        while True:  # A lens must map a larger angle farther from the centre.
            d = [*rng.uniform(-0.06, 0.06, 2), *rng.uniform(-0.01, 0.01, 2)]
            if (sum((2 * i + 3) * k * angle ** (2 * i + 2) for i, k in enumerate(d)) > -0.9).all():
                return d
    return []


def camera(model: str, rng: np.random.Generator) -> tuple[dict[str, Any], float]:
    """Return the values of a camera_info, and the tangent of half the field of view."""
    width, height = [(640, 480), (1280, 720), (1920, 1080), (848, 480)][rng.integers(4)]
    half = math.radians(rng.uniform(25, 80 if model == EQUIDISTANT else 42))
    f = width / 2 / (half if model == EQUIDISTANT else math.tan(half))
    k = [f, 0, width / 2 + rng.uniform(-20, 20), 0, f * rng.uniform(0.98, 1.02), height / 2 + rng.uniform(-20, 20), 0, 0, 1]
    turn = cv2.Rodrigues(rng.uniform(-0.02, 0.02, 3))[0].ravel().tolist()
    info = {
        "width": width,
        "height": height,
        "distortion_model": model,
        "d": coefficients(model, rng),
        "k": k,
        "r": turn,
        "p": P,
        "rectified": False,
    }
    return info, math.tan(half)


@pytest.mark.parametrize("model", [PLUMB_BOB, RATIONAL, EQUIDISTANT, "none"])
def test_positions_come_back_through_opencvs_own_projection(model: str) -> None:
    """1,000 cameras of each model have errors below 1e-6 m and 1e-3 px."""
    rng = np.random.default_rng(1)
    seen = 0
    for _ in range(1000):
        info, reach = camera(model, rng)
        lens = CameraModel.from_info(**info)
        depth = rng.uniform(0.3, 5.0, (20, 1))
        flat = rng.uniform(-reach, reach, (20, 2)) * (1.0, 0.6)
        points = np.hstack((flat * depth, depth))
        rvec = cv2.Rodrigues(np.reshape(info["r"], (3, 3)).T)[0]
        matrix, d = np.reshape(info["k"], (3, 3)), np.array(info["d"] or [0.0] * 4)
        project = cv2.fisheye.projectPoints if model == EQUIDISTANT else cv2.projectPoints
        pixels = project(points[:, None, :], rvec, np.zeros(3), matrix, d)[0].reshape(-1, 2)
        inside = ((pixels >= -0.5) & (pixels <= (info["width"] - 0.5, info["height"] - 0.5))).all(axis=1)
        assert np.abs(lens.project(points) - pixels).max() < 1e-3
        found = lens.positions(pixels[inside], depth[inside, 0])
        assert np.abs(found - points[inside]).max(initial=0.0) < 1e-6, info
        assert np.abs(lens.project(found) - pixels[inside]).max(initial=0.0) < 1e-3, info
        seen += int(inside.sum())
    assert seen > 10_000


def test_pixels_without_a_ray_are_nan() -> None:
    """Beyond the fold of a barrel lens, the formula would map back into the image."""
    lens = CameraModel.from_info(**{**INFO, "d": [-0.35, 0.0, 0.0, 0.0, 0.0]})
    rays = lens.rays([(319.5, 239.5), (5000.0, 239.5), (math.nan, 0.0)])
    assert rays[0] == pytest.approx((0.0, 0.0, 1.0))
    assert np.isnan(rays[1:]).all()
    assert np.isnan(lens.project([(0.1, 0.1, -1.0), (0.1, 0.1, 0.0)])).all()


def test_a_ray_that_r_turns_to_the_back_is_nan() -> None:
    """It would otherwise be mirrored at the optical centre."""
    lens = CameraModel.from_info(**{**INFO, "r": [-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0]})
    assert np.isnan(lens.rays([(319.5, 239.5), (0.0, 0.0), (639.0, 100.0)])).all()


def test_a_position_without_depth_is_nan_as_a_whole() -> None:
    lens = CameraModel.from_info(**INFO)
    assert np.isnan(lens.positions([(3.0, 4.0)], [math.nan])).all()
    assert lens.positions(np.empty((0, 2)), []).shape == (0, 3)


def test_a_rectified_image_is_described_by_p_alone() -> None:
    """Distortion, rotation and the baseline of a stereo camera's second half have no effect."""
    stereo = [*P[:3], -25.0, *P[4:]]
    lens = CameraModel.from_info(**{**INFO, "d": [-0.3, 0.1, 0, 0, 0], "p": stereo, "rectified": True})
    assert lens.positions([(310.0 + 50.0, 230.0)], [2.0])[0] == pytest.approx((0.2, 0.0, 2.0))


def test_raw_and_rectified_images_give_the_same_position() -> None:
    """A raw pixel and the rectified pixel from OpenCV have the same ray."""
    turn = cv2.Rodrigues(np.array([0.02, -0.03, 0.01]))[0]
    info = {**INFO, "d": [-0.2, 0.05, 1e-3, -1e-3, 0.0], "r": turn.ravel().tolist()}
    raw = np.array([(100.0, 80.0), (500.0, 400.0), (320.0, 240.0)])
    matrix, projection = np.reshape(K, (3, 3)), np.reshape(P, (3, 4))
    rectified = cv2.undistortPoints(raw[:, None, :], matrix, np.array(info["d"]), R=turn, P=projection[:, :3]).reshape(-1, 2)
    ours = CameraModel.from_info(**{**info, "rectified": True}).rays(rectified)
    # OpenCV's own rectification has an error of a few thousandths of a pixel.
    assert np.allclose(CameraModel.from_info(**info).rays(raw), ours, atol=2e-4)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 300), st.integers(0, 200))
@settings(deadline=None)
def test_binning_and_roi_keep_every_ray(across: int, down: int, left: int, top: int) -> None:
    """A binned pixel has the ray of the middle of its sensor pixels."""
    whole = CameraModel.from_info(**INFO)
    part = CameraModel.from_info(**INFO, binning_x=across, binning_y=down, roi=(left, top, 320, 240))
    assert (part.width, part.height) == (320 // across, 240 // down)
    pixel = np.array([(7.0, 5.0)])
    sensor = [(left + 7 * across + (across - 1) / 2, top + 5 * down + (down - 1) / 2)]
    assert np.allclose(part.rays(pixel), whole.rays(sensor), atol=1e-12)
    assert CameraModel.from_info(**INFO, roi=(0, 0, 640, 480)) == whole


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"k": [0.0] * 9}, "not calibrated"),
        ({"p": [0.0] * 12, "rectified": True}, "P contains zeros"),
        ({"distortion_model": "kannala"}, "'kannala' is unknown"),
        ({"distortion_model": "", "d": [0.1]}, "'' is unknown"),
        ({"d": [0.1, 0.2, 0.3]}, "4 or 5 coefficients, not 3"),
        ({"distortion_model": "equidistant", "d": []}, "4 coefficients, not 0"),
        ({"width": 0}, "its size is 0x480 pixels"),
        ({"binning_x": 5000}, "binning of 5000x1 exceeds"),
        ({"roi": (600, 0, 100, 100)}, "does not fit"),
        ({"image_size": (1280, 960)}, "640x480 pixels, but the image has 1280x960"),
        ({"k": [math.nan] * 9}, "not finite"),
        ({"k": [-5.0, *K[1:]]}, "negative"),
        ({"r": [1.0] * 9}, "not a rotation"),
        ({"r": [1e300] * 9}, "not a rotation"),
        ({"k": K[:4]}, "4, 9 and 12 numbers"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_an_invalid_calibration_is_rejected_with_a_sentence(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(GeometryError, match=words) as refused:
        CameraModel.from_info(**{**INFO, **changes})
    assert str(refused.value).endswith(".")


def test_a_driver_that_leaves_out_what_it_does_not_need_is_understood() -> None:
    """Drivers leave R at zeros for a single camera, and publish no coefficients for a lens without distortion."""
    plain = CameraModel.from_info(**INFO)
    same: tuple[dict[str, Any], ...] = (
        {"r": [0.0] * 9},
        {"d": []},
        {"distortion_model": "", "d": []},
        {"distortion_model": "none", "d": []},
    )
    for changes in same:
        assert CameraModel.from_info(**{**INFO, **changes}) == plain


D5 = [0.1, -0.2, 0.001, 0.002, 0.05]


@pytest.mark.parametrize(
    ("model", "d", "surplus"),
    [
        ("plumb_bob", D5, 3),
        ("plumb_bob", D5, 9),
        ("plumb_bob", D5[:4], 1),
        ("rational_polynomial", [*D5, 0.1, 0.1, 0.1], 6),
        ("rational_polynomial", [*D5, 0.1, 0.1, 0.1], 1),
        ("equidistant", [0.01, 0.02, 0.003, 0.001], 1),
        ("equidistant", [0.01, 0.02, 0.0, 0.0], 4),
    ],
)
def test_extra_zeros_after_the_coefficients_are_ignored(model: str, d: list[float], surplus: int) -> None:
    """Drivers that extend D to a fixed length get the same rays."""
    pixels = [(0.0, 0.0), (100.0, 400.0), (600.0, 50.0)]
    plain = CameraModel.from_info(**{**INFO, "distortion_model": model, "d": d})
    filled = CameraModel.from_info(**{**INFO, "distortion_model": model, "d": [*d, *[0.0] * surplus]})
    assert plain.distortion == filled.distortion == model
    assert np.allclose(plain.rays(pixels), filled.rays(pixels), atol=1e-9, equal_nan=True)


def test_more_coefficients_than_the_model_has_are_rejected() -> None:
    for model, d in (("plumb_bob", [*D5, 0.1, 0.0]), ("equidistant", [0.01] * 5), ("rational_polynomial", [0.01] * 15)):
        with pytest.raises(GeometryError, match=f"{model} has .* coefficients, not {len(d)}"):
            CameraModel.from_info(**{**INFO, "distortion_model": model, "d": d})


NO_LENS = ("", "none", "None", "NONE", "pinhole", "Pinhole", "perspective", "ideal", "brown4", "inverse_brown_conrady")


@pytest.mark.parametrize("d", [[], [0.0] * 4, [0.0] * 5, [0.0] * 8, [0.0] * 14])
def test_a_lens_without_coefficients_needs_no_model(d: list[float]) -> None:
    """The name of the model does not matter if its projection is that of a pinhole."""
    plain = CameraModel.from_info(**INFO)
    names = (*NO_LENS, "plumb_bob", "Plumb Bob", "radtan", "brown_conrady", "Brown Conrady", "rational_polynomial", "RATIONAL")
    for name in names:
        assert CameraModel.from_info(**{**INFO, "distortion_model": name, "d": d}) == plain


@pytest.mark.parametrize(
    ("names", "model", "d"),
    [
        (("PLUMB_BOB", "plumb bob", "radtan", "RadTan", "brown_conrady", "Brown-Conrady", "opencv", "radtan5"), PLUMB_BOB, D5),
        (("rational", "radtan8", "OpenCV8", "RATIONAL_POLYNOMIAL", "Rational Polynomial"), RATIONAL, [*D5, 0.1, 0.1, 0.1]),
        (
            ("fisheye", "Fisheye", "kannala_brandt4", "Kannala-Brandt", "KannalaBrandt", "equi", "EQUIDISTANT"),
            EQUIDISTANT,
            [0.01, 0.02, 0.0, 0.0],
        ),
        (("fisheye", "kannala_brandt4", "equidistant"), EQUIDISTANT, [0.0] * 4),
        (("fisheye", "equidistant"), EQUIDISTANT, [0.0] * 5),
    ],
)
def test_other_names_of_a_model_are_understood(names: tuple[str, ...], model: str, d: list[float]) -> None:
    expected = CameraModel.from_info(**{**INFO, "distortion_model": model, "d": d})
    assert expected.distortion == model
    for name in names:
        assert CameraModel.from_info(**{**INFO, "distortion_model": name, "d": d}) == expected


@pytest.mark.parametrize("name", [*NO_LENS, "f-theta", "omnidirectional"])
def test_coefficients_of_an_unknown_model_are_rejected(name: str) -> None:
    with pytest.raises(GeometryError, match=r"is unknown\. Supported are plumb_bob, rational_polynomial, equidistant"):
        CameraModel.from_info(**{**INFO, "distortion_model": name, "d": D5})


@pytest.mark.parametrize("name", ["mei", "omnidirectional", "double_sphere", "ds", "f-theta", "equisolid", "stereographic"])
def test_a_projection_of_its_own_needs_its_model_even_with_zeros(name: str) -> None:
    with pytest.raises(GeometryError, match="is unknown"):
        CameraModel.from_info(**{**INFO, "distortion_model": name, "d": [0.0] * 5})


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize(
    ("fx", "fy", "cx", "cy"),
    [
        (1.0, 1.0, 0.0, 0.0),
        (1.0, 1.0, 320.0, 240.0),
        (0.8, 0.8, 0.5, 0.5),
        (0.004, 0.004, 320.0, 240.0),
        (1e-320, 1e-320, 320.0, 240.0),
        (1e300, 1e300, 320.0, 240.0),
        (500.0, 5.0, 320.0, 240.0),
        (500.0, 500.0, 0.0, 0.0),
        (500.0, 500.0, 1e300, 240.0),
        (500.0, 500.0, 320.0, -9000.0),
    ],
)
def test_a_calibration_that_no_lens_has_is_none(fx: float, fy: float, cx: float, cy: float, rectified: bool) -> None:
    """Drivers without a calibration publish the identity or metres. Positions from these values would be silently wrong."""
    numbers = [fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    matrix = [value for index, value in enumerate(numbers) if index % 4 != 3]
    with pytest.raises(GeometryError, match=r"The camera is not calibrated: [KP] in its camera_info has"):
        CameraModel.from_info(**{**INFO, "k": matrix, "p": numbers, "rectified": rectified})


@pytest.mark.parametrize(("f", "cx"), [(640 / 23, 320.0), (640 / math.pi, 320.0), (300_000.0, 320.0), (500.0, -900.0)])
def test_a_calibration_of_an_unusual_lens_serves(f: float, cx: float) -> None:
    """A field of view of 170 degrees, a fisheye, a telescope, and a cropped image."""
    camera = CameraModel.from_info(**{**INFO, "k": [f, 0.0, cx, 0.0, f, 240.0, 0.0, 0.0, 1.0]})
    assert (camera.fx, camera.cx) == (f, cx)
