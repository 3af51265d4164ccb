"""A reply of the program ``ask``: as JSON, and as lines for people."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from robobrain_ros.core.plans.request import PlanVerdict
from robobrain_ros.core.plans.roboos import roboos_json
from robobrain_ros.core.query import Answer, RgbImage, Task
from robobrain_ros.errors import OutcomeCode


@dataclass
class Reply:
    """The reply to a question, from a node or from an engine in this process.

    :param positions: positions in metres of the answer's points, then boxes, then waypoints, or None if unknown.
    :param stamp: seconds and nanoseconds in the header, or None if the image is from a file.
    :param frame_id: frame in the header, or empty if the image is from a file.
    :param size: width and height of the image in pixels.
    :param overlay: the image with the answer drawn on it, or None if it was not requested, or did not arrive.
    """

    code: OutcomeCode
    message: str
    answer: Answer
    camera: str = ""
    frame_id: str = ""
    stamp: tuple[int, int] | None = None
    size: tuple[int, int] | None = None
    positions: Sequence[tuple[float, float, float] | None] = field(default_factory=list)
    overlay: RgbImage | None = None


def to_dict(reply: Reply, text: str) -> dict[str, Any]:
    """Return the reply for JSON. The keys are always the same; unknown values are null."""
    answer = reply.answer
    positions = iter(reply.positions)
    parts = {
        name: [asdict(part) | {"position": next(positions, None)} for part in getattr(answer, name)]
        for name in ("points", "boxes", "waypoints")
    }
    return _without_nan(
        {
            "outcome": reply.code.name,
            "message": reply.message,
            "task": answer.task.value,
            "asked": text,
            "camera": reply.camera,
            "header": {
                "stamp": None if reply.stamp is None else dict(zip(("sec", "nanosec"), reply.stamp, strict=True)),
                "frame_id": reply.frame_id,
            },
            "image": None if reply.size is None else dict(zip(("width", "height"), reply.size, strict=True)),
            **parts,
            "steps": [asdict(step) for step in answer.steps],
            "text": answer.text if answer.task is Task.ASK and reply.code is OutcomeCode.OK else "",
            "verdict": answer.verdict.value if answer.task is Task.PLAN and reply.code is OutcomeCode.OK else "",
            "reasoning": answer.reasoning,
            "roboos_json": roboos_json(answer.steps, answer.reasoning),
            "thinking": answer.thinking,
            "report": asdict(answer.report),
        }
    )


def _without_nan(value: Any) -> Any:
    """Replace NaN and infinity by null, because JSON does not support them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    return [_without_nan(part) for part in value] if isinstance(value, list | tuple) else value


def to_lines(reply: Reply) -> list[str]:
    """Return the answer as lines for a terminal."""
    answer, positions = reply.answer, iter(reply.positions)
    lines = []
    if answer.thinking:
        lines += [f"  ({line})" for line in answer.thinking.strip().splitlines()]
    for number, point in enumerate(answer.points or answer.waypoints, 1):
        depth = "" if point.depth is None else f"  depth {point.depth:.3f} m"
        lines.append(f"{number:3}  ({point.u:.1f}, {point.v:.1f}){depth}{_rest(point, next(positions, None))}")
    for number, box in enumerate(answer.boxes, 1):
        corners = f"({box.u_min:.1f}, {box.v_min:.1f}) to ({box.u_max:.1f}, {box.v_max:.1f})"
        lines.append(f"{number:3}  {corners}{_rest(box, next(positions, None))}")
    for step in answer.steps:
        who = f"{step.robot}: " if step.robot else ""
        skill = f"  [{step.skill} {step.arguments}]".replace(" ]", "]") if step.skill else ""
        lines.append(f"{step.order:3}. {who}{step.text}{skill}")
    if answer.task is Task.ASK:
        lines.append(answer.text)
    if answer.verdict is not PlanVerdict.PLAN:
        lines.append(f"The task is {answer.verdict.value}.")
    return lines


def _rest(part: Any, position: tuple[float, float, float] | None) -> str:
    metres = "" if position is None else "  at ({:.3f}, {:.3f}, {:.3f}) m".format(*position)
    clamped = "  (moved to the image's border)" if part.clamped else ""
    return f"{'  ' if part.label else ''}{part.label}{metres}{clamped}"


def footnote(reply: Reply) -> str:
    """Return camera, image, frame, stamp, model and times in one line."""
    size = "" if reply.size is None else f"{reply.size[0]}x{reply.size[1]} pixels"
    camera = f"camera {reply.camera}" if reply.camera else ""
    frame = f"frame {reply.frame_id}" if reply.frame_id else ""
    stamp = "" if reply.stamp is None else f"stamp {reply.stamp[0]}.{reply.stamp[1]:09d}"
    report = reply.answer.report
    first = f"first part after {report.first_part_time:.2f} s" if report.first_part_time else ""
    return ", ".join(part for part in (camera, size, frame, stamp, report.model, first, f"{report.total_time:.2f} s") if part)
