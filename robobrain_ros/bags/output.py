"""Write the output bag so that it is readable after an interruption or on a full disk, and so that the next run can resume it.

The bag is a folder of rosbag2. Each run adds one file, ``OUTPUT/OUTPUT_<run>.mcap`` or ``.db3``, and writes metadata.yaml again,
as a recorder does that splits its bag. The entry ``custom_data`` of metadata.yaml has what the next run needs.
"""

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from robobrain_ros.bags.errors import BagError
from robobrain_ros.bags.messages import definition, ros2_types
from robobrain_ros.bags.segment import Segment

STORAGES = {"mcap": ".mcap", "sqlite3": ".db3"}
"""The storage plugins, and the suffixes of their files."""
_KEY = "robobrain_bag"
_METADATA = "metadata.yaml"
_STORED = re.compile(r".*\.(mcap|db3)(\.zstd|-wal|-shm|-journal)?")
"""Names of storage files, also compressed ones, and of the files beside an open database of SQLite."""
_RESERVE = ".reserve"
_RESERVED = 4 * 2**20
"""Bytes of a file that is deleted when the disk is full, so that there is space for the index and the metadata."""


@dataclass
class Progress:
    """What an output bag contains.

    :param settings: the input and the questions. Only a run with the same settings can resume.
    :param moments: number of finished images.
    :param copied: number of copied messages.
    :param complete: whether all images are finished.
    :param counts: counts of the summary.
    """

    settings: dict[str, Any]
    moments: int = 0
    copied: int = 0
    complete: bool = False
    counts: dict[str, Any] = field(default_factory=dict)


class Output:
    """The output bag of one run. Use it in one thread, except `open`.

    :param storage: a key of `STORAGES`.
    """

    def __init__(self, path: Path, storage: str, progress: Progress, earlier: dict[str, Any] | None) -> None:
        self.path = path
        self.progress = progress
        self._storage = storage
        self._earlier = earlier
        self._closed = False
        self._fault: BagError | None = None
        files = [] if earlier is None else earlier["relative_file_paths"]
        name = f"{path.name}_{len(files)}"
        self._reserve = path / _RESERVE
        self._lock = ExitStack()
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock.enter_context(_locked(path))
            if earlier is None:
                _clear(path)
            shutil.rmtree(path / name, ignore_errors=True)
            with self._reserve.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, _RESERVED)
            self._segment = Segment(path / name, storage)
        except OSError as error:
            with suppress(OSError):
                self._reserve.unlink()
            self._lock.close()
            raise BagError(f"{path} cannot be written: {error.strerror}.") from error

    @classmethod
    def open(cls, path: Path, storage: str, settings: dict[str, Any], *, overwrite: bool) -> "Output":
        """Create an output bag, or resume an unfinished one with the same settings.

        :raises BagError: the path exists and cannot be resumed, or cannot be written.
        """
        progress, earlier = check_output(path, settings, overwrite=overwrite)
        return cls(path, storage, progress, earlier)

    @property
    def is_resumed(self) -> bool:
        """Whether the bag has files of earlier runs."""
        return self._earlier is not None

    def add_topic(self, topic: str, message_type: str, profiles: Sequence[Any]) -> Any:
        """Add a topic with messages of this package or of ROS, and return its connection.

        :param profiles: QoS profiles with which `ros2 bag play` publishes the topic. The profiles of an earlier run take
            precedence, because all files of a bag must have the same ones: readers omit the messages of other files.
        """
        from rosbags.rosbag2.metadata import parse_qos

        for found in [] if self._earlier is None else self._earlier["topics_with_message_count"]:
            known = found["topic_metadata"]
            if (known["name"], known["type"]) == (topic, message_type):
                profiles = parse_qos(known["offered_qos_profiles"])
        return self._segment.writer.add_connection(
            topic, message_type, msgdef=definition(message_type), rihs01=ros2_types().hash_rihs01(message_type),
            offered_qos_profiles=profiles,
        )  # fmt: skip

    def copy_topic(self, connection: Any) -> Any:
        """Add a topic of the input, and return its connection, or None if the input has no definition of its type."""
        try:
            return self._segment.copy_connection(connection)
        except Exception:  # rosbags cannot read the definition of the type.
            return None

    def write(self, messages: Sequence[tuple[Any, int, bytes]], *, moments: int = 0, copied: int = 0) -> None:
        """Write messages (connection, time in ns, bytes) all together, and count finished images and copied messages.

        :raises BagError: the disk is full. The bag has been closed, and is readable.
        """
        if self._fault is not None:
            raise self._fault
        try:
            for connection, time, raw in messages:
                self._segment.write(connection, time, raw)
            self.progress.moments += moments
            self.progress.copied += copied
            self._segment.mark(self.progress)
        except Exception as error:  # OSError for MCAP, sqlite3.Error for SQLite
            self._fault = self._failed(error)
            raise self._fault from error

    def close(self, *, complete: bool) -> None:
        """Write the index and the metadata. After a failed write, the bag is closed already, and this does nothing.

        :raises BagError: the disk is full. The bag is readable.
        """
        if self._closed:
            return
        self._closed = True
        self.progress.complete = complete
        try:
            self._segment.mark(self.progress, at_once=True)
            self._reserve.unlink(missing_ok=True)
            self._finish()
        except Exception as error:
            raise self._failed(error) from error
        self._lock.close()

    def _failed(self, error: Exception) -> BagError:
        self._closed = True
        self._reserve.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or str(error)
        try:
            self.progress = self._segment.restore(Progress(self.progress.settings))
            self._finish()
        except Exception as second:
            return BagError(f"{self.path} could not be written ({reason}), and its index could not be written either ({second}).")
        finally:
            self._lock.close()
        return BagError(
            f"{self.path} could not be written: {reason}. It contains the answers about {self.progress.moments} images. Free "
            "some space, and run the same command again to continue."
        )

    def _finish(self) -> None:
        import yaml

        added = self._segment.close(STORAGES[self._storage])
        merged = added if self._earlier is None else _merged(self._earlier, added)
        merged["custom_data"] = {_KEY: json.dumps(asdict(self.progress))}
        text = yaml.safe_dump({"rosbag2_bagfile_information": merged}, sort_keys=False)
        temporary = self.path / f"{_METADATA}.tmp"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self.path / _METADATA)


