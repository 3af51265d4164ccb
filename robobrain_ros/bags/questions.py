"""The questions about a bag, and the choice of the images for each."""

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from robobrain_ros.bags.errors import BagError
from robobrain_ros.core.plans.request import PlanRequest
from robobrain_ros.core.query import CAMERA_TASKS, TIMED_TASKS, Task
from robobrain_ros.core.query_checks import LONGEST_TEXT


@dataclass(frozen=True)
class Question:
    """A question that is repeated about the images of a bag.

    :param name: name of the standing query, or empty.
    :param cameras: names of the cameras, at least one. The images of the first one trigger the question.
    :param every: ask about each N-th image.
    :param rate: largest number of questions per second of the recording; 0: no limit.
    :param at: ask about the first image at or after each of these seconds since the start of the bag. Empty: ask all the time.
    :param history_seconds: for `TIMED_TASKS`, ask about the last seconds.
    :param history_frames: number of images of these seconds.
    """

    task: Task
    text: str
    name: str = ""
    cameras: tuple[str, ...] = ()
    every: int = 1
    rate: float = 0.0
    at: tuple[float, ...] = ()
    think: bool | None = None
    timeout: float | None = None
    max_tokens: int | None = None
    plan: PlanRequest | None = None
    history_seconds: float = 0.0
    history_frames: int = 4

    @property
    def title(self) -> str:
        """Name for the summary."""
        return self.name or self.task.value


class Schedule:
    """Decides which images a question is about. Call it with each image of the first camera in order.

    :param begin: time of the start of the bag in ns.
    """

    def __init__(self, question: Question, begin: int) -> None:
        self._every = question.every
        self._period = round(1e9 / question.rate) if question.rate else 0
        self._moments = sorted(begin + round(seconds * 1e9) for seconds in question.at)
        self._timed = bool(question.at)
        self._seen = 0
        self._due = begin

    def takes(self, time: int) -> bool:
        """Return whether to ask about the next image, which was recorded at ``time`` in ns."""
        self._seen += 1
        if self._timed:
            due = [moment for moment in self._moments if moment <= time]
            self._moments = self._moments[len(due) :]
            return bool(due)
        if (self._seen - 1) % self._every:
            return False
        if not self._period:
            return True
        if time < self._due:
            return False
        # The next image is due a period after this one was due, so that the mean rate does not depend on the camera's rate.
        self._due = self._due + self._period if time < self._due + self._period else time + self._period
        return True


_KEYS = {
    "name", "task", "instruction", "camera", "cameras", "rate", "every", "at",
    "think", "timeout", "max_tokens", "history_seconds", "history_frames",
}  # fmt: skip
_NODE_ONLY = {"condition", "stable_frames", "min_confidence"}
_MOST, _LOWEST_RATE = 1e9, 1e-9
"""Largest number of a question, and smallest rate except 0. In ns, their times fit into 64 bits."""
_NODE_RATE = 1.0
"""Default of ``standing_query.<name>.rate``, a parameter of the node."""


