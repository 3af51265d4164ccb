"""Compare answers with the true answers of the tabletop world.

Answers are `core.query.Answer`, in pixels of the scene's image.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from robobrain_ros.core.query import Answer, Box, Task
from robobrain_ros.demo.layout import COLOURS, KINDS
from robobrain_ros.demo.simulator import reaches_goal
from robobrain_ros.demo.world import GRIPPER, TABLE, Scene
from robobrain_ros.evaluation.plans import execute_plan, judge_plan
from robobrain_ros.evaluation.question import Question

LEAST_OVERLAP = 0.5
"""Intersection over union above which a bounding box is right."""

_THING = re.compile(rf"\b({'|'.join(COLOURS)}) ({'|'.join(KINDS)})\b")


@dataclass(frozen=True)
class Assessment:
    """Whether an answer is right, the reason, and the score: share of points on the target, IoU, or 0 and 1.

    :param chance: expected score of a uniformly random point; 0 if it has no meaning.
    :param frechet: discrete Fréchet distance of a trajectory to the true one, relative to the image; None: no trajectory.
    :param executable: whether a plan for a robot has steps, and the robot can execute all of them.
    """

    right: bool
    why: str
    score: float
    chance: float = 0.0
    frechet: float | None = None
    executable: bool = False


def judge(scene: Scene, question: Question, answer: Answer) -> tuple[bool, str]:
    """Return whether the answer to a question about the scene is right, and the reason in one sentence."""
    verdict = assess(scene, question, answer)
    return verdict.right, verdict.why


def assess(scene: Scene, question: Question, answer: Answer) -> Assessment:
    """Score an answer with content. `assess_refusal` scores answers that nothing was found."""
    if question.absent and question.task is not Task.ASK and question.plan is None:
        return Assessment(False, "Wrong: the requested object is not on the table.", 0.0)
    if question.task is Task.POINT:
        return _assess_points(scene, question, answer)
    if question.task in (Task.GROUND, Task.AFFORDANCE):
        return _assess_box(question, answer)
    if question.task is Task.TRAJECTORY:
        return _assess_trajectory(scene, question, answer)
    if question.task is Task.PLAN:
        return _assess_plan(scene, question, answer)
    return _assess_text(question, answer)


def assess_refusal(question: Question) -> Assessment:
    """Score the answer that the object is not there."""
    if question.absent:
        return Assessment(True, "Right: it is not on the table.", 1.0)
    return Assessment(False, "Wrong: it is on the table.", 0.0)


def _name(scene: Scene, identity: int) -> str:
    if identity == GRIPPER:
        return "gripper"
    return next((thing.name for thing in scene.objects if thing.id == identity), "table")


def _at(scene: Scene, u: float, v: float) -> int:
    """Return the id of the mask at a point; -1 outside of the image."""
    column, row = round(u), round(v)
    if not (0 <= column < scene.width and 0 <= row < scene.height):
        return -1
    return int(scene.mask[row, column])


def _assess_points(scene: Scene, question: Question, answer: Answer) -> Assessment:
    if not answer.points:
        return Assessment(False, "Wrong: no point.", 0.0)
    if question.kind == "vacant":
        hits = [_between(scene, question, point.u, point.v) for point in answer.points]
        share = sum(hits) / len(hits)
        names = " and the ".join(_name(scene, identity) for identity in question.targets)
        return Assessment(all(hits), f"{sum(hits)} of {len(hits)} points lie on the free table between the {names}.", share)
    target = question.targets[0]
    if target == GRIPPER:
        box, reach = scene.gripper.box, 0.01 * scene.width
        hits = [box[0] - reach <= p.u <= box[2] + reach and box[1] - reach <= p.v <= box[3] + reach for p in answer.points]
    else:
        hits = [_at(scene, point.u, point.v) == target for point in answer.points]
    share, chance = sum(hits) / len(hits), chance_of(scene, question)
    return Assessment(all(hits), f"{sum(hits)} of {len(hits)} points lie on the {_name(scene, target)}.", share, chance)


def chance_of(scene: Scene, question: Question) -> float:
    """Return the share of the image that the target of a point or trajectory question covers; 0 for other questions."""
    if question.absent or question.kind == "vacant" or question.task not in (Task.POINT, Task.TRAJECTORY):
        return 0.0
    target = question.targets[-1]
    if target == GRIPPER:
        box, reach = scene.gripper.box, 0.01 * scene.width
        return (box[2] - box[0] + 2 * reach) * (box[3] - box[1] + 2 * reach) / (scene.width * scene.height)
    return float((scene.mask == target).mean())


def _between(scene: Scene, question: Question, u: float, v: float) -> bool:
    """Return whether a point is on the free table, between two objects and near to the line between them."""
    one, other = (next(thing.centre for thing in scene.objects if thing.id == identity) for identity in question.targets)
    across, down = other[0] - one[0], other[1] - one[1]
    length = math.hypot(across, down)
    along = ((u - one[0]) * across + (v - one[1]) * down) / (length * length)
    beside = abs((u - one[0]) * down - (v - one[1]) * across) / length
    return _at(scene, u, v) == TABLE and 0.1 < along < 0.9 and beside < 0.25 * length + 0.025 * scene.width


def overlap(one: Box, other: Box) -> float:
    """Return the intersection over union. Boxes include the pixels at their borders."""
    width = min(one.u_max, other.u_max) - max(one.u_min, other.u_min) + 1
    height = min(one.v_max, other.v_max) - max(one.v_min, other.v_min) + 1
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box.u_max - box.u_min + 1) * (box.v_max - box.v_min + 1) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def _assess_box(question: Question, answer: Answer) -> Assessment:
    low, high = question.coordinates
    truth = Box(low.u, low.v, high.u, high.v)
    if len(answer.boxes) != 1:
        return Assessment(False, f"Wrong: {len(answer.boxes)} boxes instead of one.", 0.0)
    score = overlap(truth, answer.boxes[0])
    why = f"The box overlaps the true one by {score:.2f} (IoU; right above {LEAST_OVERLAP})."
    return Assessment(score > LEAST_OVERLAP, why, score)


def frechet(one: Sequence[tuple[float, float]], other: Sequence[tuple[float, float]]) -> float:
    """Return the discrete Fréchet distance of two paths (Eiter and Mannila, 1994), in the unit of the paths."""
    reach = [[0.0] * len(other) for _ in one]
    for i, (u, v) in enumerate(one):
        for j, (x, y) in enumerate(other):
            before = [reach[a][b] for a, b in ((i - 1, j), (i - 1, j - 1), (i, j - 1)) if a >= 0 and b >= 0]
            reach[i][j] = max(math.hypot(u - x, v - y), min(before) if before else 0.0)
    return reach[-1][-1]


def _assess_trajectory(scene: Scene, question: Question, answer: Answer) -> Assessment:
    way = answer.waypoints
    if len(way) < 2:
        return Assessment(False, "Wrong: no trajectory of two or more waypoints.", 0.0)
    truth = [(point.u / scene.width, point.v / scene.height) for point in question.coordinates]
    distance = frechet([(point.u / scene.width, point.v / scene.height) for point in way], truth)
    target = question.targets[-1]
    ends = _at(scene, way[-1].u, way[-1].v)
    tip = scene.gripper.tip
    apart = math.hypot(way[0].u - tip[0], way[0].v - tip[1])
    starts = apart < 0.07 * max(scene.width, scene.height)
    where = "ends on" if ends == target else "does not end on"
    why = f"The trajectory {where} the {_name(scene, target)} and starts {apart:.0f} px from the gripper."
    return Assessment(ends == target and starts, why, float(ends == target), chance_of(scene, question), distance)


def _assess_plan(scene: Scene, question: Question, answer: Answer) -> Assessment:
    if question.plan is not None:
        right, fault = judge_plan(question, answer)
        executable = bool(answer.steps) and question.table is not None and not execute_plan(question, answer)[1]
        return Assessment(right, "Right." if right else f"Wrong: {fault}.", float(right), executable=executable)
    if question.goal is None:
        return Assessment(False, "Wrong: there is nothing to plan.", 0.0)
    steps = [step.text for step in sorted(answer.steps, key=lambda step: step.order)]
    reached, fault = reaches_goal([thing.name for thing in scene.objects], steps, question.goal)
    return Assessment(reached, "The plan reaches the goal." if reached else f"The plan fails: {fault}.", float(reached))


_DECISIVE = {"exists": 0, "side": 0, "count": -1}
"""Index of the word that decides a short answer without an object, such as "Yes." or "3"."""


def _assess_text(question: Question, answer: Answer) -> Assessment:
    """Compare the facts: yes or no, numbers, sides, colours and objects. The order counts only for questions about sides."""
    ordered = question.kind == "side"
    said, true = _facts(answer.text, ordered), _facts(question.words, ordered)
    right = said == true if any(true) else answer.text.strip() == question.words
    part = _DECISIVE.get(question.kind)
    if part is not None and not said[0] and said[1]:
        right = said[1][part] == true[1][part]
    return Assessment(right, "Right." if right else f"Wrong: {question.words}", float(right))


def _facts(text: str, ordered: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    lowered = text.lower()
    named = [" ".join(pair) for pair in _THING.findall(lowered)]
    rest = _THING.sub("", lowered)
    words = re.findall(rf"\b(?:yes|no|left|right|middle|\d+|{'|'.join(COLOURS)})\b", rest)
    return tuple(named if ordered else sorted(named)), tuple(words)


def wilson(right: float, count: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a share (Wilson, 1927)."""
    if count == 0:
        return 0.0, 1.0
    z = 1.959964
    share = right / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)
