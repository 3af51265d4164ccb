"""One file of an output bag, which stays readable when writing fails."""

import copy
import io
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robobrain_ros.bags.messages import ros2_types

_VERSION: Any = 8
"""Version of the metadata. ROS 2 Iron and later read it; Humble ignores what it does not know."""
_BETWEEN_COMMITS = 2**20
"""Bytes of messages between two transactions of SQLite, as many as in a chunk of MCAP."""
_START: dict[str, Any] = {"message_start_time": 2**63 - 1, "message_end_time": 0, "channel_stats": {}}
"""The state of rosbags' MCAP writer before the first message."""


class _PlainFile:
    """A file without a buffer, so that a failed write leaves nothing that would be written later. It writes all or raises."""

    def __init__(self, path: Path) -> None:
        self._file = io.FileIO(path, "r+")
        self._file.seek(0, os.SEEK_END)

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            done += self._file.write(view[done:]) or 0
        return done

    def tell(self) -> int:
        return self._file.tell()

    def cut(self, size: int) -> None:
        """Remove all that comes after ``size`` bytes."""
        self._file.truncate(size)
        self._file.seek(size)

    def close(self) -> None:
        self._file.close()


@dataclass
class _Mark:
    """The state of the writer at a point from which the file can be finished. `progress` is the caller's."""

    size: int
    chunks: int
    storage: dict[str, Any]
    counts: dict[int, int]
    begin: int
    end: int
    progress: Any


class Segment:
    """One file of an output bag.

    :param folder: a folder that does not exist. `close` moves the file to the folder's parent.
    :param storage: "mcap" or "sqlite3".
    """

    def __init__(self, folder: Path, storage: str) -> None:
        from rosbags.rosbag2 import StoragePlugin, Writer

        self._folder = folder
        self.writer: Any = Writer(folder, version=_VERSION, storage_plugin=StoragePlugin[storage.upper()])
        self.writer.open()
        self._is_mcap = storage == "mcap"
        if self._is_mcap:
            # The MCAP writer of rosbags writes through a buffer, which would be written again after a failure.
            inner = self.writer.storage
            inner.bio.close()
            inner.bio = _PlainFile(inner.path)
        self._mark: _Mark | None = None
        self._unmarked = 0

    def copy_connection(self, connection: Any) -> Any:
        """Add a topic of another bag, with its type definition, and return its connection."""
        ext = connection.ext
        how = {"serialization_format": ext.serialization_format, "offered_qos_profiles": ext.offered_qos_profiles}
        text, name = connection.msgdef.data, connection.msgtype
        if not text or not connection.digest:
            store = copy.copy(ros2_types())
            if text:
                from rosbags.typesys import Stores, get_types_from_msg, get_typestore

                store = get_typestore(Stores.EMPTY)
                store.register(get_types_from_msg(text, name))
            return self.writer.add_connection(connection.topic, name, typestore=store, **how)
        return self.writer.add_connection(connection.topic, name, msgdef=text, rihs01=connection.digest, **how)

    def write(self, connection: Any, time: int, raw: bytes) -> None:
        """Write a message."""
        self.writer.write(connection, time, raw)
        self._unmarked += len(raw)

    def mark(self, progress: Any, *, at_once: bool = False) -> None:
        """Mark a point to which `restore` can return, if enough was written since the last one.

        :param progress: what `restore` returns.
        """
        if self._unmarked < _BETWEEN_COMMITS and not at_once:
            return
        storage = self.writer.storage
        size = 0
        if self._is_mcap:
            if storage.chunk.bio.tell():
                storage.close_chunk()
            size = storage.bio.tell()
            kept = {
                name: copy.copy(getattr(storage, name)) for name in ("message_start_time", "message_end_time", "channel_stats")
            }
        else:
            storage.conn.commit()
            kept = {}
        chunks = len(storage.chunks) if self._is_mcap else 0
        writer = self.writer
        self._mark = _Mark(
            size, chunks, kept, dict(writer.counts), writer.min_timestamp, writer.max_timestamp, copy.deepcopy(progress)
        )
        self._unmarked = 0

    def restore(self, nothing: Any) -> Any:
        """After a failure, return to the last mark. Return its progress, or ``nothing`` if there is no mark.

        :raises OSError: there is no mark, and the file cannot be written.
        """
        writer, storage, mark = self.writer, self.writer.storage, self._mark
        if self._is_mcap:
            # Without a mark, the file begins with the header alone. The schemas are written again with the index.
            storage.bio.cut(mark.size if mark else self._header_size(storage))
            del storage.chunks[mark.chunks if mark else 0 :]
            storage.chunk = type(storage.chunk)(2**63 - 1, 0, io.BytesIO(), type(storage.chunk.msgs)(list))
            start = {
                "message_start_time": 2**63 - 1,
                "message_end_time": 0,
                "channel_stats": dict.fromkeys(storage.channel_stats, 0),
            }
            for name, value in (mark.storage if mark else start).items():
                setattr(storage, name, value)
        else:
            storage.conn.rollback()
        writer.counts = dict(mark.counts) if mark else dict.fromkeys(writer.counts, 0)
        writer.min_timestamp, writer.max_timestamp = (mark.begin, mark.end) if mark else (2**63 - 1, 0)
        return mark.progress if mark else nothing

    @staticmethod
    def _header_size(storage: Any) -> int:
        with storage.path.open("rb") as file:
            beginning = file.read(17)
        return 17 + int.from_bytes(beginning[9:17], "little")

    def close(self, suffix: str) -> dict[str, Any]:
        """Finish the file, move it to the parent of the folder, and return its metadata."""
        import yaml

        if self.writer.storage is not None:
            if not sum(self.writer.counts.values()):
                self.writer.min_timestamp = self.writer.max_timestamp = 0
            self.writer.close()
        metadata: dict[str, Any] = yaml.safe_load((self._folder / "metadata.yaml").read_text(encoding="utf-8"))
        name = f"{self._folder.name}{suffix}"
        (self._folder / name).replace(self._folder.parent / name)
        shutil.rmtree(self._folder)
        return metadata["rosbag2_bagfile_information"]
