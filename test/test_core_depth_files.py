"""Compressed depth is decoded correctly, and broken data is reported and bounded."""

import struct
from collections.abc import Iterator
from contextlib import suppress

import cv2
import numpy as np
import pytest
from depth_publisher import compressed_depth, quantization, rvl
from hypothesis import example, given, settings
from hypothesis import strategies as st

from robobrain_ros.core.formats.depth_files import decode_depth, decode_rvl
from robobrain_ros.core.geometry import GeometryError
from robobrain_ros.errors import BadImageError


def millimetres(width: int = 40, height: int = 30) -> np.ndarray:
    """Return a slope with holes, steps and the largest values."""
    rows, columns = np.mgrid[0:height, 0:width]
    depth = (800 + 7 * columns + 31 * rows).astype(np.uint16)
    depth[5:9, 10:20] = 0
    depth[12, ::2] = 0
    depth[0, 0], depth[-1, -1] = 65535, 1
    return depth


@pytest.mark.parametrize("codec", ["png", "rvl"])
def test_millimetres_come_back_exactly(codec: str) -> None:
    samples = decode_depth(*compressed_depth(millimetres(), codec))
    assert samples.dtype == np.uint16
    assert np.array_equal(samples, millimetres())


@pytest.mark.parametrize("codec", ["png", "rvl"])
def test_metres_come_back_within_the_quantization(codec: str) -> None:
    depth = (millimetres() % 9000 / 1000.0).astype(np.float32)
    depth[depth == 0.0] = np.nan
    samples = decode_depth(*compressed_depth(depth, codec))
    assert samples.dtype == np.float32
    a, b = quantization()
    coded = a / depth + b  # The plugin drops the fraction. It has no code for depths beyond 10 m or below A / 65535.
    known = np.isfinite(depth) & (coded < 65535)
    assert known.sum() > 900
    assert np.all(samples[known] >= depth[known] - 1e-6)
    assert np.all(np.abs(a / samples[known] + b - coded[known]) <= 1.01)
    assert np.isnan(samples[np.isnan(depth)]).all()


@pytest.mark.parametrize("image_format", ["16UC1; compressedDepth", "16UC1", "", "16uc1; COMPRESSEDDEPTH PNG", "mono16"])
def test_older_formats_are_png(image_format: str) -> None:
    data, _ = compressed_depth(millimetres(), "png")
    assert np.array_equal(decode_depth(data, image_format), millimetres())


@pytest.mark.parametrize("image_format", ["16UC1; png compressed ", "mono16; png compressed ", "png", ""])
def test_a_plain_png_of_16_bits_is_depth(image_format: str) -> None:
    data = cv2.imencode(".png", millimetres())[1].tobytes()
    assert np.array_equal(decode_depth(data, image_format), millimetres())


def with_size(width: int, height: int, data: bytes = b"") -> bytes:
    return bytes(12) + struct.pack("<II", width, height) + data


def broken() -> Iterator[tuple[bytes, str, str]]:
    depth = millimetres()
    png, rvl_data = compressed_depth(depth, "png")[0], compressed_depth(depth, "rvl")[0]
    yield b"", "16UC1; compressedDepth png", "0 bytes"
    yield bytes(12), "16UC1; compressedDepth png", "12 bytes"
    yield png[:-200], "16UC1; compressedDepth png", "cannot be read"
    yield rvl_data[:-100], "16UC1; compressedDepth rvl", "cut off"
    yield rvl_data[:14], "16UC1; compressedDepth rvl", "size"
    yield rvl_data, "16UC1; compressedDepth zstd", "neither"
    yield png, "rgb8; jpeg compressed bgr8", "rgb8"
    yield with_size(0, 480), "16UC1; compressedDepth rvl", "no pixels"
    yield with_size(2**32 - 1, 2**32 - 1), "16UC1; compressedDepth rvl", "states a size"
    yield with_size(8000, 8000, bytes(64)), "16UC1; compressedDepth rvl", "bomb"
    yield with_size(640, 480, bytes(64)), "16UC1; compressedDepth rvl", "empty"
    yield with_size(640, 480, b"\xff" * 64), "16UC1; compressedDepth rvl", "RVL"
    yield png, "32FC1; compressedDepth png", "quantization"
    yield png[12:], "32FC1; compressedDepth png", "quantization"
    yield cv2.imencode(".png", np.zeros((8, 8), np.uint8))[1].tobytes(), "16UC1; png compressed ", "8 bits"
    yield cv2.imencode(".png", np.zeros((8, 8, 3), np.uint16))[1].tobytes(), "16UC1; png compressed ", "colours"


@pytest.mark.parametrize(("data", "image_format", "part"), list(broken()))
def test_broken_depth_is_rejected_with_the_reason(data: bytes, image_format: str, part: str) -> None:
    with pytest.raises(GeometryError, match=part):
        decode_depth(data, image_format)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([0, 0, 0, 1, 2, 700, 701, 32768, 65535]), min_size=1, max_size=200),
    st.integers(1, 7),
)
@example([0], 1)
@example([65535], 1)
@example([0, 65535, 0, 1], 2)
def test_every_rvl_image_comes_back(samples: list[int], height: int) -> None:
    image = np.tile(np.array(samples, np.uint16), (height, 1))
    assert np.array_equal(decode_rvl(rvl(image)), image)


@settings(max_examples=300, deadline=None)
@given(place=st.integers(0, 10**6), value=st.integers(0, 255), cut=st.integers(0, 40), codec=st.sampled_from(["png", "rvl"]))
def test_damaged_depth_is_read_or_rejected(place: int, value: int, cut: int, codec: str) -> None:
    whole, image_format = compressed_depth(millimetres(), codec)
    data = bytearray(whole[: len(whole) - cut])
    data[place % len(data)] = value
    with suppress(GeometryError):
        assert decode_depth(bytes(data), image_format).ndim == 2


def test_an_rvl_size_that_no_image_has_is_rejected_before_memory_is_taken() -> None:
    with pytest.raises(BadImageError, match="at most"):
        decode_rvl(struct.pack("<II", 60000, 60000) + bytes(100))
