"""Decode the escapes in strings that a model wrote."""

import json


def unescape(content: str) -> str:
    """Decode the content of a JSON string, given without its quotes. Backslashes of unknown escapes are removed."""
    try:
        return encodable(str(json.loads(f'"{content}"', strict=False)))
    except ValueError:
        return content.replace("\\", "")


def encodable(text: str) -> str:
    """Replace lone surrogates, which escapes may spell and which no ROS message can carry, by question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")