def read_questions(path: Path, common: Question) -> list[Question]:
    """Read a YAML list of standing queries, or a parameter file of the node with its standing queries.

    :param common: values for keys that an item does not set. Its task and text are not used.
    :raises BagError: the file cannot be read, or an item is wrong. The message states the place.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BagError(f"{path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BagError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    items = _of_parameters(content) if isinstance(content, Mapping) else content
    if not isinstance(items, Sequence) or isinstance(items, str) or not items:
        raise BagError(
            f"{path} has no standing queries. Write a list such as `- {{name: mug, task: point, instruction: the red mug}}`, or "
            "use a parameter file of the node."
        )
    questions = [_question(item, f"{path}, query {number}", common) for number, item in enumerate(items, 1)]
    names = [question.name for question in questions]
    for name in names:
        if names.count(name) > 1:
            raise BagError(f"{path} has several queries with the name {name!r}. Each needs its own name.")
    return questions


def _of_parameters(content: Mapping[Any, Any]) -> list[dict[str, Any]]:
    """Return the standing queries in a parameter file of the node."""
    items = []
    for section in content.values():
        parameters = section.get("ros__parameters") if isinstance(section, Mapping) else None
        if not isinstance(parameters, Mapping):
            continue
        names = parameters.get("standing_queries") or ()
        for name in names if isinstance(names, list) else [names]:
            prefix = f"standing_query.{name}."
            dotted = {key.removeprefix(prefix): value for key, value in parameters.items() if str(key).startswith(prefix)}
            found = parameters.get(f"standing_query.{name}", dotted)
            if isinstance(found, Mapping):
                items.append({"rate": _NODE_RATE, **found, "name": name})
    return items


def _question(item: Any, where: str, common: Question) -> Question:
    if not isinstance(item, Mapping):
        raise BagError(f"{where} is not a mapping with the keys name, task and instruction.")
    unknown = sorted(str(key) for key in item if key not in _KEYS)
    if _NODE_ONLY & set(unknown):
        raise BagError(f"{where}: conditions ({', '.join(sorted(_NODE_ONLY))}) work only in a node. Remove {', '.join(unknown)}.")
    if unknown:
        raise BagError(f"{where}: unknown key {unknown[0]!r}. Known keys are {', '.join(sorted(_KEYS))}.")
    names = [task.value for task in CAMERA_TASKS]
    if item.get("task") not in names:
        raise BagError(f"{where}: the task is {_shown(item.get('task'))}. It must be one of {', '.join(names)}.")
    values: dict[str, Any] = {"task": Task(item["task"]), "text": item.get("instruction"), "name": item.get("name", "")}
    cameras = item.get("cameras") or item.get("camera") or []
    cameras = cameras if isinstance(cameras, list) else [cameras]
    chooses = any(item.get(key) for key in ("rate", "every", "at"))
    kept = {} if not chooses else {"every": 1, "rate": 0.0, "at": ()}
    values |= kept | {"cameras": tuple(cameras) if cameras else common.cameras}
    for key in ("rate", "every", "think", "timeout", "max_tokens", "history_seconds", "history_frames"):
        if item.get(key) is not None:
            values[key] = item[key]
    if item.get("at") is not None:
        at = item["at"]
        values["at"] = tuple(at) if isinstance(at, list) else (at,)
    question = replace(common, **values)
    check_question(question, where)
    return question


def check_question(question: Question, where: str) -> None:
    """Check the values of a question.

    :raises BagError: a value is wrong. The message begins with ``where``.
    """
    if not isinstance(question.text, str) or not question.text.strip():
        raise BagError(f"{where}: the instruction is empty.")
    if len(question.text) > LONGEST_TEXT:
        raise BagError(f"{where}: the instruction has {len(question.text)} characters; at most {LONGEST_TEXT} are allowed.")
    if not isinstance(question.name, str) or not _is_text(question.name):
        raise BagError(f"{where}: the name {_shown(question.name)} is not text.")
    checks: list[tuple[str, Any, bool]] = [
        ("every", question.every, _is_count(question.every)),
        ("rate", question.rate, question.rate == 0 or _is_number(question.rate, _LOWEST_RATE)),
        ("at", question.at, all(_is_number(value, 0.0) for value in question.at)),
        ("timeout", question.timeout, question.timeout is None or (_is_number(question.timeout, 0.0) and question.timeout > 0)),
        ("max_tokens", question.max_tokens, question.max_tokens is None or _is_count(question.max_tokens)),
        ("think", question.think, question.think is None or isinstance(question.think, bool)),
        ("history_seconds", question.history_seconds, _is_number(question.history_seconds, 0.0)),
        ("history_frames", question.history_frames, _is_count(question.history_frames)),
        ("cameras", question.cameras, all(isinstance(name, str) for name in question.cameras)),
    ]
    assert {name for name, _, _ in checks} <= {field.name for field in fields(Question)}
    for name, value, is_right in checks:
        if not is_right:
            raise BagError(f"{where}: the value {_shown(value)} of {name} is wrong.")
    if question.history_seconds and question.task not in TIMED_TASKS:
        raise BagError(f"{where}: history is for the tasks {' and '.join(task.value for task in TIMED_TASKS)}.")
    if question.history_seconds and len(question.cameras) > 1:
        raise BagError(f"{where}: history is for one camera.")
    if len(question.cameras) > 1 and question.task.spatial:
        raise BagError(f"{where}: the task {question.task.value} takes one camera, not {len(question.cameras)}.")


def _shown(value: Any) -> str:
    """Return a value for a sentence. A value can be endless, because YAML can refer to itself."""
    return reprlib.repr(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31


def _is_number(value: Any, least: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= _MOST


def _is_text(value: str) -> bool:
    """Return whether a text can be written as UTF-8: YAML can also state half of a character."""
    return not any(0xD800 <= ord(character) < 0xE000 for character in value)
