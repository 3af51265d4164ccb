"""Read YAML files as trees of nodes with line numbers. Sizes are checked before objects are created. Nothing is evaluated.

YAML often surprises people who write data by hand. Without quotes, ``on`` is a boolean, ``12:30`` is the number 750, and ``010``
is the number 8. `meaning` describes the value that YAML reads.
"""

import re
from dataclasses import dataclass
from typing import Any

import yaml

MOST_NODES = 50_000
"""Most values of a file. The values of an alias count each time."""
DEEPEST = 64
"""Most levels of nested mappings and lists."""

TEXT, BOOLEAN, NUMBER, FRACTION, NULL, MERGE = (
    f"tag:yaml.org,2002:{kind}" for kind in ("str", "bool", "int", "float", "null", "merge")
)
_MAPPING, _SEQUENCE = "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"
SCALARS = frozenset({TEXT, BOOLEAN, NUMBER, FRACTION, NULL})
"""Tags of the scalars that JSON supports."""

_KINDS = {
    BOOLEAN: "a boolean",
    NUMBER: "a number",
    FRACTION: "a number",
    NULL: "null, no value",
    MERGE: "the merge key",
    "tag:yaml.org,2002:timestamp": "a date",
    "tag:yaml.org,2002:binary": "binary data",
}
_TRUE = frozenset({"yes", "true", "on"})
_SURPRISES = re.compile(r"[-+]?0[0-9_]+|[-+]?[0-9_.]*(?::[0-9_.]+)+")
"""Numbers in base 8 and base 60."""


class YamlFault(Exception):
    """A fault in a file: a sentence that describes it, and its line, from 1."""

    def __init__(self, line: int, sentence: str) -> None:
        super().__init__(sentence)
        self.line = line
        self.sentence = sentence


def compose(text: str) -> yaml.Node | None:
    """Parse the single document of a file to nodes, or None if the file is empty.

    :raises YamlFault: the text is not valid YAML, or exceeds `MOST_NODES` or `DEEPEST`.
    """
    loader: Any = None
    try:
        loader = _BoundedLoader(text)
        return loader.get_single_node()  # type: ignore[no-any-return]
    except YamlFault:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlFault(mark.line + 1 if mark else 1, f"it is not valid YAML: {error.problem or error.context}.") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else 1
        raise YamlFault(line, f"it is not valid YAML: the character {chr(error.character)!r} is not allowed.") from error
    except Exception as error:  # PyYAML's scanner raises ValueError, OverflowError and others for some escapes and directives.
        line = loader.line + 1 if loader is not None else 1
        raise YamlFault(line, f"it is not valid YAML: {' '.join(str(error).split())[:200]}.") from error


def line_of(node: yaml.Node) -> int:
    """Return the line in which a node begins, from 1."""
    return int(node.start_mark.line) + 1


def scalar(node: yaml.Node) -> Any:
    """Return the value of a scalar node: text, a boolean, a number or None.

    :raises YamlFault: the text does not fit the tag, as in ``!!int ''``.
    """
    try:
        return yaml.SafeLoader("").construct_object(node)
    except Exception as error:  # PyYAML raises KeyError, IndexError and others for a text that does not fit its tag.
        kind = _KINDS.get(node.tag, "a value")
        raise YamlFault(line_of(node), f"{node.value[:40]!r} cannot be read as {kind}; put it in quotes for text.") from error


def meaning(node: yaml.Node) -> str:
    """Return a description of the value that YAML reads, for a message: "a boolean (true)"."""
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    kind = _KINDS.get(node.tag, f"a value of the type {node.tag.rpartition(':')[2]}")
    if node.tag == BOOLEAN:
        return f"{kind} ({'true' if str(node.value).lower() in _TRUE else 'false'})"
    if str(node.value).lower().lstrip("+-") in (".inf", ".nan"):
        return "an infinite or undefined number"
    if surprising(node):
        return f"{kind} of base {60 if ':' in node.value else 8}"
    return kind


def surprising(node: yaml.Node) -> bool:
    """Return whether YAML's reading of a scalar is rarely intended: ``on`` for true, ``12:30`` for 750, ``010`` for 8."""
    value = str(node.value)
    if node.tag == BOOLEAN:
        return value.lower() not in ("true", "false")
    return node.tag in (NUMBER, FRACTION) and _SURPRISES.fullmatch(value) is not None and not re.fullmatch(r"[-+]?0*\.\d*", value)


def quoted(node: yaml.Node) -> str:
    """Return the scalar in quotes, so that YAML reads it as text."""
    return f'"{str(node.value)[:40]}"'


@dataclass(frozen=True)
class _Extent:
    """The numbers of nodes and levels of an anchored node, including the node itself."""

    nodes: int
    levels: int


class _BoundedLoader(yaml.SafeLoader):
    """Counts nodes and levels while it composes them. An alias counts as much as the node that it repeats."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._extents: dict[str, _Extent] = {}
        self._count = 0
        self._depth = 0
        self._deepest = 0
        """The deepest level within the node that is currently composed."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            self._note_alias(event.anchor, line)
            return super().compose_node(parent, index)
        self._check_tag(event.tag if isinstance(event, yaml.CollectionStartEvent) else None, line)
        before, outer = self._count, self._deepest
        self._depth += 1
        self._deepest = self._depth
        self._check(1, self._depth, line)
        node = super().compose_node(parent, index)
        if event.anchor is not None:
            self._extents[event.anchor] = _Extent(self._count - before, self._deepest - self._depth + 1)
        self._depth -= 1
        self._deepest = max(outer, self._deepest)
        return node

    def _check_tag(self, tag: str | None, line: int) -> None:
        if tag not in (None, "!", _MAPPING, _SEQUENCE):
            raise YamlFault(line, f"the tag {str(tag)[:60]} is not read; leave it out.")

    def _note_alias(self, anchor: str | None, line: int) -> None:
        if anchor in self.anchors and anchor not in self._extents:
            raise YamlFault(line, f"*{anchor} contains itself.")
        extent = self._extents.get(anchor or "", _Extent(0, 0))
        self._deepest = max(self._deepest, self._depth + extent.levels)
        self._check(extent.nodes, self._deepest, line)

    def _check(self, nodes: int, depth: int, line: int) -> None:
        self._count += nodes
        if self._count > MOST_NODES:
            raise YamlFault(line, f"the file contains more than {MOST_NODES} values, those of aliases counted each time.")
        if depth > DEEPEST:
            raise YamlFault(line, f"the file is nested more than {DEEPEST} levels deep.")
