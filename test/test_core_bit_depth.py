"""The conversion of 16-bit samples to 8-bit samples."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robobrain_ros.core.formats.bit_depth import colour_to_8_bits, gray_to_8_bits
from robobrain_ros.core.imaging import read_image

SAMPLES = st.lists(st.integers(0, 65535), min_size=1, max_size=300)


def image_of(samples: list[int]) -> np.ndarray:
    return np.array(samples, np.uint16).reshape(1, -1)


@given(SAMPLES, st.sampled_from([0, 8, 10, 12, 14, 16]))
def test_the_order_of_samples_is_kept(samples: list[int], bits: int) -> None:
    for convert in (gray_to_8_bits, colour_to_8_bits):
        converted = convert(image_of(sorted(samples)), bits)[0]
        assert (np.diff(converted.astype(int)) >= 0).all()


@given(SAMPLES)
def test_noise_is_not_amplified(samples: list[int]) -> None:
    """One step of the sensor becomes at most one grey level."""
    image = image_of(samples)
    converted = gray_to_8_bits(image)
    assert np.ptp(converted) <= max(int(np.ptp(image)), 0)


@pytest.mark.parametrize(("low", "high"), [(200, 900), (0, 1023), (0, 4095), (29315, 31015), (100, 16383)])
def test_grey_is_stretched_from_black_to_white(low: int, high: int) -> None:
    ramp = np.tile(np.linspace(low, high, 96).astype(np.uint16), (64, 1))
    converted = gray_to_8_bits(ramp)
    assert (converted[0, 0], converted[0, -1]) == (0, 255)
    assert np.abs(converted[0] - np.linspace(0, 255, 96)).max() <= 1.5


def test_a_few_broken_pixels_do_not_spoil_the_stretch() -> None:
    ramp = np.tile(np.linspace(200, 900, 96).astype(np.uint16), (64, 1))
    ramp[0, :3] = 65535
    assert gray_to_8_bits(ramp)[1, -1] == 255


def test_an_image_of_16_bits_keeps_its_upper_8_bits() -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert np.array_equal(gray_to_8_bits(ramp), ramp >> 8)
    assert np.array_equal(colour_to_8_bits(ramp), ramp >> 8)


@pytest.mark.parametrize(("value", "gray"), [(0, 0), (65535, 255), (4095, 128)])
def test_an_even_image_is_even(value: int, gray: int) -> None:
    assert np.abs(gray_to_8_bits(np.full((4, 4), value, np.uint16)).astype(int) - gray).max() <= 1


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_colour_keeps_hue_and_exposure(bits: int) -> None:
    colours = np.random.default_rng(bits).integers(0, 256, (40, 40, 3), np.uint8)
    colours[0, 0] = 255
    scaled = (colours.astype(np.uint32) * ((1 << bits) - 1) // 255).astype(np.uint16)
    assert np.abs(colour_to_8_bits(scaled).astype(int) - colours).max() <= 1


def test_a_known_bit_depth_fixes_black_and_white() -> None:
    samples = image_of([0, 1000, 2048, 4095, 5000])
    for convert in (gray_to_8_bits, colour_to_8_bits):
        assert convert(samples, 12)[0].tolist() == [0, 62, 128, 255, 255]


def test_files_of_16_bits_follow_the_rule(tmp_path) -> None:
    ramp = np.tile(np.linspace(200, 900, 96).astype(np.uint16), (64, 1))
    cv2.imwrite(str(tmp_path / "gray.png"), ramp)
    assert read_image(tmp_path / "gray.png").max() == 255
    colours = np.full((16, 16, 3), (20, 120, 230), np.uint16) << 4
    cv2.imwrite(str(tmp_path / "colour.png"), colours)
    assert np.abs(read_image(tmp_path / "colour.png")[8, 8].astype(int) - (230, 120, 20)).max() <= 1
