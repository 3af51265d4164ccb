"""Limits for compressed bags. rosbags decompresses without a limit, so that a small file could fill the memory or the disk."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

MOST = 512 * 2**20
"""Bytes of a chunk or a message after decompression. Chunks of recorders have about 1 MB; larger ones have a single message. Also
bytes of all chunks that contain the same time, because rosbags keeps them in memory together."""
_RESERVED = 256 * 2**20
"""Bytes that stay free on the disk while a compressed file is decompressed to a temporary one."""


class TooLargeError(Exception):
    """Something is larger than its limit after decompression."""


@cache
def limit_decompression() -> None:
    """Make rosbags use the limits of this module."""
    from bz2 import BZ2Decompressor

    from lz4.frame import LZ4FrameDecompressor
    from rosbags.rosbag1 import reader as reader1
    from rosbags.rosbag2 import reader as reader2
    from rosbags.rosbag2 import storage_mcap

    storage_mcap.msgsrc = partial(_messages, storage_mcap.msgsrc, _Open())
    zstd = reader2.zstd
    for name, new in (("zstd", zstd.ZstdDecompressor), ("lz4", LZ4FrameDecompressor)):
        storage_mcap.DECOMPRESSORS[name] = partial(_decompressed, new)
    for name, new in (("bz2", BZ2Decompressor), ("lz4", LZ4FrameDecompressor)):
        reader1.decompressors[name] = partial(_decompressed, new)
    reader2.zstd = SimpleNamespace(decompress=partial(_decompressed, zstd.ZstdDecompressor), open=partial(_opened, zstd.open))


def _decompressed(new: Callable[[], Any], data: bytes, size: int | None = None) -> bytes:
    """Return decompressed data.

    :param new: creates a decompressor of Python's interface, for one frame.
    :param size: largest number of bytes, as stated in the file. None: `MOST`.
    :raises TooLargeError: the data is larger.
    """
    size = MOST if size is None else size
    if size > MOST:
        raise TooLargeError(f"A chunk states a size of {size} bytes; at most {MOST} are allowed")
    parts: list[bytes] = []
    left = size
    while data:
        frame = new()
        part = frame.decompress(data, left + 1)
        left -= len(part)
        if left < 0:
            raise TooLargeError(f"A chunk or message has more than {size} bytes after decompression")
        if not frame.eof:
            raise EOFError("The compressed data is incomplete")
        parts.append(part)
        data = frame.unused_data
    return b"".join(parts)


class _Open:
    """The compressed chunks that are in memory."""

    size = 0


def _messages(inner: Callable[..., Iterator[Any]], opened: _Open, chunk: Any, *arguments: Any) -> Iterator[Any]:
    """Yield the messages of a chunk. The first value only has the chunk's time. The chunk is read after it.

    :raises TooLargeError: the chunks in memory are too large together.
    """
    messages = inner(chunk, *arguments)
    yield next(messages)
    size = chunk.uncompressed_size if chunk.compression else 0
    opened.size += size
    try:
        if opened.size > max(MOST, size):
            raise TooLargeError(f"The chunks of the same time have more than {MOST} bytes after decompression")
        yield from messages
    finally:
        opened.size -= size


class _Sparing:
    """A file for reading that raises an error when the disk with the temporary files is nearly full."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __enter__(self) -> "_Sparing":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def read(self, size: int = -1) -> bytes:
        """Read bytes.

        :raises OSError: the disk is nearly full.
        """
        if shutil.disk_usage(tempfile.gettempdir()).free < _RESERVED:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return bytes(self._file.read(size))


def _opened(inner: Callable[..., Any], *arguments: Any) -> _Sparing:
    return _Sparing(inner(*arguments))
