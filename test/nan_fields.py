"""Find the values of messages that their definitions document as NaN if unknown."""

import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

from geometry_msgs.msg import Point, PoseStamped

REPOSITORY = Path(__file__).resolve().parent.parent


def nan_fields(path: Path) -> set[str]:
    """Return the numbers and positions whose comments, on their line or the line above, contain "NaN:"."""
    pairs = pairwise(["", *path.read_text().splitlines()])
    return {
        match["name"]
        for above, line in pairs
        if (match := re.match(r"(float\d+|geometry_msgs/(Point|PoseStamped))\s+(?P<name>\w+)", line))
        and ("NaN:" in line or (above.startswith("#") and "NaN:" in above))
    }


def is_unknown(value: Any) -> bool:
    if isinstance(value, PoseStamped):
        turn = value.pose.orientation
        return is_unknown(value.pose.position) and all(map(math.isnan, (turn.x, turn.y, turn.z, turn.w)))
    return all(map(math.isnan, (value.x, value.y, value.z))) if isinstance(value, Point) else math.isnan(value)


def documented_as_nan(message: Any, place: str = "") -> dict[str, Any]:
    """Return the values of a message and of the messages inside it that their definitions document as NaN if unknown."""
    found = {}
    generated = type(message).__name__.partition("_")
    paths = list(REPOSITORY.glob(f"*/{generated[0]}.[msa][src][gvt]*")) if generated[2] in ("", "Result", "Response") else []
    documented = nan_fields(paths[0]) if paths and type(message).__module__.startswith("robobrain_ros") else set()
    for name in message.get_fields_and_field_types():
        value = getattr(message, name)
        if name in documented:
            found[f"{place}{name}"] = value
        elif hasattr(value, "get_fields_and_field_types"):
            found |= documented_as_nan(value, f"{place}{name}.")
    return found
