"""Remove the metadata from JPEG, PNG and WebP files, and bound their number of parts, before a decoder reads them.

Decoders read every part of a file in turn, and Pillow keeps all metadata. So a JPEG of 6 MB with 1.1 million empty segments takes
3.5 s and 165 MB. Entries of Exif metadata can share their bytes, and not every version of Pillow bounds that. The functions here
read only the beginning of each part. Of the metadata, only the orientation remains.
"""

import re
import struct
import zlib

MOST_PARTS = 1000
"""Most segments of a JPEG before its first scan, and most chunks of a WebP."""
BYTES_PER_CHUNK = 1024
"""A PNG may have `MOST_PARTS` chunks, and one more for this number of bytes each. Encoders write chunks of 8 KiB or more."""
LARGEST_JPEG_HEADER = 128 * 1024
"""Most bytes of a JPEG before its first scan, without metadata. Its tables have less than 10 KiB."""
MOST_FILL = 1000
"""Most bytes between two segments of a JPEG."""

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_EXIF = b"Exif\0\0"
_MARKER = re.compile(rb"\xff([\x01-\xfe])", re.DOTALL)
_BARE = frozenset([0x01, *range(0xD0, 0xD9)])
"""Markers of a JPEG without content."""
_END, _SCAN, _JFIF, _APP1 = 0xD9, 0xDA, 0xE0, 0xE1
_METADATA = frozenset([*range(_APP1, 0xEE), 0xEF, 0xFE])
"""Markers of metadata. The segments APP0 (JFIF) and APP14 (Adobe) state how the colours are encoded."""
_PNG_HEADER = 33
"""Bytes of the signature and the first chunk of a PNG."""
_PNG_KEPT = frozenset({b"tRNS"})
"""Chunks of a PNG that are optional for decoders, and change the decoded image."""
_WEBP_DROPPED = frozenset({b"ICCP", b"EXIF", b"XMP "})
_ORIENTATION, _SHORT, _LONG = 0x0112, 3, 4
"""Tag of the orientation in Exif, and two types of its value."""
_MOST_ENTRIES = 1000


def without_metadata(data: bytes) -> bytes:
    """Return an image file without metadata. The decoded image is the same, including the orientation that Exif states.

    An orientation that only XMP or a text chunk states is lost. A file of another kind keeps its bytes, and so does a file with a
    broken structure from the fault on. Its decoder reports the fault.

    :returns: ``data`` itself if nothing is removed.
    :raises ValueError: the file has too many parts.
    """
    if data.startswith(_JPEG):
        return _jpeg(data)
    if data.startswith(_PNG):
        return _png(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    return data


class _Kept:
    """The kept parts of a file."""

    def __init__(self, data: bytes, start: int) -> None:
        self._data = data
        self._spans = [(0, start)]
        self.bytes = start
        self.orientation = 1
        self._has_exif = False

    def add(self, start: int, end: int) -> None:
        """Keep these bytes of the file."""
        self.bytes += end - start
        first, last = self._spans[-1]
        if last == start:
            self._spans[-1] = first, end
        else:
            self._spans.append((start, end))

    def read_exif(self, start: int, end: int) -> None:
        """Read the orientation from Exif metadata. The first one in a file counts."""
        if not self._has_exif:
            self._has_exif = True
            self.orientation = _orientation(self._data, start, end)

    def joined(self, at: int, extra: bytes = b"") -> bytes:
        """Return the kept bytes, with ``extra`` inserted after the first ``at`` bytes, which belong to the first part."""
        if not extra and self._spans == [(0, len(self._data))]:
            return self._data
        view = memoryview(self._data)
        rest = [view[start:end] for start, end in [(at, self._spans[0][1]), *self._spans[1:]]]
        return b"".join([view[:at], extra, *rest])


def _jpeg(data: bytes) -> bytes:
    kept = _Kept(data, 2)
    at = 2
    for _ in range(MOST_PARTS):
        found = _MARKER.search(data, at, at + MOST_FILL)
        if found is None:
            _require(at + MOST_FILL >= len(data), f"the JPEG image has more than {MOST_FILL} bytes between two segments")
            kept.add(at, len(data))
            break
        marker, start = found[1][0], found.end()
        if marker in (_SCAN, _END):
            kept.add(found.start(), len(data))
            break
        if marker in _BARE:
            at = start
            continue
        # Decoders also continue after a length below 2, which is invalid: it counts as 2.
        at = start + max(int.from_bytes(data[start : start + 2], "big"), 2)
        if at > len(data):
            kept.add(found.start(), len(data))
            break
        if marker == _APP1 and data.startswith(_EXIF, start + 2):
            kept.read_exif(start + 2 + len(_EXIF), at)
        metadata = marker in _METADATA or (marker == _JFIF and not data.startswith(b"JFIF\0", start + 2))
        if not metadata:
            kept.add(found.start(), at)
            size = f"the header of the JPEG image has more than {LARGEST_JPEG_HEADER} bytes without metadata"
            _require(kept.bytes <= LARGEST_JPEG_HEADER, size)
    else:
        raise ValueError(f"the JPEG image has more than {MOST_PARTS} segments before its data; save it without metadata")
    if kept.orientation == 1:
        return kept.joined(2)
    content = _EXIF + _exif(kept.orientation)
    return kept.joined(2, struct.pack(">BBH", 0xFF, _APP1, len(content) + 2) + content)


def _png(data: bytes) -> bytes:
    at = len(_PNG)
    kept = _Kept(data, at)
    most = MOST_PARTS + len(data) // BYTES_PER_CHUNK
    for _ in range(most):
        if len(data) - at < 12:
            break
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            break
        if not name[0] & 0x20 or name in _PNG_KEPT:  # The case of the first letter marks an optional chunk.
            kept.add(at, end)
        elif name == b"eXIf":
            kept.read_exif(at + 8, end - 4)
        at = end
        if name == b"IEND":
            break
    else:
        raise ValueError(f"the PNG image has more than {most} chunks; save it with larger ones, without metadata")
    kept.add(at, len(data))
    if kept.orientation == 1:
        return kept.joined(0)
    content = b"eXIf" + _exif(kept.orientation)
    return kept.joined(_PNG_HEADER, struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content)))


