"""Image messages: every encoding is decoded correctly, and every invalid message gives BAD_IMAGE with the reason."""

import io
import zlib
from array import array
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage
from ros_rig import Rig, image, image_message, scripted
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from robobrain_ros.core.formats import encodings
from robobrain_ros.core.messages.answers import covered
from robobrain_ros.core.messages.images import ImageReader
from robobrain_ros.demo.encodings import ENCODINGS, GRAY_ENCODINGS
from robobrain_ros.errors import BadImageError
from robobrain_ros.msg import Outcome, QueryOptions
from robobrain_ros.ros.messages.conversions import read_image_message, to_image
from robobrain_ros.srv import Locate

LOSSY = {"yuv": 16, "yuyv": 16, "uyvy": 16, "nv12": 16, "nv21": 16, "bayer": 16, "nv24": 3}
"""Largest change of a sample by encodings that lose colour. The keys are the beginnings of their names."""


def expected(encoding: str, width: int = 64, height: int = 48) -> np.ndarray:
    original = image(width, height)
    return (
        cv2.cvtColor(cv2.cvtColor(original, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB) if encoding in GRAY_ENCODINGS else original
    )


def difference(one: np.ndarray, other: np.ndarray) -> int:
    """Return the largest difference of any sample without borders, where Bayer demosaicing estimates values."""
    return int(np.abs(one.astype(int) - other)[2:-2, 2:-2].max())


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_reads_as_the_image_that_was_encoded(encoding: str) -> None:
    allowed = max((loss for start, loss in LOSSY.items() if encoding.startswith(start)), default=0)
    found = difference(read_image_message(image_message(encoding)), expected(encoding))
    assert found <= allowed, f"{encoding} changes a sample by {found}. If this is right, add the encoding to LOSSY in this file"


def test_the_table_of_encodings_is_what_the_demo_camera_can_publish() -> None:
    assert set(ENCODINGS) == set(encodings.ENCODINGS), (
        "robobrain_ros/demo/encodings.py and robobrain_ros/core/formats/encodings.py have different encodings"
    )


@pytest.mark.parametrize("encoding", ["RGB8", "Bgr8", "rgb8 ", "MONO8", "8uc3", "BAYER_RGGB8", "YUYV", "Nv12", "mono16 "])
def test_upper_case_and_blanks_of_an_encoding_do_not_matter(encoding: str) -> None:
    message = image_message(encodings.canonical(encoding))
    usual = read_image_message(message)
    message.encoding = encoding
    assert np.array_equal(read_image_message(message), usual)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_rows_may_be_padded(encoding: str) -> None:
    tight = image_message(encoding)
    padding = 13
    rows = np.frombuffer(tight.data, np.uint8).reshape(-1, tight.step)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=255)
    if encoding == "nv24":  # Two rows of the data are one line of chroma, with all of the padding at its end.
        chroma = np.pad(rows[48:].reshape(48, -1), ((0, 0), (0, 2 * padding)), constant_values=255)
        padded = np.concatenate((padded[:48], chroma.reshape(96, -1)))
    message = Image(width=64, height=48, encoding=encoding, step=tight.step + padding, data=array("B", padded.tobytes()))
    assert np.array_equal(read_image_message(message), read_image_message(tight))


@pytest.mark.parametrize("encoding", ["mono16", "16UC1", "rgb16", "bayer_gbrg16"])
def test_16_bits_may_be_big_endian(encoding: str) -> None:
    little = image_message(encoding)
    swapped = np.frombuffer(little.data, "<u2").astype(">u2")
    big = Image(width=64, height=48, encoding=encoding, step=little.step, is_bigendian=1, data=array("B", swapped.tobytes()))
    assert np.array_equal(read_image_message(big), read_image_message(little))


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("encoding", ["rgb16", "bgr16", "rgba16", "bayer_rggb16", "16UC3", "mono16", "16UC1"])
def test_10_to_14_bits_are_not_dark(encoding: str, bits: int) -> None:
    message = image_message(encoding)
    samples = np.frombuffer(message.data, "<u2") >> (16 - bits)
    message.data = array("B", samples.tobytes())
    image = read_image_message(message)
    full = read_image_message(image_message(encoding))
    if encoding in GRAY_ENCODINGS:  # The values are stretched: their order stays, and black and white occur.
        assert (image.min(), image.max()) == (0, 255)
        assert np.corrcoef(image.ravel(), full.ravel())[0, 1] > 0.999
    else:
        assert difference(image, full) <= 3


@pytest.mark.parametrize(("encoding", "kind"), [("jpeg", "JPEG"), ("JPG", "JPEG"), ("mjpeg", "JPEG"), ("png", "PNG")])
def test_a_file_in_a_raw_image_is_read(encoding: str, kind: str) -> None:
    data = compressed(kind, "").data
    for width, height in ((64, 48), (0, 0)):
        message = Image(width=width, height=height, encoding=encoding, data=data)
        assert np.array_equal(read_image_message(message), read_image_message(compressed(kind, "")))
    with pytest.raises(BadImageError, match="states 65x48"):
        read_image_message(Image(width=65, height=48, encoding=encoding, data=data))


