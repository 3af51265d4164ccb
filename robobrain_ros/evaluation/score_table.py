"""The scores of an exam as rows with intervals, and as a table."""

from collections.abc import Sequence
from dataclasses import dataclass

from robobrain_ros.errors import OutcomeCode
from robobrain_ros.evaluation.exam import ABSENT, GROUPS, ON_THINGS, ROBOT_GROUPS, Scored
from robobrain_ros.evaluation.metrics import LEAST_OVERLAP, wilson

_REACHES = "reaches the goal in the simulator"


@dataclass(frozen=True)
class Row:
    """A row of the result.

    :param group: one of `GROUPS` or `ROBOT_GROUPS`, or "all".
    :param kind: kind of question; empty: all kinds of the group.
    :param measure: name of the measured quantity.
    :param value: a share, or a mean.
    :param count: number of questions or points.
    :param low: lower limit of the 95 % interval (Wilson) of a share, ``high`` the upper limit; None for means.
    :param chance: expected value for random points; None if it has no meaning.
    :param goal: minimum value; None: no goal.
    """

    group: str
    kind: str
    measure: str
    value: float
    count: int
    low: float | None = None
    high: float | None = None
    chance: float | None = None
    goal: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None: no goal."""
        return None if self.goal is None else self.value >= self.goal


def share_row(group: str, kind: str, measure: str, right: int, count: int, **more: float | None) -> Row:
    """Return a row for a share, with its interval."""
    low, high = wilson(right, count)
    return Row(group, kind, measure, right / count, count, low, high, **more)


def rows_of(scores: Sequence[Scored]) -> list[Row]:
    """Return the measures of each group, those of its kinds of questions, and at the end those of all answers."""
    rows: list[Row] = []
    for group in (*GROUPS, *ROBOT_GROUPS):
        own = [scored for scored in scores if scored.group == group]
        kinds = sorted({scored.kind for scored in own})
        if own:
            rows += _rows_of_group(group, own)
        if len(kinds) > 1:
            rows += [row for kind in kinds for row in _rows_of_kind(group, kind, [one for one in own if one.kind == kind])]
    return rows + _rows_of_all(scores)


def _rows_of_group(group: str, scores: Sequence[Scored]) -> list[Row]:
    if group == "point":
        on_things = [scored for scored in scores if scored.kind in ON_THINGS]
        return [*_points(group, "", on_things, goal=0.97), _right(group, "", scores)]
    if group in ("ground", "affordance"):
        return _boxes(group, "", scores, goal=0.97 if group == "ground" else 0.9)
    if group == "trajectory":
        return [
            *_trajectories(group, "", scores, goal=0.95),
            _right(group, "", scores, "ends on the target, starts at the gripper"),
        ]
    if group in ("plan", "robot_plan", "replan"):
        return [_right(group, "", scores, _REACHES, goal=0.95)]
    if group in ROBOT_GROUPS:
        executable = sum(scored.verdict.executable for scored in scores)
        rows = [_right(group, "", scores, _REACHES, goal=0.9)]
        return [*rows, share_row(group, "", "the robot can execute all steps", executable, len(scores))]
    return [_right(group, "", scores, "refused" if group in (ABSENT, "impossible") else "right")]


def _rows_of_kind(group: str, kind: str, scores: Sequence[Scored]) -> list[Row]:
    if group == "point":
        return _points(group, kind, scores, "points on the free table between" if kind == "vacant" else "points on the target")
    if group == "affordance":
        return _boxes(group, kind, scores)
    if group == "trajectory":
        return _trajectories(group, kind, scores)
    if group in ROBOT_GROUPS:
        return [_right(group, kind, scores, _REACHES)]
    return [_right(group, kind, scores, "refused" if group == ABSENT else "right")]


def _rows_of_all(scores: Sequence[Scored]) -> list[Row]:
    rows = []
    present = [scored for scored in scores if not scored.absent]
    if present:
        refused = sum(scored.code is OutcomeCode.NOTHING_FOUND for scored in present)
        rows.append(share_row("all", "", "object present, but refused (lower is better)", refused, len(present)))
    written = [scored for scored in scores if scored.answered or scored.code is OutcomeCode.UNPARSABLE_ANSWER]
    if written:
        read = sum(scored.answered for scored in written)
        rows.append(share_row("all", "", "answers that can be read", read, len(written), goal=0.995))
    return rows


def _right(group: str, kind: str, scores: Sequence[Scored], measure: str = "right", goal: float | None = None) -> Row:
    return share_row(group, kind, measure, sum(scored.verdict.right for scored in scores), len(scores), goal=goal)


def _points(
    group: str, kind: str, scores: Sequence[Scored], measure: str = "points on the object", goal: float | None = None
) -> list[Row]:
    count = sum(scored.points for scored in scores)
    if not count:
        return []
    share = sum(scored.verdict.score * scored.points for scored in scores) / count
    chance = sum(scored.chance * scored.points for scored in scores) / count
    # Points of one answer hit or miss together, so the interval uses the number of answers.
    low, high = wilson(share * len(scores), len(scores))
    return [Row(group, kind, measure, share, count, low, high, chance or None, goal)]


def _boxes(group: str, kind: str, scores: Sequence[Scored], goal: float | None = None) -> list[Row]:
    mean = sum(scored.verdict.score for scored in scores) / len(scores)
    return [_right(group, kind, scores, f"IoU above {LEAST_OVERLAP}", goal), Row(group, kind, "mean IoU", mean, len(scores))]


def _trajectories(group: str, kind: str, scores: Sequence[Scored], goal: float | None = None) -> list[Row]:
    chance = sum(scored.chance for scored in scores) / len(scores)
    ends = sum(scored.verdict.score == 1.0 for scored in scores)
    rows = [share_row(group, kind, "ends on the target", ends, len(scores), chance=chance, goal=goal)]
    distances = [scored.verdict.frechet for scored in scores if scored.verdict.frechet is not None]
    if distances:
        mean = sum(distances) / len(distances)
        rows.append(Row(group, kind, "mean Fréchet distance, parts of the image", mean, len(distances)))
    return rows


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a table in text."""
    lines = [("what", "share or mean", "95 % interval", "of", "by chance", "goal")]
    for row in rows:
        interval = "" if row.low is None or row.high is None else f"{row.low:.3f} to {row.high:.3f}"
        goal = "" if row.goal is None else f"{row.goal:g} {'met' if row.met else 'missed'}"
        name = f"  {row.kind}: {row.measure}" if row.kind else f"{row.group}: {row.measure}"
        chance = "" if row.chance is None else f"{row.chance:.3f}"
        lines.append((name, f"{row.value:.3f}", interval, str(row.count), chance, goal))
    widths = [max(len(line[column]) for line in lines) for column in range(6)]
    lines.insert(1, tuple("-" * width for width in widths))  # type: ignore[arg-type]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
