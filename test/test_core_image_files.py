"""Image files in messages: the file has precedence, and the format decides only what a file cannot state."""

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image as PillowImage
from ros_images import mosaic

from robobrain_ros.core.formats.image_files import ReadingOptions, decode_file
from robobrain_ros.errors import BadImageError

ORANGE, TEAL = (230, 120, 20), (10, 150, 160)
PATTERNS = ("rggb", "bggr", "gbrg", "grbg")


def scene() -> np.ndarray:
    """Return an RGB image whose left half is orange and whose right half is teal."""
    image = np.empty((64, 96, 3), np.uint8)
    image[:, :48], image[:, 48:] = ORANGE, TEAL
    return image


def file_of(pixels: np.ndarray, kind: str = "jpg", quality: int = 98) -> bytes:
    """Return a file from OpenCV. Colours are given as RGB."""
    ordered = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    return cv2.imencode(f".{kind}", np.ascontiguousarray(ordered), [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def halves(image: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the mean colours of the two halves, without the borders."""
    left, right = (image[16:48, columns].reshape(-1, 3).mean(axis=0) for columns in (slice(8, 40), slice(56, 88)))
    return tuple(left.round().astype(int).tolist()), tuple(right.round().astype(int).tolist())


def assert_is_scene(image: np.ndarray, tolerance: int = 3) -> None:
    for mean, true in zip(halves(image), (ORANGE, TEAL), strict=True):
        assert np.abs(np.subtract(mean, true)).max() <= tolerance, halves(image)


@pytest.mark.parametrize(
    "image_format",
    [
        "jpeg", "jpg", "JPEG", "", "mjpeg", "image/jpeg", "png", "h264", "rgb8; jpeg", "rgb8;jpeg compressed bgr8",
        "rgb8; jpeg compressed bgr8", "bgr8; jpeg compressed bgr8", "rgba8; jpeg compressed bgr8", "8UC3; jpeg compressed bgr8",
        "yuv422_yuy2; jpeg compressed bgr8", "nv12; jpeg compressed bgr8", "RGB8; JPEG compressed BGR8",
        "bayer_rggb8; jpeg compressed bgr8", "rgb8; jpeg compressed rgb8", "bgr8; jpeg compressed rgb8", "rgb8; jpeg compressed ",
        "rgb8; png compressed rgb8", "BGR8; JPEG compressed RGB8", "; ; ;", "rgb16; jpeg compressed bgr8", "unknown9; compressed",
    ],
)  # fmt: skip
def test_a_jpegs_colours_are_believed_whatever_its_format_states(image_format: str) -> None:
    assert_is_scene(decode_file(file_of(scene()), image_format))


@pytest.mark.parametrize("image_format", ["rgb8; jpeg compressed rgb8", "BGR8; JPEG compressed RGB8"])
def test_red_and_blue_are_exchanged_only_where_a_user_states_it(image_format: str) -> None:
    exchanged = file_of(scene()[:, :, ::-1])
    notes: list[str] = []
    assert halves(decode_file(exchanged, image_format, ReadingOptions(note=notes.append)))[0][0] < 100
    assert ["<camera>.swap_red_blue" in note for note in notes] == [True]
    notes.clear()
    assert_is_scene(decode_file(exchanged, image_format, ReadingOptions(swap_red_blue=True, note=notes.append)))
    assert notes == []


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(
    "image_format",
    [
        "bayer_{}8; jpeg compressed ", "bayer_{}8; jpeg compressed", "bayer_{}8; png compressed ", "BAYER_{}8; JPEG compressed ",
        "bayer_{}8;png", "bayer_{}8", "bayer_{}8; tiff compressed ", "bayer_{}8; jpeg compressed bayer_{}8",
    ],
)  # fmt: skip
def test_a_mosaic_is_debayered(pattern: str, image_format: str) -> None:
    kind = "jpg" if "jpeg" in image_format.lower() else "tiff" if "tiff" in image_format else "png"
    image = decode_file(file_of(mosaic(scene(), pattern), kind), image_format.format(pattern, pattern))
    assert_is_scene(image, 6)


@pytest.mark.parametrize("name", ["bayer_rg8", "BayerRG8", "bayer_rggb12", "bayer_rggb10p", "RGGB8", "bayer"])
def test_a_mosaic_of_an_unknown_pattern_is_rejected(name: str) -> None:
    for channels in (1, 3):
        gray = np.repeat(mosaic(scene(), "rggb")[:, :, None], channels, axis=2).squeeze()
        with pytest.raises(BadImageError, match="the Bayer encoding is unknown"):
            decode_file(file_of(gray, "png"), f"{name}; png compressed ")
    assert_is_scene(decode_file(file_of(scene(), "png"), f"{name}; png compressed bgr8"))


def test_a_mosaic_in_a_file_of_three_channels_is_debayered() -> None:
    gray = np.repeat(mosaic(scene(), "grbg")[:, :, None], 3, axis=2)
    assert_is_scene(decode_file(file_of(gray, "png"), "bayer_grbg8; png compressed "), 6)


@pytest.mark.parametrize("image_format", ["bayer_rggb8; jpeg compressed mono8", "bayer_rggb16; jpeg compressed mono8"])
def test_a_mosaic_that_was_converted_to_grey_stays_grey(image_format: str) -> None:
    """image_transport of Jazzy and later publishes Bayer cameras in this way."""
    gray = cv2.cvtColor(scene(), cv2.COLOR_RGB2GRAY)
    image = decode_file(file_of(gray), image_format)
    assert np.ptp(image[16:48, 8:40]) <= 4
    assert (image[..., 0] == image[..., 2]).all()


def test_a_mosaic_with_odd_sides_is_rejected() -> None:
    with pytest.raises(BadImageError, match="even"):
        decode_file(file_of(mosaic(scene(), "rggb")[:63, :95], "png"), "bayer_rggb8; png compressed ")


@pytest.mark.parametrize(("bits", "shift"), [(10, 2), (12, 4), (14, 6), (16, 8)])
def test_pngs_of_10_to_16_bits_keep_their_colours(bits: int, shift: int) -> None:
    colours = file_of(scene().astype(np.uint16) << (bits - 8), "png")
    assert_is_scene(decode_file(colours, "rgb16; png compressed bgr16"))
    raw = file_of(mosaic(scene(), "bggr").astype(np.uint16) << (bits - 8), "png")
    assert_is_scene(decode_file(raw, "bayer_bggr16; png compressed "), 6)


@pytest.mark.parametrize("image_format", ["mono16; png compressed ", "16UC1; png compressed ", "png", ""])
@pytest.mark.parametrize(("low", "high"), [(200, 900), (0, 4095), (29315, 31015), (0, 65535)])
def test_grey_pngs_of_16_bits_show_their_contrast(image_format: str, low: int, high: int) -> None:
    ramp = np.tile(np.linspace(low, high, 96).astype(np.uint16), (64, 1))
    image = decode_file(file_of(ramp, "png"), image_format)
    assert image.max() >= 250
    assert image.min() <= 5
    assert len(np.unique(image)) == 96


def test_a_jpeg_of_16_bits_is_stretched_and_named() -> None:
    """image_transport divides by 257: of 12 bits, it leaves 16 levels."""
    ramp = np.tile(np.linspace(0, 15, 96).round().astype(np.uint8), (64, 1))
    notes: list[str] = []
    image = decode_file(file_of(ramp, quality=100), "mono16; jpeg compressed mono8", ReadingOptions(note=notes.append))
    assert image.max() >= 250
    assert any("set the publisher's format to png" in note.lower() for note in notes)


def test_a_jpeg_that_older_versions_clipped_is_named() -> None:
    notes: list[str] = []
    decode_file(file_of(np.full((16, 16), 255, np.uint8)), "mono16; jpeg compressed ", ReadingOptions(note=notes.append))
    assert any("above 255" in note for note in notes)


def test_a_tiff_of_the_plugin_is_read_as_its_source_was() -> None:
    """The plugin hands RGB to OpenCV as if it were BGR, for TIFF alone."""
    assert_is_scene(decode_file(file_of(scene()[:, :, ::-1], "tiff"), "rgb8; tiff compressed "))
    assert_is_scene(decode_file(file_of(scene(), "tiff"), "bgr8; tiff compressed "))
    assert_is_scene(decode_file(file_of(scene(), "tiff"), "tiff"))
    assert_is_scene(decode_file(file_of(scene().astype(np.uint16) * 257, "tiff"), "bgr16; tiff compressed "))


def test_a_tiff_of_floats_is_rejected() -> None:
    with pytest.raises(BadImageError, match="32 bits"):
        decode_file(file_of(np.ones((8, 8), np.float32), "tiff"), "32FC1; tiff compressed ")


def test_an_empty_message_names_the_publishers_encoding() -> None:
    with pytest.raises(BadImageError, match=r"no bytes.*cannot compress"):
        decode_file(b"", "16UC1; jpeg compressed mono8")


def test_a_wide_png_that_is_cut_off_is_rejected() -> None:
    whole = file_of(np.random.default_rng(0).integers(0, 65535, (64, 96), np.uint16), "png")
    for part in (0.3, 0.9, 0.999):
        with pytest.raises(BadImageError, match="cannot be read"):
            decode_file(whole[: int(len(whole) * part)], "mono16; png compressed ")


def png(width: int, height: int, bits: int = 8) -> bytes:
    """A black grey PNG, a thousandth of its pixels in size."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = bytes((1 + width * bits // 8) * height)
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(8000, 8000), (5000, 5000), (9000, 9000), (60000, 1000)])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_decompression_bomb_is_rejected_before_it_is_decoded(
    size: tuple[int, int], bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = png(*size, bits)

    def decode(*_: Any, **__: Any) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(PillowImage.Image, "convert", decode)
    monkeypatch.setattr(cv2, "imdecode", decode)
    with pytest.raises(BadImageError, match="states a size of"):
        decode_file(bomb, "png")


def test_a_black_image_of_a_usual_size_is_no_bomb() -> None:
    assert decode_file(png(4000, 3000), "png").shape == (3000, 4000, 3)


def test_a_large_photograph_is_no_bomb() -> None:
    noise = np.random.default_rng(0).integers(0, 4, (4200, 4200), np.uint8)
    buffer = io.BytesIO()
    PillowImage.fromarray(noise).save(buffer, "JPEG", quality=60)
    assert decode_file(buffer.getvalue(), "jpeg").shape == (4200, 4200, 3)


def test_a_decoder_that_raises_anything_is_a_bad_image() -> None:
    """The place of a TIFF's samples as a text: Pillow raises TypeError."""
    stream = io.BytesIO()
    PillowImage.new("L", (8, 8)).save(stream, "TIFF")
    data = bytearray(stream.getvalue())
    entry = data.index(struct.pack("<HH", 273, 4))
    data[entry + 2] = 2
    with pytest.raises(BadImageError, match="cannot be read as a JPEG, PNG or TIFF"):
        decode_file(bytes(data), "")
