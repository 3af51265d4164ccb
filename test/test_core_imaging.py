"""Images are resized to the model's grid, and pixels of the resized image map back to the correct pixels of the original."""

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from robobrain_ros.core.imaging import FittedSize, PixelBudget, fit, fit_image, read_image
from robobrain_ros.core.profiles import CoordinateRule
from robobrain_ros.core.query import Box, Point
from robobrain_ros.engine.base import DEFAULT_MAX_PIXELS
from robobrain_ros.errors import BadImageError, EngineConfigError

PIXELS, THOUSANDTHS = CoordinateRule.PIXELS_OF_MODEL_IMAGE, CoordinateRule.THOUSANDTHS
GRIDS = st.sampled_from([28, 32])
SIDES = st.integers(28, 4000)
# The bounds of the processors of RoboBrain 2.0 and 2.5.
CHECKPOINTS = {28: (3136, 12845056), 32: (65536, 16777216)}


@pytest.fixture(scope="module")
def smart_resize():
    """Return the function by which transformers' processor chooses the size. It has two locations; one needs torchvision."""
    return pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl").smart_resize


def budgets(cell: int) -> st.SearchStrategy[int]:
    return st.integers(CHECKPOINTS[cell][0], 4_000_000)


@st.composite
def cases(draw: st.DrawFn) -> tuple[int, int, int, int, int]:
    """Return width, height, cell, the minimum of the checkpoint, and the pixel budget."""
    cell = draw(GRIDS)
    return draw(SIDES), draw(SIDES), cell, CHECKPOINTS[cell][0], draw(budgets(cell))


@given(cases())
@settings(max_examples=500, deadline=None)
@example((424, 240, 28, 3136, 12845056))
@example((1280, 720, 28, 3136, 200704))
@example((28, 4000, 32, 65536, 65536))
def test_size_is_the_processors_and_the_processor_leaves_it(smart_resize, case) -> None:
    width, height, cell, least, most = case
    size = fit((width, height), least, most, cell)
    model = size.model_height, size.model_width
    assert size.model_width % cell == size.model_height % cell == 0
    processors = smart_resize(height, width, cell, least, most)
    if smart_resize(*processors, cell, least, most) == processors:
        assert model == processors
    # The size respects the budget and also the checkpoint's own bounds, which are all that the engine's processor knows.
    assert smart_resize(*model, cell, least, most) == model
    assert smart_resize(*model, cell, least, CHECKPOINTS[cell][1]) == model
    assert least <= model[0] * model[1] <= most


@given(st.integers(1, 4000), st.integers(1, 4000), GRIDS, st.integers(1, 2_000_000), st.integers(0, 2_000_000))
@settings(max_examples=500, deadline=None)
def test_size_stays_when_it_is_fitted_again_whatever_the_budget(width, height, cell, least, margin) -> None:
    assume(max(width, height) <= 200 * min(width, height))
    most = least + margin
    try:
        size = fit((width, height), least, most, cell)
    except EngineConfigError:
        # There is no margin only if the budget is narrower than the steps of the grid.
        assert margin < 200 * cell * cell
        return
    again = fit((size.model_width, size.model_height), least, most, cell)
    assert (again.model_width, again.model_height) == (size.model_width, size.model_height)


@pytest.mark.parametrize("size", [(5600, 28), (28, 5600), (200, 1), (1, 200), (6000, 30), (20000, 100)])
@pytest.mark.parametrize("most", [3136, 50_000, 12845056])
def test_side_ratios_up_to_200_fit(smart_resize, size: tuple[int, int], most: int) -> None:
    fitted = fit(size, 3136, most, 28)
    model = fitted.model_height, fitted.model_width
    assert smart_resize(*model, 28, 3136, most) == model


@pytest.mark.parametrize("size", [(201, 1), (28, 28 * 201), (0, 10), (10, 0), (0, 0)])
def test_impossible_shapes_are_rejected_with_their_size(size: tuple[int, int]) -> None:
    with pytest.raises(BadImageError, match=f"{size[0]}x{size[1]}"):
        fit(size, 3136, 12845056, 28)


def test_budget_too_narrow_for_the_grid_is_rejected() -> None:
    with pytest.raises(EngineConfigError, match="max_pixels"):
        fit((640, 480), 28 * 28 * 2 + 1, 28 * 28 * 2 + 2, 28)


