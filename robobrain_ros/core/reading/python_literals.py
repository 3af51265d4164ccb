"""Convert Python literals to JSON. The example plans in RoboOS are Python dictionaries, and models imitate them.

``ast.literal_eval`` cannot replace this module. It rejects texts that models write: ``{'subtask': 'Open the robot's drawer'}``,
``true`` together with a trailing comma, and text after the value. Its callers must also bound length and nesting, and it prints
warnings about escapes.
"""

import re

_PARTS = re.compile(r"""["']|,\s*(?=[\]}])|\b(?:True|False|None)\b""")
"""Parts that differ between Python and JSON: quotes, trailing commas, and the names of constants."""
_CONSTANTS = {"True": "true", "False": "false", "None": "null"}
_CLOSING_SINGLE_QUOTE = re.compile(r"'(?=\s*(?:[,:\]}]|$))")
"""A single quote before punctuation ends a string. Any other single quote is an apostrophe."""
_QUOTE_OR_BACKSLASH = re.compile(r'["\\]')
_UNESCAPED_DOUBLE_QUOTE = re.compile(r'(?<!\\)"')


def to_json(text: str) -> str:
    """Convert quotes, constants and trailing commas to JSON. Nothing is evaluated, and each character is read once."""
    parts: list[str] = []
    place = 0
    while True:
        found = _PARTS.search(text, place)
        if found is None:
            return "".join([*parts, text[place:]])
        parts.append(text[place : found.start()])
        if found[0] == '"':
            place = _end_of_double_quoted(text, found.end())
            parts.append(text[found.start() : place])
        elif found[0] == "'":
            closing = _CLOSING_SINGLE_QUOTE.search(text, found.end())
            end = len(text) if closing is None else closing.start()
            content = text[found.end() : end].replace("\\'", "'")
            parts.append('"' + _UNESCAPED_DOUBLE_QUOTE.sub(r"\"", content) + '"')
            place = end + 1
        else:
            parts.append(_CONSTANTS.get(found[0], ""))
            place = found.end()


def _end_of_double_quoted(text: str, start: int) -> int:
    """Return the index after the closing double quote of the string whose content begins at ``start``."""
    while True:
        found = _QUOTE_OR_BACKSLASH.search(text, start)
        if found is None:
            return len(text)
        if found[0] == '"':
            return found.end()
        start = found.end() + 1
