"""A question about a scene of the tabletop world, with its true answer."""

from dataclasses import dataclass

from robobrain_ros.core.imaging import FittedSize
from robobrain_ros.core.plans.request import PlanRequest, PlanVerdict
from robobrain_ros.core.query import Task
from robobrain_ros.demo.simulator import Goal, Table
from robobrain_ros.evaluation.robots import TableRobot


@dataclass(frozen=True)
class Coordinate:
    """A point of a true answer in pixels of the scene's image, and the ids of its objects (for scores and training)."""

    u: float
    v: float
    about: tuple[int, ...] = ()


@dataclass(frozen=True)
class Question:
    """A question and its true answer.

    :param kind: kind of question within the task, see `KINDS_OF_QUESTIONS`.
    :param coordinates: points, waypoints, or the two corners of a box; empty if the object is absent or the answer is text.
    :param words: the answer if it is text or the numbered lines of a plan.
    :param thought: a short reasoning, with "{here}" for the first target's place.
    :param targets: ids of the objects in the question; for trajectories, the last one is the destination.
    :param goal: the goal of a plan; None: the task is impossible.
    :param absent: whether the object in the question is not on the table.
    :param plan: the plan request, with the answer's JSON in ``words``; None: a plan in words.
    :param verdict: the true verdict about the task.
    :param table: the state before the plan; None: nothing was moved yet.
    :param robot: the robot of the plan request; None: the demo's arm.
    """

    task: Task
    kind: str
    text: str
    coordinates: tuple[Coordinate, ...] = ()
    words: str = ""
    thought: str = ""
    here: Coordinate | None = None
    targets: tuple[int, ...] = ()
    goal: Goal | None = None
    absent: bool = False
    plan: PlanRequest | None = None
    verdict: PlanVerdict = PlanVerdict.PLAN
    table: Table | None = None
    robot: TableRobot | None = None

    def answer(self, size: FittedSize) -> str:
        """Return the text of the answer, with coordinates in pixels of the model's image."""
        if not self.task.spatial:
            return self.words
        numbers = [_model_pixel(coordinate, size) for coordinate in self.coordinates]
        if self.task in (Task.GROUND, Task.AFFORDANCE):
            return "[" + ", ".join(f"{x}, {y}" for x, y in numbers) + "]"
        return "[" + ", ".join(f"({x}, {y})" for x, y in numbers) + "]"

    def thinking(self, size: FittedSize) -> str:
        """Return a short reasoning that leads to the answer."""
        if self.here is None:
            return self.thought
        x, y = _model_pixel(self.here, size)
        return self.thought.replace("{here}", f"({x}, {y})")


def _model_pixel(coordinate: Coordinate, size: FittedSize) -> tuple[int, int]:
    x = (coordinate.u + 0.5) * size.model_width / size.width - 0.5
    y = (coordinate.v + 0.5) * size.model_height / size.height - 0.5
    return min(max(round(x), 0), size.model_width - 1), min(max(round(y), 0), size.model_height - 1)
