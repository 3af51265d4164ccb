"""A viewer of the live view without a browser: it speaks the protocol of viser's page."""

import struct
import time
from collections.abc import Callable
from typing import Any

import msgspec
import viser
import zstandard
from websockets.sync.client import connect

LIMIT = 30.0
SUBPROTOCOL = f"viser-v{viser.__version__}"


class Viewer:
    """One connection, and the page as it is now.

    ``elements`` are the elements of the panels, and ``nodes`` those of the 3D scene, with their properties.
    """

    def __init__(self, address: str, **headers: str) -> None:
        url = address.replace("http://", "ws://").partition("?")[0]
        # A browser needs no ping for a connection to a page.
        self.connection = connect(
            url, subprotocols=[SUBPROTOCOL], additional_headers=headers, max_size=None, open_timeout=LIMIT, compression=None
        )  # type: ignore[arg-type]
        self.elements: dict[str, dict[str, Any]] = {}
        self.nodes: dict[str, dict[str, Any]] = {}
        self.notifications: list[str] = []
        self.bytes = 0
        pose = {"wxyz": [1, 0, 0, 0], "position": [0, 0, 0], "look_at": [0, 0, 1], "up_direction": [0, -1, 0]}
        self.send("ViewerCameraMessage", **pose, fov=1.0, near=0.01, far=100.0, image_height=600, image_width=800)

    def send(self, kind: str, **fields: Any) -> None:
        self.connection.send(msgspec.msgpack.encode({"type": kind, **fields}))

    def close(self) -> None:
        self.connection.close()

    def receive(self, timeout: float) -> bool:
        """Handle the next message of the server. Return False if none arrives in time."""
        try:
            data = self.connection.recv(timeout=timeout)
        except TimeoutError:
            return False
        assert isinstance(data, bytes)
        self.bytes += len(data)
        _, size = struct.unpack("<QQ", data[:16])
        for message in msgspec.msgpack.decode(zstandard.decompress(data[16 : 16 + size]))["messages"]:
            self._apply(message)
        return True

    def _apply(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "NotificationShowMessage":
            self.notifications.append(str(message))
        elif kind == "RemoveSceneNodeMessage":
            for name in [name for name in self.nodes if name == message["name"] or name.startswith(message["name"] + "/")]:
                del self.nodes[name]
        elif kind == "SceneNodeUpdateMessage":
            if message["name"] in self.nodes:
                self.nodes[message["name"]].update(message["updates"])
        elif kind == "GuiUpdateMessage":
            if message["uuid"] in self.elements:
                self.elements[message["uuid"]].update(message["updates"])
        elif "uuid" in message and kind.startswith("Gui") and "props" in message:
            self.elements[message["uuid"]] = {"kind": kind, "value": message.get("value"), **message["props"]}
        elif "name" in message and "props" in message:
            self.nodes[message["name"]] = {"kind": kind, **message["props"]}

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Receive messages until the condition is true, and return its value."""
        end = time.monotonic() + LIMIT
        while not (value := condition()):
            assert time.monotonic() < end, f"{what} has not come. The page shows: {self.text}"
            self.receive(timeout=0.2)
        return value

    @property
    def text(self) -> str:
        """The HTML of all panels."""
        return "\n".join(element["content"] for element in self.elements.values() if "content" in element)

    def until_text(self, text: str) -> None:
        self.until(lambda: text in self.text, f"the text {text!r}")

    def find(self, kind: str, label: str | None = None) -> str:
        """Return the uuid of an element, when it has arrived."""

        def found() -> list[str]:
            return [uuid for uuid, it in self.elements.items() if it["kind"] == kind and (label is None or it["label"] == label)]

        return str(self.until(found, f"{kind} {label}")[0])

    def set(self, kind: str, label: str, value: Any) -> None:
        """Set the value of an input."""
        self.send("GuiUpdateMessage", uuid=self.find(kind, label), updates={"value": value})

    def ask(self, task: str, text: str) -> None:
        """Fill in the form, and submit it."""
        self.set("GuiDropdownMessage", "Task", task)
        self.set("GuiTextMessage", "Instruction", text)
        self.set("GuiButtonMessage", "Ask", True)
