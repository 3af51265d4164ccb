"""Read a small file whose name is a parameter or an argument. The size is limited, and reading never waits for a writer.

This module imports no other module of this package, so that the core, the engines and the node can use it.
"""

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_KINDS = {
    stat.S_IFDIR: "it is a directory",
    stat.S_IFIFO: "it is a named pipe (FIFO)",
    stat.S_IFCHR: "it is a character device",
    stat.S_IFBLK: "it is a block device",
    stat.S_IFSOCK: "it is a socket",
}
_PIECE = 1 << 16


class UnreadableFileError(Exception):
    """A file cannot be read. The message is the reason, without the file's name and without a full stop."""


class NoSuchFileError(UnreadableFileError):
    """There is no file with this name."""


@dataclass(frozen=True)
class SmallFile:
    """The content of a file and its permission bits."""

    content: bytes
    mode: int


def home_expanded(path: str) -> Path:
    """Return a path whose ~ or ~user at the beginning is replaced by the home folder. An unknown user is kept as written."""
    return Path(os.path.expanduser(path))


def read_small_file(path: str | Path, largest: int) -> SmallFile:
    """Read a regular file of at most ``largest`` bytes.

    Pipes, devices, sockets and directories are rejected. Opening one of them never blocks.

    :raises NoSuchFileError: the file does not exist.
    :raises UnreadableFileError: the file cannot be read, is not a regular file, or is larger.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except FileNotFoundError as error:
        raise NoSuchFileError("No such file or directory") from error
    except OSError as error:
        special = _KINDS.get(_kind(path), "")  # Sockets and devices without a driver cannot be opened.
        raise UnreadableFileError(f"{special}, not a regular file" if special else error.strerror or "unknown error") from error
    except ValueError as error:  # The name contains a NUL character.
        raise UnreadableFileError(f"its name is not a file name ({error})") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = _KINDS.get(stat.S_IFMT(status.st_mode), "it is not a file")
            raise UnreadableFileError(f"{kind}, not a regular file")
        if status.st_size > largest:
            raise UnreadableFileError(f"it is larger than {largest} bytes")
        return SmallFile(_content(descriptor, largest), status.st_mode)
    except OSError as error:
        raise UnreadableFileError(error.strerror or "it cannot be read") from error
    finally:
        os.close(descriptor)


def read_small_text(path: str | Path, largest: int) -> str:
    """Read a regular file of UTF-8 text; see `read_small_file`.

    :raises UnreadableFileError: see `read_small_file`; or the file is not UTF-8.
    """
    content = read_small_file(path, largest).content
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UnreadableFileError(f"it is not text in UTF-8 (line {line}); save it as UTF-8") from error


def read_small_json(path: str | Path, largest: int) -> dict[str, Any]:
    """Read a regular file with a JSON object; see `read_small_file`.

    :raises UnreadableFileError: see `read_small_text`; or the content is not a JSON object.
    """
    try:
        content = json.loads(read_small_text(path, largest))
    except (ValueError, RecursionError) as error:
        raise UnreadableFileError(f"it is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise UnreadableFileError("it is not a JSON object")
    return content


def _content(descriptor: int, largest: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while piece := os.read(descriptor, _PIECE):
        pieces.append(piece)
        size += len(piece)
        if size > largest:
            raise UnreadableFileError(f"it is larger than {largest} bytes")
    return b"".join(pieces)


def _kind(path: str | Path) -> int:
    try:
        return stat.S_IFMT(os.stat(path).st_mode)
    except (OSError, ValueError):
        return 0
