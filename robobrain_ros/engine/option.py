"""One option of an engine: a dataclass field with a description, bounds and choices, and the check of its value."""

import math
from collections.abc import Mapping
from dataclasses import Field, field, fields
from types import GenericAlias
from typing import Any

from robobrain_ros.errors import EngineConfigError

_ACCEPTED: dict[str, tuple[type, ...]] = {"str": (str,), "bool": (bool,), "int": (int,), "float": (int, float)}


def option(
    default: Any,
    description: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """Return a dataclass field with this metadata.

    :param minimum: smallest allowed value, or None for no limit. ``maximum``: largest allowed value.
    :param choices: allowed texts. Empty means any text.
    """
    metadata = {"description": description, "minimum": minimum, "maximum": maximum, "choices": choices}
    return field(default=default, metadata=metadata)


def check_values(options: Any, prefix: str) -> None:
    """Check the type, bounds and choices of every option of a dataclass.

    :param prefix: prefix of the options' parameter names.
    :raises EngineConfigError: a value is not allowed. The message has the parameter's name and what is allowed.
    """
    for item in fields(options):
        if item.metadata:
            _check_value(f"{prefix}{item.name}", getattr(options, item.name), item)


def _check_value(name: str, value: Any, item: "Field[Any]") -> None:
    if isinstance(item.type, GenericAlias):
        if not isinstance(value, tuple | list) or not all(isinstance(part, str) and part for part in value):
            raise EngineConfigError(f"{name} must be a list of non-empty texts, not {value!r}.")
        return
    kind = item.type if isinstance(item.type, str) else item.type.__name__
    if not isinstance(value, _ACCEPTED[kind]) or (isinstance(value, bool) and kind != "bool"):
        raise EngineConfigError(f"{name} must be of type {kind}, not {value!r}.")
    choices = item.metadata["choices"]
    if choices and value not in choices:
        raise EngineConfigError(f"{name} is {value!r}; it must be one of {', '.join(choices)}.")
    if not isinstance(value, bool) and isinstance(value, int | float):
        _check_bounds(name, value, item.metadata)


def _check_bounds(name: str, value: float, metadata: Mapping[str, Any]) -> None:
    minimum, maximum = metadata["minimum"], metadata["maximum"]
    if not math.isfinite(value) or (minimum is not None and value < minimum) or (maximum is not None and value > maximum):
        bounds = f"at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise EngineConfigError(f"{name} is {value}; it must be {bounds}.")
