"""A headless Chromium for tests, driven through its DevTools protocol. It renders 3D in software."""

import base64
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LIMIT = 120.0
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--hide-scrollbars", "--force-device-scale-factor=1", "--remote-debugging-port=0", "--mute-audio",
)  # fmt: skip


class Browser:
    """A page in Chromium."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._number = 0
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = ""
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def call(self, method: str, **parameters: Any) -> Any:
        """Send a command of the DevTools protocol, and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if getattr(self, "_session", ""):
            message["sessionId"] = self._session
        self._connection.send(json.dumps(message))
        while True:
            reply = json.loads(self._connection.recv(timeout=LIMIT))
            if reply.get("id") == self._number:
                assert "error" not in reply, reply
                return reply["result"]

    def resize(self, width: int, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def open(self, address: str) -> None:
        self.call("Page.enable")
        self.call("Page.navigate", url=address)

    def run(self, script: str) -> Any:
        """Evaluate JavaScript, and return its value."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    @property
    def text(self) -> str:
        """The visible text of the page."""
        return str(self.run("document.body ? document.body.innerText : ''"))

    def until(self, script: str, what: str) -> Any:
        """Evaluate JavaScript until its value is true."""
        end = time.monotonic() + LIMIT
        while True:
            value = self.run(script)
            if value:
                return value
            assert time.monotonic() < end, f"{what} did not happen. The page shows:\n{self.text}"
            time.sleep(0.1)

    def until_text(self, text: str) -> None:
        self.until(f"document.body && document.body.innerText.includes({json.dumps(text)})", f"the text {text!r}")

    def type(self, text: str) -> None:
        """Type into the focused input."""
        self.call("Input.insertText", text=text)

    def press_enter(self) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r", windowsVirtualKeyCode=13)

    def image(self) -> npt.NDArray[np.uint8]:
        """Return a screenshot as RGB, (height, width, 3)."""
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert bgr is not None
        return np.asarray(bgr[:, :, ::-1], np.uint8)


@contextmanager
def open_browser(folder: Path) -> Iterator[Browser]:
    """Start Chromium with an empty profile in a folder, and end it afterwards."""
    from websockets.sync.client import connect

    assert CHROMIUM
    command = [CHROMIUM, *_FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=os.environ | {"HOME": str(folder)}
    )
    try:
        assert process.stderr is not None
        address = next(found[0] for line in process.stderr if (found := re.findall(r"ws://\S+", line)))
        with connect(address, max_size=None) as connection:
            yield Browser(connection)
    finally:
        process.kill()
        process.wait(timeout=LIMIT)
