"""Check the images of HTTP requests. They are fetched only from allowed hosts. Their size is checked before they are decoded."""

import base64
import binascii
import http.client
import io
import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from robobrain_ros.bounds.image_files import MOST_PARTS, without_metadata

FORMATS = ("PNG", "JPEG", "WEBP")
_FETCH = 10.0
"""Seconds that fetching one image may take."""
_SILENCE = 5.0
"""Seconds that a host may send nothing."""
_PIECE = 64 * 1024
_LONGEST = 200
"""Largest ratio of the long side of an image to its short side. The models reject larger ratios."""
_SCAN, _END = b"\xff\xda", b"\xff\xd9"
_SEGMENT = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]", re.DOTALL)
"""The beginning of a segment in the data of a JPEG: neither a stuffed byte nor a restart marker."""
_MOST_SCANS = 64
"""Most scans of a progressive JPEG. Each scan takes time for every pixel, even if the scan has few bytes."""
_PREFIX = 100
"""Most characters of a data URL before the data."""
_ENCODED_PIECE = 64 * 1024
"""Characters of a data URL that are decoded at once. Other threads run between two pieces."""
_BLANKS = b" \t\r\n\v\f"
_ESCAPES = {b"%2B": b"+", b"%2F": b"/", b"%3D": b"=", b"%0A": b"", b"%0D": b"", b"%20": b"", b"%09": b""}
"""Percent-encoded characters in base64, and their meanings. Clients do not percent-encode letters and digits."""


class ImageBudget:
    """Counts the images of one request and their pixels.

    :param most: most images.
    :param pixels: most pixels of all images together.
    :param size: most bytes of one fetched image.
    :param domains: names of hosts from which images may be fetched.
    """

    def __init__(self, most: int, pixels: int, size: int, domains: Sequence[str] = ()) -> None:
        self._most = most
        self._all_pixels = self._pixels = pixels
        self._size = size
        self._domains = frozenset(domain.lower() for domain in domains)
        self._count = 0

    def take(self, url: str) -> str:
        """Check an image, and return it as a data URL. Call it in a thread, because it fetches and decodes.

        :raises ValueError: the URL is not supported, the image cannot be read, or the request's images are too many or too large.
        """
        self._count += 1
        if self._count > self._most:
            raise ValueError(f"the request has more than {self._most} images (engine.max_images)")
        scheme = url[:_PREFIX].partition(":")[0].lower()
        if scheme in ("http", "https"):
            return self._checked(self._fetched(url))
        if scheme != "data":
            kind = f"{scheme[:20]}: URLs are" if ":" in url[:_PREFIX] else "this URL is"
            raise ValueError(f"{kind} not supported; send the image itself: data:image/png;base64,...")
        comma = url.find(",", 0, _PREFIX + 1)
        if comma < 0 or not url[:comma].lower().endswith(";base64"):
            raise ValueError("the data URL is not of the form data:image/png;base64,...")
        return self._checked(_decoded(url, comma + 1))

    def _checked(self, content: bytes) -> str:
        """Check an image, and return it as a data URL that every version of vLLM can read."""
        content = without_metadata(content)
        kind = self._measure(content).lower()
        return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"

    def _measure(self, content: bytes) -> str:
        """Check the size of an image, and that it can be decoded. Return its format."""
        from PIL import Image

        try:
            # This reads only the header.
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise self._too_large("") from error
        except Exception as error:  # A decoder can raise any exception on bytes from a client.
            raise ValueError(f"the image cannot be read; it must be {', '.join(FORMATS[:-1])} or {FORMATS[-1]}") from error
        with image:
            width, height = image.size
            self._pixels -= width * height
            if self._pixels < 0:
                raise self._too_large(f" (the last one {width}x{height})")
            if max(width, height) > _LONGEST * min(width, height):
                raise ValueError(f"the image is more than {_LONGEST} times as long as wide")
            if image.format == "JPEG" and _has_too_many_scans(content):
                raise ValueError(f"the JPEG image has more than {_MOST_SCANS} scans; save it as a baseline JPEG")
            try:
                image.draft("RGB", (width // 8, height // 8))  # Only the JPEG decoder supports a smaller size.
                image.load()
            except Exception as error:
                raise ValueError(f"the image cannot be decoded: {str(error)[:100]}") from error
            return str(image.format)

    def _too_large(self, which: str) -> ValueError:
        return ValueError(
            f"the images have more than {self._all_pixels} pixels{which}; send smaller ones, or raise "
            "openai_server.max_image_pixels"
        )

    def _fetched(self, url: str) -> bytes:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        if host not in self._domains:
            raise ValueError(
                "images are not fetched from this URL; send the image itself (data:image/png;base64,...), or name its host in "
                "openai_server.allowed_media_domains"
            )
        if parts.username or parts.password:
            raise ValueError("a URL with a user name is not supported")
        try:
            return self._fetch(url)
        except (OSError, ValueError, http.client.HTTPException) as error:
            # The message omits the system's reason, because a client could use it to explore the network.
            raise ValueError(f"the image at {host} could not be fetched within {_FETCH:.0f} s and {self._size} bytes") from error

    def _fetch(self, url: str) -> bytes:
        opener = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}))
        end = time.monotonic() + _FETCH
        pieces: list[bytes] = []
        total = 0
        with opener.open(url, timeout=_SILENCE) as response:
            while piece := response.read1(_PIECE):
                pieces.append(piece)
                total += len(piece)
                if total > self._size or time.monotonic() > end:
                    raise ValueError("it is too large or too slow")
        return b"".join(pieces)


