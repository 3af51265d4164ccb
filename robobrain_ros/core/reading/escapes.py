"""Decode the escape sequences in strings that a model wrote."""

import json


def unescape(content: str) -> str:
    """Decode the content of a JSON string, without its quotes. If an escape is invalid, all backslashes are removed."""
    try:
        return encodable(str(json.loads(f'"{content}"', strict=False)))
    except ValueError:
        return content.replace("\\", "")


def encodable(text: str) -> str:
    """Replace lone surrogates by question marks. Escapes can produce them, and ROS messages cannot contain them."""
    return text.encode("utf-8", "replace").decode("utf-8")
