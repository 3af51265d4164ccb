"""Images of many parts or with much metadata in HTTP requests and messages: they are bounded before a decoder reads them."""

import base64
import contextlib
import io
import random
import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from robobrain_ros.bounds.image_files import without_metadata
from robobrain_ros.core.formats.image_files import decode_file
from robobrain_ros.core.formats.jpeg import jpeg_size
from robobrain_ros.engine.http.images import ImageBudget
from robobrain_ros.errors import BadImageError

ORIENTATION = 0x0112
KINDS = ("JPEG", "PNG", "WEBP")


def encoded(kind: str, **options: Any) -> bytes:
    pixels = np.random.default_rng(3).integers(0, 255, (48, 64, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def taken(content: bytes) -> bytes:
    """Return the image that the engine gets for an image of a client."""
    url = ImageBudget(1, 10**6, 10**8).take(f"data:;base64,{base64.b64encode(content).decode()}")
    return base64.b64decode(url.partition(",")[2])


def jpeg(parts: bytes) -> bytes:
    content = encoded("JPEG")
    return content[:2] + parts + content[2:]


def chunk(name: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(parts: bytes) -> bytes:
    content = encoded("PNG")
    return content[:33] + parts + content[33:]


def webp(parts: bytes) -> bytes:
    content = encoded("WEBP", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0") + parts
    return content[:4] + struct.pack("<I", len(content) - 8) + content[8:]


MANY = [
    (jpeg(b"\xff\xe5\x00\x02" * 1000), "more than 1000 segments"),
    (jpeg(b"\xff\xfe\x00\x02" * 1000), "more than 1000 segments"),
    (jpeg(b"\xff\xe5\x00\x00" * 1000), "more than 1000 segments"),
    (jpeg(b"\xff\xfe\x00\x01" * 1000), "more than 1000 segments"),
    (jpeg(b"\xff\xd0" * 1000), "more than 1000 segments"),
    (jpeg(b"\xff" * 2000), "more than 1000 bytes between two segments"),
    (jpeg(b"\xff\x00" * 1000), "more than 1000 bytes between two segments"),
    (jpeg((b"\xff\xc0\xff\xff" + bytes(65533)) * 3), "more than 131072 bytes without metadata"),
    (png(chunk(b"prVt") * 1100), "more than 10[0-9]{2} chunks"),
    (png(chunk(b"IDAT") * 1100), "more than 10[0-9]{2} chunks"),
    (webp(b"abcd\0\0\0\0" * 1000), "more than 1000 chunks"),
]


@pytest.mark.parametrize(("content", "reason"), MANY)
def test_images_of_many_parts_are_rejected_before_a_decoder_reads_them(
    content: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("PIL.Image.open", lambda *arguments, **named: pytest.fail("a decoder has read it"))
    with pytest.raises(ValueError, match=reason):
        taken(content)
    if content[:4] != b"RIFF":
        with pytest.raises(BadImageError, match=reason):
            decode_file(content, "")
    if content[:2] == b"\xff\xd8":
        with pytest.raises(BadImageError, match=reason):
            jpeg_size(content)


def test_a_video_after_the_image_does_not_count_as_scans() -> None:
    """Phones append the video of a motion photo to the JPEG."""
    content = encoded("JPEG", progressive=True)
    assert taken(content + random.Random(5).randbytes(6_000_000)).startswith(content)


def test_too_many_scans_are_rejected() -> None:
    content = encoded("JPEG", progressive=True)
    scan = content[content.rindex(b"\xff\xda") : -2]
    with pytest.raises(ValueError, match="more than 64 scans"):
        taken(content[:-2] + 64 * scan + content[-2:])


def test_the_first_exif_counts_and_its_orientation_may_be_a_long() -> None:
    straight, turned = (struct.pack(">4sIHHHIII", b"MM\0*", 8, 1, ORIENTATION, 4, 1, value, 0) for value in (1, 6))

    def exif(*contents: bytes) -> bytes:
        return jpeg(b"".join(struct.pack(">BBH", 0xFF, 0xE1, len(one) + 8) + b"Exif\0\0" + one for one in contents))

    for content, orientation in ((exif(turned), 6), (exif(straight, turned), 1)):
        assert Image.open(io.BytesIO(content)).getexif().get(ORIENTATION) == orientation
        assert Image.open(io.BytesIO(without_metadata(content))).getexif().get(ORIENTATION, 1) == orientation


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_without_metadata_is_not_copied(kind: str) -> None:
    content = encoded(kind)
    assert without_metadata(content) is content
    assert taken(content) == content


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", [0, 1, 3, 6, 8, 9])
def test_of_the_metadata_the_engine_gets_only_the_orientation(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif[0x010E] = "x" * 5000
    options: dict[str, Any] = {"exif": exif, "icc_profile": b"y" * 5000}
    content = encoded(kind, **options)
    passed = taken(content)
    assert len(passed) < len(content) - 4900
    with Image.open(io.BytesIO(content)) as sent, Image.open(io.BytesIO(passed)) as got:
        assert set(got.getexif()) <= {ORIENTATION}
        assert got.info.get("icc_profile") is None
        assert np.array_equal(np.asarray(ImageOps.exif_transpose(got)), np.asarray(ImageOps.exif_transpose(sent)))


def test_colours_of_a_file_stay_the_same() -> None:
    """The Adobe segment of a JPEG, and the palette and transparency of a PNG, change the colours."""
    stream = io.BytesIO()
    Image.new("CMYK", (16, 16), (200, 30, 90, 10)).save(stream, "JPEG")
    palette = io.BytesIO()
    Image.new("P", (16, 16), 3).save(palette, "PNG", transparency=3, dpi=(72, 72))
    for content in (stream.getvalue(), palette.getvalue()):
        with Image.open(io.BytesIO(content)) as sent, Image.open(io.BytesIO(taken(content))) as got:
            assert np.array_equal(np.asarray(got.convert("RGBA")), np.asarray(sent.convert("RGBA")))


def test_broken_files_raise_only_the_documented_error() -> None:
    chance = random.Random(5)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    for kind in KINDS:
        whole = encoded(kind, exif=exif)
        for _ in range(300):
            content = bytearray(whole)
            for _ in range(3):
                content[chance.randrange(3, min(300, len(content)))] = chance.choice([0, 1, 0x7F, 0xE1, 0xFF])
            with contextlib.suppress(ValueError):
                without_metadata(bytes(content[: chance.randrange(len(content))]))


def written(content: bytes) -> str:
    """Return base64 with blanks and escapes at all positions, as clients write it."""
    chance = random.Random(1)
    escapes = {"+": "%2B", "/": "%2f", "=": "%3d"}
    text = base64.b64encode(content).decode()
    letters = [escapes[letter] if letter in escapes and chance.random() < 0.5 else letter for letter in text]
    return "".join(letter + chance.choice(["", "", "", "", "\r\n", " ", "%0D%0A"]) for letter in letters) + "\n" * 70_000


def test_a_large_data_url_is_decoded_in_pieces() -> None:
    content = encoded("PNG") + random.Random(2).randbytes(300_001)
    url = ImageBudget(1, 10**6, 10**8).take(f"data:image/png;base64,{written(content)}")
    assert base64.b64decode(url.partition(",")[2]) == content


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("%41" * 100_000, "of the percent-encoded characters"),
        ("AAAA%", "of the percent-encoded characters"),
        ("AA==" + " " * 200_000 + "AAAA", "after its padding"),
        ("AAAA" * 50_000 + "A", "base64"),
        ("AAAA" * 50_000 + "\N{BULLET}", "base64"),
    ],
)
def test_wrong_data_urls_are_rejected(data: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"the data URL does not contain valid base64.*{reason}|{reason}"):
        ImageBudget(1, 10**6, 10**8).take(f"data:image/png;base64,{data}")


@pytest.mark.parametrize("data", ["AA " * 1_000_000, "%2B" * 1_000_000])
def test_the_form_of_a_data_url_does_not_multiply_its_memory(data: str) -> None:
    url = f"data:image/png;base64,{data}"
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"cannot be read|base64"):
            ImageBudget(1, 10**6, 10**8).take(url)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * len(url)
