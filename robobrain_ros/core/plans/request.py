"""The request for a plan: robots with their skills, the scene, and the steps done so far."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum

from robobrain_ros.core.traces.space import Reach, Workspace


class PlanMode(IntEnum):
    """The kind of plan. The numbers are the constants of ``robobrain_ros/msg/PlanContext``."""

    NEW = 0
    """A plan for the whole task."""
    REPLAN = 1
    """A plan for the rest of the task, after the steps done so far."""
    NEXT_STEP = 2
    """The next step only."""
    CHECK = 3
    """Whether the task is done, without steps."""


class PlanVerdict(str, Enum):
    """The model's verdict about the task. The value is the word in its JSON."""

    PLAN = "plan"
    DONE = "done"
    NOT_DONE = "not done"
    IMPOSSIBLE = "impossible"


class SkillEffect(IntEnum):
    """The effect of a skill on the robot's hand. The numbers are the constants of ``robobrain_ros/msg/Skill``."""

    NONE = 0
    GRASPS = 1
    """The robot's hand is empty before the skill, and holds the object after it."""
    RELEASES = 2
    """The robot's hand holds the object before the skill, and is empty after it."""


class StepOutcome(IntEnum):
    """How a done step ended. The numbers are the constants of ``robobrain_ros/msg/DoneStep``."""

    SUCCEEDED = 0
    FAILED = 1
    CANCELED = 2


@dataclass(frozen=True)
class Skill:
    """A skill of a robot.

    :param arguments_schema: the JSON schema of the arguments, an object with ``properties``, as JSON text, or empty.
        A string property with ``"format": "object"`` must be the name of an object of the scene, if the request has a scene.
        With ``"format": "place"``, it must be a place that the robot can reach. With ``"format": "robot"``, it must be the name
        of a robot.
    :param effect: the effect of the skill on the robot's hand.
    :param object_argument: the property with the name of the object that the robot grasps or releases; empty without an effect.
    """

    name: str
    description: str = ""
    arguments_schema: str = ""
    effect: SkillEffect = SkillEffect.NONE
    object_argument: str = ""


@dataclass(frozen=True)
class Robot:
    """A robot. Unknown texts are empty. ``holding`` is the object in its hand. Without ``reachable_places``, it reaches all.

    ``workspace`` and ``reach`` limit trajectories. Plans do not use them.
    """

    name: str
    type: str = ""
    state: str = ""
    skills: tuple[Skill, ...] = ()
    position: str = ""
    reachable_places: tuple[str, ...] = ()
    holding: str = ""
    workspace: Workspace | None = None
    reach: Reach | None = None


@dataclass(frozen=True)
class Place:
    """A place and the objects on it."""

    name: str
    objects: tuple[str, ...] = ()


@dataclass(frozen=True)
class DoneStep:
    """A step that was done, how it ended, and an observation. ``arguments`` is a JSON object as text, or empty."""

    text: str = ""
    robot: str = ""
    skill: str = ""
    arguments: str = ""
    outcome: StepOutcome = StepOutcome.SUCCEEDED
    observation: str = ""


@dataclass(frozen=True)
class PlanRequest:
    """The context of a plan, in addition to the task and the images. ``max_steps`` 0 is the default."""

    robots: tuple[Robot, ...] = ()
    scene: tuple[Place, ...] = ()
    done: tuple[DoneStep, ...] = ()
    feedback: str = ""
    max_steps: int = 0
    mode: PlanMode = PlanMode.NEW


def relevant_history(history: Sequence[DoneStep]) -> tuple[DoneStep, ...]:
    """Return the steps of a history that a plan request needs: those that succeeded, and the failures after the last of them.

    An earlier failure is overcome. Without it, the prompt is shorter. The demo model plans better with such a history.
    """
    succeeded = [index for index, step in enumerate(history) if step.outcome is StepOutcome.SUCCEEDED]
    last = succeeded[-1] if succeeded else -1
    return tuple(step for index, step in enumerate(history) if index > last or step.outcome is StepOutcome.SUCCEEDED)