def test_budget_is_what_the_user_and_the_checkpoint_allow() -> None:
    assert PixelBudget.within(10**9, 3136, 12845056, 28) == PixelBudget(3136, 12845056, 28)
    assert PixelBudget.within(200_704, 3136, 12845056, 28) == PixelBudget(3136, 200_704, 28)
    assert PixelBudget.within(200_704, 0, 0, 32) == PixelBudget(4 * 32 * 32, 200_704, 32)
    with pytest.raises(EngineConfigError, match="Increase max_pixels"):
        PixelBudget.within(65535, 65536, 16777216, 32)


def image_of(width: int, height: int) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


def blurred_dot(width: int, height: int, u: float, v: float, sigma_u: float, sigma_v: float) -> np.ndarray:
    """Draw a bright Gaussian spot whose centroid is (u, v)."""
    across = np.exp(-0.5 * ((np.arange(width) - u) / sigma_u) ** 2)
    down = np.exp(-0.5 * ((np.arange(height) - v) / sigma_v) ** 2)
    gray = np.rint(np.outer(np.float32(255) * down.astype(np.float32), across.astype(np.float32))).astype(np.uint8)
    return cv2.cvtColor(gray, cv2.COLOR_GRAY2RGB)


def centroid(image: np.ndarray) -> tuple[float, float]:
    gray = image[:, :, 0]
    columns, rows = gray.sum(axis=0, dtype=np.int64), gray.sum(axis=1, dtype=np.int64)
    return float(columns @ np.arange(columns.size) / columns.sum()), float(rows @ np.arange(rows.size) / rows.sum())


@given(cases(), st.floats(0.25, 0.75), st.floats(0.25, 0.75), st.sampled_from(["pixels", "thousandths", "fractions"]))
@settings(max_examples=60, deadline=None)
@example((424, 240, 28, 3136, 12845056), 0.5, 0.5, "pixels")
@example((4000, 3000, 28, 3136, 3136), 0.3, 0.7, "pixels")
@example((28, 28, 32, 65536, 65536), 0.3, 0.7, "thousandths")
@example((3634, 3674, 28, 3136, 3136), 0.516469, 0.712241, "pixels")
def test_coordinates_are_mapped_back_within_half_a_pixel(case, across: float, down: float, rule: str) -> None:
    """A spot drawn in the image, located in the model's image and mapped back, has its original position."""
    width, height, cell, least, most = case
    size = fit((width, height), least, most, cell)
    # A spot wide enough for the coarser of the two grids, and far enough from the border to be whole.
    sigma_u = max(width / 40, 1.5 * max(1.0, width / size.model_width))
    sigma_v = max(height / 40, 1.5 * max(1.0, height / size.model_height))
    u, v = across * (width - 1), down * (height - 1)
    assume(4 * sigma_u < u < width - 1 - 4 * sigma_u and 4 * sigma_v < v < height - 1 - 4 * sigma_v)

    image = blurred_dot(width, height, u, v, sigma_u, sigma_v)
    fitted = fit_image(image, PixelBudget(least, most, cell))
    seen_u, seen_v = centroid(fitted.image)
    if rule == "pixels":
        seen, grid = Point(seen_u, seen_v), PIXELS
    else:
        whole = 1000.0 if rule == "thousandths" else 1.0
        seen = Point((seen_u + 0.5) / size.model_width * whole, (seen_v + 0.5) / size.model_height * whole)
        grid = THOUSANDTHS
    back = fitted.size.to_image(seen, grid, normalized=rule == "fractions")

    # Pixels have whole values, so the spot in the small image is located with an error of a hundredth of its pixel.
    true_u, true_v = centroid(image)
    assert abs(back.u - true_u) <= max(0.5, 0.01 * width / size.model_width)
    assert abs(back.v - true_v) <= max(0.5, 0.01 * height / size.model_height)
    assert not back.clamped


@given(cases())
@settings(max_examples=50, deadline=None)
def test_mapping_keeps_order_and_reaches_both_borders(case) -> None:
    width, height, cell, least, most = case
    size = fit((width, height), least, most, cell)
    for rule, last in ((PIXELS, size.model_width - 1), (THOUSANDTHS, 1000)):
        mapped = [size.to_image(Point(x, 0), rule) for x in range(last + 1)]
        places = [point.u for point in mapped]
        assert places == sorted(places)
        assert not any(point.clamped for point in mapped)
        # The tolerance is half a cell of the model, or half a pixel of the image.
        slack = max(0.5, width / last)
        assert 0 <= places[0] <= slack
        assert width - 1 - slack <= places[-1] <= width - 1


