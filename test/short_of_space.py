"""Run the program robobrain with full folders in a separate mount namespace, for test_engine_space.py.

python short_of_space.py JSON. The JSON object has the keys "full" (free bytes by folder), "read_only" (a list of folders),
"environment", "arguments" (of the node), and "limit" (seconds until the node must have settled). The program prints a JSON object
with the outcomes of requests, the last messages of /diagnostics by part, the log, and the exit code.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from ros_rig import image_message

from robobrain_ros.errors import OutcomeCode
from robobrain_ros.srv import Ask

PROGRAM = [sys.executable, "-c", "from robobrain_ros.cli.ros_programs import robobrain; robobrain()", "--ros-args"]
SETTLED = {"OK", "ENGINE_FAILED"}
PAUSE = 0.5
"""Seconds between two requests, because the engine needs the processor."""
END = 12.0
"""Time limit in seconds for the end of the program."""


def cover(folder: str, free: int | None) -> None:
    """Mount 1 MiB on a folder, only for this process and its children, and fill all but ``free`` bytes. None: read-only."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    options = "size=1m,ro" if free is None else "size=1m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    if free is not None:
        (Path(folder) / "filler").write_bytes(bytes((1 << 20) - free))


def watch(process: "subprocess.Popen[bytes]", limit: float) -> dict[str, Any]:
    """Send requests until the node answers or has failed to load."""
    rclpy.init()
    node = rclpy.create_node("asker", namespace="/space")
    diagnostics: dict[str, str] = {}

    def listen(message: DiagnosticArray) -> None:
        diagnostics.update((status.name.split(": ")[-1], status.message) for status in message.status)

    node.create_subscription(DiagnosticArray, "/diagnostics", listen, 10)
    client = node.create_client(Ask, "robobrain/ask")
    outcomes: dict[str, str] = {}
    asked: Any = None
    due = 0.0
    end = time.monotonic() + limit
    while time.monotonic() < end and process.poll() is None and not (SETTLED & set(outcomes) and diagnostics):
        if asked is None and time.monotonic() >= due and client.service_is_ready():
            due = time.monotonic() + PAUSE
            request = Ask.Request(question="What is on the table?")
            request.options.images = [image_message()]
            request.options.max_tokens = 4
            asked = client.call_async(request)
        if asked is not None and asked.done():
            outcome = asked.result().outcome
            outcomes[OutcomeCode(outcome.code).name] = outcome.message
            asked = None
        rclpy.spin_once(node, timeout_sec=0.2)
    diagnostics.clear()
    later = time.monotonic() + 10.0
    while process.poll() is None and "engine" not in diagnostics and time.monotonic() < later:
        rclpy.spin_once(node, timeout_sec=0.2)
    unanswered = asked is not None and not asked.done() and not SETTLED & set(outcomes)
    return {"outcomes": outcomes, "diagnostics": diagnostics, "unanswered": unanswered}


def main(arguments: Sequence[str]) -> None:
    wanted = json.loads(arguments[0])
    with tempfile.TemporaryFile() as log:  # The file is created before its folder is covered.
        for folder, free in wanted.get("full", {}).items():
            cover(folder, free)
        for folder in wanted.get("read_only", ()):
            cover(folder, None)
        environment = os.environ | wanted.get("environment", {})
        command = [*PROGRAM, "-r", "__ns:=/space", "-p", "warm_up:=false", "-p", "grid_check:=off", *wanted.get("arguments", ())]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=wanted.get("cwd", "/"))
        try:
            seen = watch(process, wanted["limit"])
            ended = process.poll()
            process.send_signal(signal.SIGTERM)
            seen |= {"ended": ended, "code": process.wait(END)}
        finally:
            process.kill()
        log.seek(0)
        seen["log"] = log.read().decode(errors="replace")
    sys.stdout.write(json.dumps(seen) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
