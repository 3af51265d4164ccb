"""Track the explicitly set engine parameters, so that a model's preset applies to the others."""

from collections.abc import Callable, Iterable
from typing import Any

from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

from robobrain_ros.engine.options import EngineOptions, option_fields, public_name
from robobrain_ros.engine.presets import is_explicit, resolve_options
from robobrain_ros.errors import EngineConfigError

_KEYWORDS = {public_name(keyword): keyword for keyword in option_fields()}
"""The keywords of the engine's options by parameter name."""


class ExplicitOptions:
    """Tracks the explicitly set engine parameters. The others have the values of the preset in ``engine.model``.

    Therefore, ``ros2 param get`` and ``ros2 param dump`` report the values with which the engine starts.

    :param node: has every engine parameter declared.
    :param overrides: names that the command line and parameter files set.
    :param read: returns the value of a parameter.
    :param prefix: prefix of the engine parameters; empty for those of the main model.
    """

    def __init__(self, node: Node, overrides: Iterable[str], read: Callable[[str], Any], prefix: str = "") -> None:
        self._node = node
        self._prefix = prefix
        self._read = lambda name: read(prefix + name)
        self._names: set[str] = set()
        self._showing = False
        given, defaults = set(overrides), EngineOptions()
        changed = (name for name in _KEYWORDS if _option_value(read(name)) != defaults.value(_KEYWORDS[name]))
        self.note([*(prefix + name for name in _KEYWORDS if prefix + name in given), *(prefix + name for name in changed)])

    def note(self, names: Iterable[str]) -> None:
        """Record which engine parameters were set, and set the others to the preset's values.

        :param names: names of any parameters. Only those of the engine are recorded.
        """
        own = [name.removeprefix(self._prefix) for name in names if name.startswith(self._prefix)]
        own = [name for name in own if name in _KEYWORDS]
        if self._showing or not own:
            return
        for name in own:
            if is_explicit(_KEYWORDS[name], self._read(name)):
                self._names.add(name)
            else:
                self._names.discard(name)
        self._show()

    def resolve(self) -> EngineOptions:
        """Return the engine's options.

        :raises EngineConfigError: ``engine.model`` is a misspelled preset.
        """
        return resolve_options(self._given)

    @property
    def _given(self) -> dict[str, Any]:
        """The values of the explicitly set options, by keyword."""
        return {_KEYWORDS[name]: _option_value(self._read(name)) for name in self._names}

    def _show(self) -> None:
        try:
            options = self.resolve()
        except EngineConfigError:
            options = EngineOptions.of(**self._given)  # Without a preset. Configuring the node reports this error.
        self._showing = True
        try:
            for name in _KEYWORDS.keys() - self._names:
                value = options.value(_KEYWORDS[name])
                if name != "engine.model" and value != _option_value(self._read(name)):
                    self._node.set_parameters([RosParameter(self._prefix + name, value=value)])
        finally:
            self._showing = False


def _option_value(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
