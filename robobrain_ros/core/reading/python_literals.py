"""Rewrite Python literals as JSON. RoboOS's own examples of plans are Python dictionaries, and models imitate them.

``ast.literal_eval`` is no replacement. It rejects what models write: ``{'subtask': 'Open the robot's drawer'}``, ``true`` beside
a trailing comma, and text after the value. It would also need bounds on length and nesting of its own, and prints warnings about
escapes.
"""

import re

_PARTS = re.compile(r"""["']|,\s*(?=[\]}])|\b(?:True|False|None)\b""")
"""What differs between the two: quotes, trailing commas, and the names of constants."""
_CONSTANTS = {"True": "true", "False": "false", "None": "null"}
_CLOSING_SINGLE_QUOTE = re.compile(r"'(?=\s*(?:[,:\]}]|$))")
"""A single quote followed by punctuation. Any other one is an apostrophe."""
_QUOTE_OR_BACKSLASH = re.compile(r'["\\]')
_UNESCAPED_DOUBLE_QUOTE = re.compile(r'(?<!\\)"')


def to_json(text: str) -> str:
    """Rewrite quotes, constants and trailing commas. Nothing is evaluated, and each character is read once."""
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
    """The place behind the double quote that ends the string whose content begins at ``start``."""
    while True:
        found = _QUOTE_OR_BACKSLASH.search(text, start)
        if found is None:
            return len(text)
        if found[0] == '"':
            return found.end()
        start = found.end() + 1
