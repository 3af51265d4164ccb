"""Read bags: rosbag2 (MCAP, SQLite, compressed) and ROS 1."""

import errno
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robobrain_ros.bags.bounded import limit_decompression
from robobrain_ros.bags.errors import BagError
from robobrain_ros.bags.messages import CAMERA_INFO, calibration_of_ros1, ros1_types, ros2_types

_RECOVER = {
    ".mcap": "`mcap recover IN -o OUT` saves what is left of it",
    ".db3": "`sqlite3 IN .recover | sqlite3 OUT` saves what is left of it",
    ".bag": "`rosbag reindex` saves what is left of it",
}

_FILES = (".mcap", ".db3", ".bag", ".zstd", ".yaml")
"""Ends of the names of a bag's files."""
_LARGEST_METADATA = 16 << 20
"""Bytes of metadata.yaml. It has one entry for each topic and each file."""

_MAGIC = b"\x89MCAP0\r\n"
"""The last bytes of a complete MCAP."""


@dataclass(frozen=True)
class Topic:
    """A topic of a bag.

    :param types: its types. More than one is a fault of the recording.
    :param connections: rosbags' connections.
    """

    name: str
    types: tuple[str, ...]
    count: int
    connections: tuple[Any, ...]


@dataclass(frozen=True)
class Record:
    """A message in a bag.

    :param time: when it was recorded, in ns.
    :param raw: the serialized message.
    """

    connection: Any
    time: int
    raw: bytes