def check_output(path: Path, settings: dict[str, Any], *, overwrite: bool) -> tuple[Progress, dict[str, Any] | None]:
    """Return the progress of an unfinished bag and its metadata, or the progress of a new bag and None.

    :raises BagError: the path exists, and is not an unfinished bag with the same settings; or another process writes it.
    """
    if path.is_dir():
        with _locked(path):
            pass
    if not path.exists():
        nearest = next(parent for parent in path.absolute().parents if parent.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise BagError(f"{path} cannot be written: {nearest} is no folder that this user can write to.")
        return Progress(settings), None
    if overwrite:
        others = [] if path.is_dir() else [path]
        others += [item for item in path.glob("*") if not _is_of_bag(item, path)]
        if others:
            raise BagError(f"{path} is not only a bag: it has {others[0].name}. --overwrite deletes only bags.")
        return Progress(settings), None
    if path.is_dir() and (not any(path.iterdir()) or _is_of_killed_run(path)):
        return Progress(settings), None
    metadata = _read_metadata(path)
    progress = None if metadata is None else _saved_progress(metadata)
    if progress is None:
        raise BagError(f"{path} exists already. Choose another name, or pass --overwrite to delete it.")
    if progress.complete:
        raise BagError(f"{path} exists already, and is complete. Choose another name, or pass --overwrite to delete it.")
    asked = json.loads(json.dumps(settings))
    different = [key for key in progress.settings | asked if progress.settings.get(key) != asked.get(key)]
    if different:
        raise BagError(
            f"{path} is the unfinished output of another command: {', '.join(different)} differ. Run that command again to "
            "continue it, or pass --overwrite to delete it."
        )
    return progress, metadata


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lock a folder. The system releases the lock when the process ends. Some network file systems have no locks.

    :raises BagError: another process has the lock, or the folder cannot be read.
    """
    try:
        folder = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise BagError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        with suppress(OSError):
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BagError(f"Another process writes {path}. Wait until it ends, or choose another name.") from error
        yield
    finally:
        os.close(folder)


def _clear(path: Path) -> None:
    """Delete what a folder contains. The folder itself can be a symbolic link."""
    for item in path.iterdir():
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item)
        else:
            item.unlink()


def _is_of_bag(item: Path, path: Path) -> bool:
    """Return whether a file or folder in an output bag was written by this program or a recorder.

    Storage files are of a bag only beside a metadata.yaml. Otherwise, the folder can be a collection of recordings. A folder is a
    file in progress only if it has no metadata.yaml. Otherwise, it is a recording.
    """
    if item.is_dir() and not item.is_symlink():
        is_segment = re.fullmatch(rf"{re.escape(path.name)}_\d+", item.name) is not None
        return is_segment and all(_STORED.fullmatch(each.name) and each.stem == item.name for each in item.iterdir())
    return item.name in (_RESERVE, f"{_METADATA}.tmp") or (_is_own_file(item) and (path / _METADATA).is_file())


def _is_of_killed_run(path: Path) -> bool:
    """Return whether a folder has only what the first run leaves behind if its process is killed. Its answers are incomplete."""
    return (path / _RESERVE).is_file() and not (path / _METADATA).exists() and all(_is_of_bag(it, path) for it in path.iterdir())


def _is_own_file(item: Path) -> bool:
    return item.is_file() and (item.name == _METADATA or _STORED.fullmatch(item.name) is not None)


def _read_metadata(path: Path) -> dict[str, Any] | None:
    import yaml

    try:
        content = yaml.safe_load((path / _METADATA).read_text(encoding="utf-8"))["rosbag2_bagfile_information"]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        return None
    return content if isinstance(content, dict) else None


def _saved_progress(metadata: dict[str, Any]) -> Progress | None:
    """Return the progress in the metadata of an output bag, or None if this program did not write it."""
    try:
        saved = json.loads(metadata["custom_data"][_KEY])
        progress = Progress(**saved)
        numbers = (progress.moments, progress.copied)
    except (KeyError, TypeError, ValueError):
        return None
    is_own = all(isinstance(part, dict) for part in (progress.settings, progress.counts))
    return progress if is_own and all(type(number) is int for number in numbers) else None


def _merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata of a bag with the files of two."""
    parts = [part for part in (first, second) if part["message_count"]] or [first]
    begin = min(part["starting_time"]["nanoseconds_since_epoch"] for part in parts)
    end = max(part["starting_time"]["nanoseconds_since_epoch"] + part["duration"]["nanoseconds"] for part in parts)
    topics: dict[tuple[str, str], dict[str, Any]] = {}
    for part in (first, second):
        for topic in part["topics_with_message_count"]:
            key = topic["topic_metadata"]["name"], topic["topic_metadata"]["type"]
            known = topics.setdefault(key, topic | {"message_count": 0})
            known["message_count"] += topic["message_count"]
    return second | {
        "relative_file_paths": first["relative_file_paths"] + second["relative_file_paths"],
        "files": first["files"] + second["files"],
        "starting_time": {"nanoseconds_since_epoch": begin},
        "duration": {"nanoseconds": end - begin},
        "message_count": first["message_count"] + second["message_count"],
        "topics_with_message_count": list(topics.values()),
    }