def test_the_recorded_scale_error_is_gone() -> None:
    """RoboBrain 2.0 receives 424x240 as 420x252. Without a correction, the lowest row would be 12 pixels below the image."""
    size = fit((424, 240), 3136, 12845056, 28)
    assert (size.model_width, size.model_height) == (420, 252)
    last = size.to_image(Point(419, 251), PIXELS)
    assert (last.u, last.v) == (pytest.approx(423, abs=0.5), pytest.approx(239, abs=0.5))
    assert not last.clamped


@pytest.mark.parametrize("rule", [PIXELS, THOUSANDTHS])
@given(u=st.floats(-1e9, 1e9), v=st.floats(-1e9, 1e9))
@settings(deadline=None)
def test_points_outside_are_clamped_and_flagged(rule: CoordinateRule, u: float, v: float) -> None:
    size = FittedSize(640, 480, 644, 476)
    point = size.to_image(Point(u, v, depth=0.5, label="mug"), rule)
    assert 0 <= point.u <= 639
    assert 0 <= point.v <= 479
    assert (point.depth, point.label) == (0.5, "mug")
    if rule is PIXELS:
        assert point.clamped == (not (-0.5 <= u <= 643.5 and -0.5 <= v <= 475.5))
    else:
        assert point.clamped == (not (0 <= u <= 1000 and 0 <= v <= 1000))


def test_boxes_that_end_at_the_border_are_inside_and_beyond_it_are_flagged() -> None:
    size = FittedSize(364, 448, 364, 448)
    whole = size.box_to_image(Box(0, 0, 364, 448), PIXELS)
    assert (whole.u_min, whole.v_min, whole.u_max, whole.v_max, whole.clamped) == (0, 0, 363, 447, False)
    beyond = size.box_to_image(Box(19, 300, 154, 476, label="cup"), PIXELS)
    assert (beyond.v_max, beyond.clamped, beyond.label) == (447, True, "cup")
    assert size.box_to_image(Box(0, 0, 1000, 1000), THOUSANDTHS).clamped is False
    assert size.box_to_image(Box(0.1, 0.2, 1.0, 1.1), THOUSANDTHS, normalized=True).clamped is True


def test_an_image_is_resized_at_most_once() -> None:
    budget = PixelBudget(3136, DEFAULT_MAX_PIXELS, 28)
    already = image_of(644, 476)
    assert fit_image(already, budget).image is already
    fitted = fit_image(image_of(1280, 720), budget)
    assert fitted.image.shape == (728, 1288, 3)
    assert fitted.image.dtype == np.uint8
    assert fitted.size == FittedSize(1280, 720, 1288, 728)


def test_shrinking_averages_so_that_fine_patterns_do_not_alias() -> None:
    stripes = image_of(1120, 1120)
    stripes[:, ::4] = 255
    shrunk = fit_image(stripes, PixelBudget(3136, 280 * 280, 28)).image
    assert shrunk.shape == (280, 280, 3)
    assert np.all(np.abs(shrunk.astype(int) - 64) <= 2)


def test_colours_keep_their_channels() -> None:
    image = image_of(100, 60)
    image[:] = (200, 100, 50)
    assert np.all(fit_image(image, PixelBudget(3136, 10**6, 28)).image == (200, 100, 50))


def test_image_files_are_read_as_rgb(tmp_path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (30, 50, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "image.png"), image[:, :, ::-1])
    assert np.array_equal(read_image(tmp_path / "image.png"), image)
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not an image")
    for name in ("missing.jpg", "empty.jpg", "text.jpg", "."):
        with pytest.raises(BadImageError, match=r"cannot be read|not an image"):
            read_image(tmp_path / name)


def test_non_contiguous_images_are_accepted() -> None:
    wide = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
    budget = PixelBudget(3136, 200_704, 28)
    flipped = wide[::-1, ::-1, ::-1]
    assert np.array_equal(fit_image(flipped, budget).image, fit_image(np.ascontiguousarray(flipped), budget).image)


@pytest.mark.parametrize(
    "broken",
    [
        np.zeros((48, 64), np.uint8),
        np.zeros((48, 64, 4), np.uint8),
        np.zeros((48, 64, 3), np.float32),
        np.zeros((0, 64, 3), np.uint8),
        np.zeros((48, 0, 3), np.uint8),
        np.zeros((1, 48, 64, 3), np.uint8),
        [[1, 2, 3]],
        None,
        "mug.png",
    ],
    ids=str,
)
def test_an_array_that_is_no_rgb_image_is_rejected(broken: Any) -> None:
    with pytest.raises(BadImageError, match=r"shape|empty"):
        fit_image(broken, PixelBudget(3136, 10**6, 28))