def compressed(image_format: str, message_format: str, pixels: np.ndarray | None = None, **options: Any) -> CompressedImage:
    buffer = io.BytesIO()
    PillowImage.fromarray(image() if pixels is None else pixels).save(buffer, image_format, **options)
    return CompressedImage(format=message_format, data=array("B", buffer.getvalue()))


@pytest.mark.parametrize("message_format", ["png", "rgb8; png compressed bgr8", ""])
def test_a_png_reads_exactly(message_format: str) -> None:
    assert np.array_equal(read_image_message(compressed("PNG", message_format)), image())


@pytest.mark.parametrize("message_format", ["jpeg", "jpg", "bgr8; jpeg compressed bgr8"])
def test_a_jpeg_reads_nearly(message_format: str) -> None:
    smooth = cv2.GaussianBlur(image(), (0, 0), 3)
    message = compressed("JPEG", message_format, smooth, quality=95, subsampling=0)
    assert np.abs(read_image_message(message).astype(int) - smooth).max() <= 12


def test_grey_and_16_bit_pngs_read_as_grey() -> None:
    wide = (np.arange(64 * 48, dtype=np.uint16) * 20).reshape(48, 64)
    assert np.array_equal(read_image_message(compressed("PNG", "mono16; png compressed mono16", wide))[:, :, 1], wide >> 8)
    narrow = (wide >> 8).astype(np.uint8)
    assert np.array_equal(read_image_message(compressed("PNG", "mono8; png compressed mono8", narrow))[:, :, 2], narrow)


def test_the_orientation_in_a_jpeg_does_not_turn_it() -> None:
    exif = PillowImage.Exif()
    exif[0x0112] = 6  # The orientation is a rotation by 90 degrees.
    assert read_image_message(compressed("JPEG", "jpeg", exif=exif)).shape == (48, 64, 3)


def test_red_and_blue_are_exchanged_where_the_user_states_it() -> None:
    reader = ImageReader("front", swap_red_blue=True)
    exchanged = image()[:, :, ::-1].copy()
    assert np.array_equal(reader.read(compressed("PNG", "rgb8; png compressed rgb8", exchanged)), image())
    assert np.array_equal(reader.read(to_image(exchanged, Header())), image())


def test_an_assumption_about_a_camera_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    front, wrist = ImageReader("front"), ImageReader("wrist")
    for reader in (front, front, wrist, front):
        reader.read(compressed("JPEG", "rgb8; jpeg compressed rgb8"))
    logged = [record.getMessage() for record in caplog.records]
    assert [line.partition(":")[0] for line in logged] == ["Camera front", "Camera wrist"]
    assert "front.swap_red_blue" in logged[0]
    caplog.clear()
    for number in range(100):
        front.read(compressed("JPEG", f"rgb8; jpeg compressed rgb{number}"))
    assert len(caplog.records) < 30