class Source:
    """An open bag. Use it in one thread at a time.

    :param path: a folder or file of rosbag2 (.mcap, .db3), or a file of ROS 1 (.bag).
    :raises BagError: there is no readable bag.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_ros1 = path.suffix == ".bag" and path.is_file()
        self._reader = self._open()
        self._store = ros1_types() if self.is_ros1 else ros2_types()
        topics: dict[str, list[Any]] = {}
        for connection in self._reader.connections:
            topics.setdefault(connection.topic, []).append(connection)
        self.topics = {
            name: Topic(name, tuple(sorted({c.msgtype for c in all_})), sum(c.msgcount for c in all_), tuple(all_))
            for name, all_ in sorted(topics.items())
        }
        """The topics by name."""

    def _open(self) -> Any:
        from rosbags.rosbag1 import Reader as Reader1
        from rosbags.rosbag2 import Reader as Reader2

        if not self.path.exists():
            raise BagError(f"There is no bag {self.path}.")
        if self.path.is_dir() and not (self.path / "metadata.yaml").is_file():
            raise BagError(
                f"The folder {self.path} has no metadata.yaml, so the recording did not end properly. {self._repair()}"
            )
        if not self.path.is_dir() and self.path.suffix not in (".bag", ".mcap", ".db3"):
            raise BagError(f"{self.path} is no bag: its name does not end in .mcap, .db3 or .bag, and it is no folder.")
        limit_decompression()
        try:
            self._check_files()
            reader = Reader1(self.path) if self.is_ros1 else Reader2(self.path)
            reader.open()
            _check_values(reader)
            _match_connections(reader)
        except BagError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                folder = tempfile.gettempdir()
                raise BagError(
                    f"{self.path} is compressed, and {folder} has too little space to decompress it. Free some space, or set "
                    "TMPDIR to another folder."
                ) from error
            raise self.damaged(error) from error
        return reader

    def _repair(self) -> str:
        """Return how to repair a killed recording. `ros2 bag reindex` writes metadata.yaml, but no end of an MCAP."""
        for file in sorted(self.path.glob("*.mcap")):
            if file.is_file() and not _has_end(file):
                return (
                    f"{file.name} has no end. Run `mcap recover {file} -o OUT.mcap`, or first `ros2 bag reindex {self.path}` and "
                    f"then `ros2 bag convert -i {self.path} -o OPTIONS.yaml`, and name the new bag."
                )
        return "Run `ros2 bag reindex` on it, or name the file in it instead of the folder."

    def _check_files(self) -> None:
        """Check what would be opened: a named pipe without a writer would block, and a device never ends.

        :raises BagError: a file is no regular file, or metadata.yaml is too large.
        """
        files = [file for file in self.path.iterdir() if file.suffix in _FILES] if self.path.is_dir() else [self.path]
        for file in files:
            if not file.is_file():
                raise BagError(f"{file} is not a regular file.")
            if file.name == "metadata.yaml" and file.stat().st_size > _LARGEST_METADATA:
                raise BagError(f"{file} has {file.stat().st_size} bytes; at most {_LARGEST_METADATA} are allowed.")

    def damaged(self, error: Exception) -> BagError:
        """Return the error for a bag that rosbags or a library below it cannot read."""
        reason = " ".join(str(error).split()) or type(error).__name__
        suffix = self.path.suffix or next((path.suffix for path in self.path.glob("*.*") if path.suffix in _RECOVER), "")
        advice = f" {_RECOVER[suffix]}." if suffix in _RECOVER else ""
        return BagError(f"{self.path} is truncated or damaged ({reason.rstrip('.')}).{advice}")

    @property
    def begin(self) -> int:
        """Time of the first message in ns."""
        return int(self._reader.start_time)

    @property
    def end(self) -> int:
        """Time of the last message in ns."""
        return int(self._reader.end_time)

    @property
    def count(self) -> int:
        """Number of messages."""
        return int(self._reader.message_count)

    def records(self, topics: Collection[str]) -> Iterator[Record]:
        """Yield the messages of some topics in the order of their time.

        :raises BagError: the bag is damaged. The messages before the damage have been yielded.
        """
        connections = [connection for name in topics for connection in self.topics[name].connections]
        if not connections:
            return
        messages = self._reader.messages(connections)
        while True:
            try:
                found = next(messages, None)
            except Exception as error:
                raise self.damaged(error) from error
            if found is None:
                return
            yield Record(*found)

    def decoded(self, record: Record) -> Any:
        """Return the message of a record, with the fields of ROS 2.

        :raises BagError: its bytes do not fit its type.
        """
        name = record.connection.msgtype
        try:
            read = self._store.deserialize_ros1 if self.is_ros1 else self._store.deserialize_cdr
            message = read(record.raw, name)
        except Exception as error:
            raise BagError(f"A message on {record.connection.topic} is no {name} ({type(error).__name__}: {error}).") from error
        return calibration_of_ros1(message) if self.is_ros1 and name == CAMERA_INFO else message

    def close(self) -> None:
        """Close the files."""
        self._reader.close()


def _check_values(reader: Any) -> None:
    """Check the types of the values that rosbags takes from metadata.yaml or from the index.

    :raises TypeError: a value has another type.
    """
    numbers = {"number of messages": reader.message_count, "begin": reader.start_time, "end": reader.end_time}
    texts: dict[str, Any] = {}
    for connection in reader.connections:
        topic = connection.topic
        texts |= {f"name of the topic {topic}": topic, f"type of the topic {topic}": connection.msgtype}
        numbers[f"number of messages of the topic {topic}"] = connection.msgcount
    for values, kind in ((texts, str), (numbers, int)):
        for what, value in values.items():
            if type(value) is not kind:
                raise TypeError(f"the {what} is {value!r}")


def _match_connections(reader: Any) -> None:
    """Make the topics of the files fit those of metadata.yaml.

    rosbags yields no message of a topic whose QoS profiles differ between both. `ros2 bag reindex` replaces the depth 0 by 10.
    """
    for storage in getattr(getattr(reader, "storage", None), "storages", ()):  # Only a folder of rosbag2 has both.
        for number, inner in enumerate(storage.connections):
            fitting = [it for it in reader.connections if (it.topic, it.msgtype) == (inner.topic, inner.msgtype)]
            if fitting and all(it.ext != inner.ext for it in fitting):
                storage.connections[number] = inner._replace(ext=fitting[0].ext)


def _has_end(file: Path) -> bool:
    """Return whether an MCAP is complete. A file that cannot be read counts as complete: nothing is known about it."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - len(_MAGIC)))
            return stream.read() == _MAGIC
    except OSError:
        return True
