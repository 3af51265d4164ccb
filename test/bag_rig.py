"""Bags of the demo's table, and the bag program with a scripted engine in the process of the test."""

import json
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from fakes import Script, ScriptedEngine

from robobrain_ros.bags.messages import CAMERA_INFO, COMPRESSED, IMAGE, TRANSFORMS, ros2_types
from robobrain_ros.bags.summary import Pace
from robobrain_ros.cli import bag
from robobrain_ros.core import Brain, profile_for
from robobrain_ros.demo import recording
from robobrain_ros.demo.world import Scene, make_scene
from robobrain_ros.engine.base import EngineInfo, Generation

SECOND = 10**9
BEGIN = recording.BEGIN
MODEL_SIZE = (644, 476)
"""Width and height of a 640x480 image after resizing for RoboBrain 2.0."""
_MARK, _MARK_STEP = 40, 40
"""Size in pixels of the mark of an image, and the difference of brightness of two marks."""

Item = tuple[str, str, int, Any]
"""A message: topic, type, time of the recording in ns, and the message itself or its bytes."""


def in_model(u: float, v: float) -> tuple[int, int]:
    """Return a pixel of the image in the coordinates of RoboBrain 2.0."""
    return round((u + 0.5) * MODEL_SIZE[0] / 640 - 0.5), round((v + 0.5) * MODEL_SIZE[1] / 480 - 0.5)


def point_text(scene: Scene, name: str) -> str:
    thing = scene.find(name)
    assert thing is not None
    return str([in_model(*thing.centre)])


@cache
def table() -> Scene:
    return make_scene(12)


@dataclass
class Table:
    """The messages of a camera above the table, to write or to change."""

    scene: Scene = field(default_factory=table)
    frame: str = recording.CAMERA_FRAME

    def header(self, seconds: float, frame: str = "") -> Any:
        return recording.stamped(BEGIN + round(seconds * SECOND), frame or self.frame)

    def image(self, seconds: float, *, topic: str = "/camera/image", stamp: float | None = None, script: int = 0) -> Item:
        """An image. ``script`` marks it for an `EngineByImage`."""
        marked = replace(self.scene, image=self.scene.image.copy())
        marked.image[:_MARK, :_MARK] = script * _MARK_STEP
        message = recording.image_message(marked if script else self.scene, self.header(seconds if stamp is None else stamp))
        return topic, IMAGE, BEGIN + round(seconds * SECOND), message

    def compressed(self, seconds: float, *, topic: str = "/camera/image/compressed") -> Item:
        return topic, COMPRESSED, BEGIN + round(seconds * SECOND), recording.compressed_message(self.scene, self.header(seconds))

    def depth(self, seconds: float, *, stamp: float | None = None, topic: str = "/camera/depth") -> Item:
        message = recording.depth_message(self.scene, self.header(seconds if stamp is None else stamp))
        return topic, IMAGE, BEGIN + round(seconds * SECOND), message

    def info(self, seconds: float, *, topic: str = "/camera/camera_info") -> Item:
        return topic, CAMERA_INFO, BEGIN + round(seconds * SECOND), recording.info_message(self.scene, self.header(seconds))

    def transform(self, seconds: float, *, topic: str = "/tf", stamp: float | None = None) -> Item:
        header = self.header(seconds if stamp is None else stamp, recording.TABLE_FRAME)
        message = recording.transform_message(self.scene, header, self.frame)
        return topic, TRANSFORMS[0], BEGIN + round(seconds * SECOND), message

    def moment(self, seconds: float, script: int = 0) -> list[Item]:
        """An image with camera_info and depth."""
        return [self.image(seconds, script=script), self.info(seconds), self.depth(seconds)]


class EngineByImage(ScriptedEngine):
    """Chooses the script by the mark of the image (`Table.image`), because requests of several images have no fixed order."""

    def script(self, generation: Generation) -> Script | str:
        return self.scripts[round(float(generation.images[-1][: _MARK // 2, : _MARK // 2].mean()) / _MARK_STEP) - 1]


def write_bag(path: Path, items: Sequence[Item], *, storage: str = "mcap", compression: str = "") -> Path:
    """Write a rosbag2. ``compression``: "file", "message" or "storage"."""
    from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

    store = ros2_types()
    writer = Writer(path, version=8, storage_plugin=StoragePlugin[storage.upper()])
    if compression:
        writer.set_compression(CompressionMode[compression.upper()], CompressionFormat.ZSTD)
    with writer:
        connections: dict[tuple[str, str], Any] = {}
        for topic, kind, time, message in items:
            if (topic, kind) not in connections:
                connections[topic, kind] = writer.add_connection(topic, kind, typestore=store)
            raw = message if isinstance(message, bytes) else store.serialize_cdr(message, kind)
            writer.write(connections[topic, kind], time, raw)
    return path


def read_bag(path: Path) -> dict[str, list[tuple[int, Any]]]:
    """Return the messages of a bag by topic, each with its time, decoded with the definitions in the bag."""
    from rosbags.highlevel import AnyReader

    found: dict[str, list[tuple[int, Any]]] = {}
    with AnyReader([path]) as reader:
        for connection, time, raw in reader.messages():
            found.setdefault(connection.topic, []).append((time, reader.deserialize(raw, connection.msgtype)))
    return found


def counts(path: Path) -> dict[str, int]:
    from rosbags.rosbag2 import Reader

    with Reader(path) as reader:
        return {name: topic.msgcount for name, topic in reader.topics.items()}


@dataclass
class Result:
    code: int
    out: str
    err: str
    engine: ScriptedEngine

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads(self.out)


class Program:
    """Runs the bag program with a scripted engine."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capfd = capfd

    def __call__(self, engine: ScriptedEngine | str | Sequence[str], *arguments: object) -> Result:
        scripts = [engine] if isinstance(engine, str) else engine
        used = scripts if isinstance(scripts, ScriptedEngine) else ScriptedEngine(list(scripts))
        info = EngineInfo(model="scripted", model_type="qwen2_5_vl", engine="scripted", cell=28)

        async def opened(options: Any, messages: Any) -> Brain:
            await used.start(lambda progress: None)
            return Brain(used, profile_for("qwen2_5_vl"), info=info)

        self._monkeypatch.setattr(bag, "open_own_brain", opened)
        self._capfd.readouterr()
        code = bag.main([str(argument) for argument in arguments])
        out, err = self._capfd.readouterr()
        assert "Traceback" not in err, err
        return Result(code, out, err, used)


def interrupt_after(monkeypatch: pytest.MonkeyPatch, images: int) -> None:
    """Interrupt the program, as Ctrl-C does, when this number of images is written."""
    line = Pace.line

    def interrupting(self: Pace, at: int) -> str:
        text = line(self, at)
        if text.split(", ")[1] == f"{images} images":
            os.kill(os.getpid(), signal.SIGINT)
        return text

    monkeypatch.setattr(Pace, "line", interrupting)