def _webp(data: bytes) -> bytes:
    at = 12
    kept = _Kept(data, at)
    for _ in range(MOST_PARTS):
        if len(data) - at < 8:
            break
        name, length = struct.unpack_from("<4sI", data, at)
        if at + 8 + length > len(data):
            break
        end = min(at + 8 + length + length % 2, len(data))
        if name not in _WEBP_DROPPED:
            kept.add(at, end)
        elif name == b"EXIF":
            start = at + 8 + len(_EXIF) * data.startswith(_EXIF, at + 8)
            kept.read_exif(start, end)
        at = end
    else:
        raise ValueError(f"the WebP image has more than {MOST_PARTS} chunks; save it without metadata, and with fewer frames")
    kept.add(at, len(data))
    joined = kept.joined(0)
    if joined is data:
        return data
    content = b"" if kept.orientation == 1 else _exif(kept.orientation)
    extra = struct.pack("<4sI", b"EXIF", len(content)) + content if content else b""
    return b"".join([b"RIFF", struct.pack("<I", len(joined) + len(extra) - 8), memoryview(joined)[8:], extra])


def _orientation(data: bytes, start: int, end: int) -> int:
    """Return the orientation in Exif metadata, from 1 to 8. It is 1 (not rotated) if it is missing or broken."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[start : start + 4])
    if order is None:
        return 1
    try:
        (table,) = struct.unpack_from(f"{order}I", data, start + 4)
        (count,) = struct.unpack_from(f"{order}H", data, start + table)
        for number in range(min(count, _MOST_ENTRIES)):
            at = start + table + 2 + 12 * number
            tag, kind, values, value = struct.unpack_from(f"{order}HHIH", data, at)
            if tag == _ORIENTATION and at + 12 <= end:
                if kind == _LONG:
                    (value,) = struct.unpack_from(f"{order}I", data, at + 8)
                return value if kind in (_SHORT, _LONG) and values == 1 and 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _exif(orientation: int) -> bytes:
    """Return Exif metadata that contains only the orientation."""
    return struct.pack(">4sIHHHIHHI", b"MM\0*", 8, 1, _ORIENTATION, 3, 1, orientation, 0, 0)


def _require(holds: bool, fault: str) -> None:
    if not holds:
        raise ValueError(fault)
