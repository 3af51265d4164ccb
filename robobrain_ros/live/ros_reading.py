"""Read messages of the node for the page: answers and /diagnostics."""

from collections.abc import Mapping
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus

from robobrain_ros.bounds.texts import shortened
from robobrain_ros.core.messages.stamps import nanoseconds
from robobrain_ros.core.query import CAMERA_TASKS, Answer, Task
from robobrain_ros.live.feed import THIS_PAGE, Entry, Question, Status
from robobrain_ros.ros.messages.reading import read_report
from robobrain_ros.ros.tasks import TASKS

_ENGINE_KEYS = ("model", "engine", "profile")
"""Keys of the engine that the page shows. The page shows no other values, because a value could be secret."""
_COUNTS = ("running", "waiting", "served", "failed", "restarts")
_REQUEST_KEYS = {"latency_p50": "median latency", "last_error": "last error"}
_LONGEST_ROW = 120
_LEVELS = {DiagnosticStatus.OK: "ok", DiagnosticStatus.WARN: "warn"}


def read_entry(message: Any, asked: Question | None) -> Entry:
    """Return the answer in a message of a result topic.

    :param asked: the newest question of this page. An answer to the same text counts as its answer.
    """
    task = _task_of(message)
    interface = TASKS[task]
    report = read_report(message.report)
    answer = interface.read_message(Answer(task, report.raw_text, thinking=message.report.thinking, report=report), message)
    text: str = next(getattr(message, name) for name in ("instruction", "question", "task") if hasattr(message, name))
    source = f"standing query {message.query}" if message.query else "another client"
    if not message.query and asked is not None and (asked.task, asked.text) == (task, text):
        source = THIS_PAGE
    return Entry((task, nanoseconds(message.header.stamp), text, message.query, report.total_time), text, answer, source)


def _task_of(message: Any) -> Task:
    tasks = [task for task in CAMERA_TASKS if isinstance(message, TASKS[task].message_type)]
    return tasks[0] if len(tasks) == 1 else Task(message.task)


def values_of(status: DiagnosticStatus) -> dict[str, str]:
    """Return the keys and values of a part of /diagnostics."""
    return {value.key: value.value for value in status.values}


def read_status(parts: Mapping[str, DiagnosticStatus]) -> Status:
    """Return the state of the page.

    :param parts: the parts of the node by their name, among them "engine".
    """
    engine = parts["engine"]
    values = values_of(engine)
    state = values.get("state", "")
    rows = [(key, _short(values[key])) for key in _ENGINE_KEYS if values.get(key)]
    cameras = [(name, status.message) for name, status in sorted(parts.items()) if name.startswith("camera ")]
    rows += [(name, shortened(message.partition(": ")[0], _LONGEST_ROW)) for name, message in cameras]
    requests = values | (values_of(parts["requests"]) if "requests" in parts else {})
    counts = ", ".join(f"{requests[key]} {key}" for key in _COUNTS if requests.get(key, "0") != "0")
    rows += [("requests", counts)] if counts else []
    rows += [(name, shortened(requests[key], _LONGEST_ROW)) for key, name in _REQUEST_KEYS.items() if requests.get(key)]
    message = state if state == "ready" and engine.level == DiagnosticStatus.OK else f"{state}: {engine.message}"
    return Status(_LEVELS.get(engine.level, "error"), message, state == "ready", tuple(rows))


def _short(name: str) -> str:
    """Return the last two parts of a path. A name on a hub has two parts."""
    return "/".join(name.rstrip("/").split("/")[-2:]) if name.startswith("/") else name