def _has_too_many_scans(content: bytes) -> bool:
    """Return whether a JPEG has too many scans before its end. Phones append videos after the end."""
    at, scans = content.find(_SCAN), 0
    for _ in range(MOST_PARTS):
        found = _SEGMENT.search(content, at) if at >= 0 else None
        if found is None or found[0] == _END:
            return False
        scans += found[0] == _SCAN
        if scans > _MOST_SCANS:
            return True
        at = found.end() + max(int.from_bytes(content[found.end() : found.end() + 2], "big"), 2)
    return True


def _decoded(url: str, start: int) -> bytes:
    """Return the bytes of a data URL whose base64 begins at ``start``. It may contain blanks and line ends (RFC 2397, RFC 2045).

    :raises ValueError: it is not base64. The message states the reason.
    """
    content = bytearray()
    rest = b""
    padded = False
    try:
        for at in range(start, len(url), _ENCODED_PIECE):
            piece = rest + url[at : at + _ENCODED_PIECE].encode("ascii")
            complete = at + _ENCODED_PIECE >= len(url)
            cut = -1 if complete else piece.find(b"%", -2)  # The rest of this escape is in the next piece.
            held = b"" if cut < 0 else piece[cut:]
            piece = _without_escapes(piece[: len(piece) - len(held)]).translate(None, _BLANKS)
            whole = len(piece) if complete else len(piece) // 4 * 4
            rest = piece[whole:] + held
            if whole and padded:
                raise ValueError("it continues after its padding")
            content += base64.b64decode(piece[:whole], validate=True)
            padded = padded or piece[:whole].endswith(b"=")
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"the data URL does not contain valid base64: {error}") from error
    return bytes(content)


def _without_escapes(piece: bytes) -> bytes:
    if b"%" not in piece:
        return piece
    for escape, character in _ESCAPES.items():
        piece = piece.replace(escape, character).replace(escape.lower(), character)
    if b"%" in piece:
        raise ValueError("of the percent-encoded characters, only +, /, =, blanks and line ends are supported")
    return piece


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Handles a redirect as an error, because it can lead to any host."""

    def redirect_request(self, *arguments: Any, **named: Any) -> None:
        return None
