"""Messages of Nav2 and MoveIt that are not on PyPI: they are written as JSON into the goals of an action of this package."""

import json
from typing import Any

from robobrain_ros.action import RunTask


class Message:
    """A message with any fields."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


def plain(value: Any) -> Any:
    """Return a message or a stand-in for one as values of JSON."""
    if isinstance(value, Message):
        return {name: plain(field) for name, field in vars(value).items()}
    if hasattr(value, "get_fields_and_field_types"):
        return {name: plain(getattr(value, name)) for name in value.get_fields_and_field_types()}
    return [plain(each) for each in value] if isinstance(value, list) else value


class GoalType(type):
    """The type of a goal. Its instances are goals of RunTask, with the fields as JSON in the instruction."""

    def __call__(cls, **fields: Any) -> RunTask.Goal:
        return RunTask.Goal(task=cls.__name__, instruction=json.dumps(plain(Message(**fields))))

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, RunTask.Goal)
