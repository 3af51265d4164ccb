"""Read messages of the node for the page: answers and /diagnostics."""

from collections.abc import Iterable, Mapping
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus

from robobrain_ros.core.messages.stamps import nanoseconds
from robobrain_ros.core.query import CAMERA_TASKS, Answer, Task
from robobrain_ros.live.feed import THIS_PAGE, Entry, Question, Status
from robobrain_ros.ros.messages.reading import read_report
from robobrain_ros.ros.tasks import TASKS

_ENGINE_KEYS = ("model", "engine", "profile", "running", "waiting", "restarts")
"""Keys of the engine that the page shows. The page shows no other values, because a value could be secret."""
_REQUEST_KEYS = ("served", "failed", "latency_p50", "last_error")
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
    rows = list(_rows(values, _ENGINE_KEYS))
    rows += [(name, status.message) for name, status in sorted(parts.items()) if name.startswith("camera ")]
    if "requests" in parts:
        rows += _rows(values_of(parts["requests"]), _REQUEST_KEYS)
    state = values.get("state", "")
    message = engine.message if engine.message.startswith(state) else f"{state}: {engine.message}"
    return Status(_LEVELS.get(engine.level, "error"), message, state == "ready", tuple(rows))


def _rows(values: Mapping[str, str], keys: Iterable[str]) -> Iterable[tuple[str, str]]:
    return [(key, values[key]) for key in keys if values.get(key)]