def broken_image(**changes: Any) -> Image:
    message = image_message()
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def truncated(image_format: str) -> CompressedImage:
    whole = compressed(image_format, image_format.lower())
    return CompressedImage(format=whole.format, data=whole.data[: len(whole.data) // 2])


def png_that_claims(width: int, height: int) -> CompressedImage:
    data = bytearray(compressed("PNG", "png").data)
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return CompressedImage(format="png", data=array("B", bytes(data)))


BROKEN: dict[str, tuple[Callable[[], Image | CompressedImage], str]] = {
    "unknown encoding": (lambda: broken_image(encoding="rgb9"), "rgb9"),
    "list of encodings": (lambda: broken_image(encoding="8SC3"), "bayer_rggb16"),
    "depth encoding": (lambda: broken_image(encoding="32FC1"), "It is depth"),
    "no encoding": (lambda: broken_image(encoding=""), "encoding"),
    "zero width": (lambda: broken_image(width=0), "0x48"),
    "zero height": (lambda: broken_image(height=0), "64x0"),
    "absurd size": (lambda: broken_image(width=2**32 - 1, height=2**32 - 1), "states a size"),
    "step too small": (lambda: broken_image(step=100), "step"),
    "zero step": (lambda: broken_image(step=0), "step"),
    "height beyond the data": (lambda: broken_image(height=49), "bytes"),
    "too few bytes": (lambda: broken_image(data=array("B", bytes(100))), "100 bytes"),
    "too many bytes": (lambda: broken_image(data=array("B", bytes(64 * 48 * 3 + 1))), "bytes"),
    "no bytes": (lambda: broken_image(data=array("B")), "0 bytes"),
    "odd width in yuv422": (lambda: broken_image(encoding="yuv422", width=63, step=126), "even"),
    "odd height in nv12": (lambda: broken_image(encoding="nv12", height=47), "even"),
    "everything zero": (Image, "encoding"),
    "empty compressed": (CompressedImage, "no bytes"),
    "garbage compressed": (lambda: CompressedImage(format="jpeg", data=array("B", bytes(range(256)))), "JPEG"),
    "truncated jpeg": (lambda: truncated("JPEG"), "cannot be read"),
    "truncated png": (lambda: truncated("PNG"), "cannot be read"),
    "png bomb": (lambda: png_that_claims(60000, 60000), "cannot be read"),
    "large png": (lambda: png_that_claims(9000, 9000), "states a size"),
    "compressed depth": (lambda: CompressedImage(format="16UC1; compressedDepth png", data=array("B", [1])), "depth"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_image_is_rejected_with_the_reason(case: str) -> None:
    make, part = BROKEN[case]
    with pytest.raises(BadImageError) as caught:
        read_image_message(make())
    assert part in caught.value.message


@settings(max_examples=300, deadline=None)
@given(
    width=st.integers(0, 70),
    height=st.integers(0, 50),
    step=st.integers(0, 300),
    encoding=st.sampled_from([*ENCODINGS, "32FC1", "jpeg", "?"]),
    data=st.binary(max_size=2000),
    big=st.integers(0, 255),
)
def test_every_raw_message_is_read_or_rejected(width: int, height: int, step: int, encoding: str, data: bytes, big: int) -> None:
    message = Image(width=width, height=height, step=step, encoding=encoding, is_bigendian=big, data=array("B", data))
    with suppress(BadImageError):
        assert read_image_message(message).shape == (height, width, 3)


@settings(max_examples=200, deadline=None)
@given(
    image_format=st.sampled_from(["JPEG", "PNG"]),
    place=st.integers(0, 10**6),
    value=st.integers(0, 255),
    cut=st.integers(0, 10**6),
)
def test_every_damaged_compressed_image_is_read_or_rejected(image_format: str, place: int, value: int, cut: int) -> None:
    data = compressed(image_format, image_format.lower()).data
    data[place % len(data)] = value
    message = CompressedImage(format=image_format.lower(), data=data[: len(data) - cut % 7])
    with suppress(BadImageError):
        assert read_image_message(message).dtype == np.uint8


@given(low=st.floats(-0.5, 99.5), extent=st.floats(0.0, 100.0), size=st.just(100))
def test_a_region_covers_its_rectangle_in_whole_pixels(low: float, extent: float, size: int) -> None:
    high = min(low + extent, size - 0.5)
    first, count = covered(low, high, size)
    assert first >= 0
    assert count >= 1
    assert first + count <= size
    assert first - 0.5 <= low + 1e-9
    assert high <= first + count - 0.5 + 1e-9


@pytest.fixture(scope="module")
def shared() -> Iterator[Rig]:
    with scripted("[(10, 10)]") as (it, _):
        yield it


@pytest.mark.parametrize("case", [case for case, (make, _) in BROKEN.items() if isinstance(make(), Image)])
def test_a_broken_camera_image_is_an_outcome_and_the_node_lives_on(shared: Rig, case: str) -> None:
    message = BROKEN[case][0]()
    message.header.stamp = image_message().header.stamp
    shared.show(message)
    refused = shared.call(Locate, "point", Locate.Request(instruction="the mug"))
    assert refused.outcome.code == Outcome.BAD_IMAGE
    assert BROKEN[case][1] in refused.outcome.message
    assert refused.affordances.header == message.header
    shared.show(image_message())
    assert shared.call(Locate, "point", Locate.Request(instruction="the mug")).outcome.code == Outcome.OK


def test_a_broken_image_of_a_request_is_named(shared: Rig) -> None:
    options = QueryOptions(images=[Image()])
    refused = shared.call(Locate, "point", Locate.Request(instruction="the mug", options=options))
    assert refused.outcome.code == Outcome.BAD_IMAGE
    assert "Image 1 of the request" in refused.outcome.message


def test_a_compressed_camera_is_read_and_its_damage_is_an_outcome() -> None:
    with scripted("[(10, 10)]", cameras=["camera", "wrist"], wrist__transport="compressed") as (it, _):
        request = Locate.Request(instruction="the mug", options=QueryOptions(camera="wrist"))
        for make, code in ((lambda: compressed("JPEG", "jpeg"), Outcome.OK), (lambda: truncated("JPEG"), Outcome.BAD_IMAGE)):
            message = make()
            message.header.stamp = image_message().header.stamp
            it.show(message, "wrist", "image/compressed")
            response = it.call(Locate, "point", request)
            assert response.outcome.code == code
            assert response.affordances.header == message.header
