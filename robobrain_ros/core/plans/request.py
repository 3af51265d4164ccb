"""What a robot stack knows when it asks for a plan: robots with their skills, the scene, and what was done so far."""

from dataclasses import dataclass
from enum import Enum, IntEnum


class PlanMode(IntEnum):
    """What is asked for; the numbers are the constants of ``robobrain_ros/msg/PlanContext``."""

    NEW = 0
    """A plan for the whole task."""
    REPLAN = 1
    """A plan for what is left of it, after the steps done so far."""
    NEXT_STEP = 2
    """The one step to do next."""
    CHECK = 3
    """Whether the task is done; no steps."""


class PlanVerdict(str, Enum):
    """What the model says about the task; the value is the word in its JSON."""

    PLAN = "plan"
    DONE = "done"
    NOT_DONE = "not done"
    IMPOSSIBLE = "impossible"


class SkillEffect(IntEnum):
    """What a skill does to the robot's hand; the numbers are the constants of ``robobrain_ros/msg/Skill``."""

    NONE = 0
    GRASPS = 1
    """Afterwards the robot holds the object; before, it must hold nothing."""
    RELEASES = 2
    """Afterwards the robot holds nothing; before, it must hold the object."""


class StepOutcome(IntEnum):
    """How a step that was done ended; the numbers are the constants of ``robobrain_ros/msg/DoneStep``."""

    SUCCEEDED = 0
    FAILED = 1
    CANCELED = 2


@dataclass(frozen=True)
class Skill:
    """Something that a robot can do.

    ``arguments_schema``: JSON schema (an object with ``properties``) of its arguments as JSON text; empty: it takes none. A
    string property of ``"format": "object"`` is one of the scene's objects where the scene is known, one of ``"format":
    "place"`` a place that the robot reaches, one of ``"format": "robot"`` the name of a robot. ``object_argument``: the property
    that names what is grasped or released, where ``effect`` says so.
    """

    name: str
    description: str = ""
    arguments_schema: str = ""
    effect: SkillEffect = SkillEffect.NONE
    object_argument: str = ""


@dataclass(frozen=True)
class Robot:
    """A robot. Texts are empty where nothing is known; no ``reachable_places``: all; ``holding``: the object in its hand."""

    name: str
    type: str = ""
    state: str = ""
    skills: tuple[Skill, ...] = ()
    position: str = ""
    reachable_places: tuple[str, ...] = ()
    holding: str = ""


@dataclass(frozen=True)
class Place:
    """A place and the objects on it."""

    name: str
    objects: tuple[str, ...] = ()


@dataclass(frozen=True)
class DoneStep:
    """A step that was done, how it ended, and what was observed. ``arguments`` is a JSON object; empty: none."""

    text: str = ""
    robot: str = ""
    skill: str = ""
    arguments: str = ""
    outcome: StepOutcome = StepOutcome.SUCCEEDED
    observation: str = ""


@dataclass(frozen=True)
class PlanRequest:
    """What a plan is made from, beside the task and the images. ``max_steps`` 0: the default."""

    robots: tuple[Robot, ...] = ()
    scene: tuple[Place, ...] = ()
    done: tuple[DoneStep, ...] = ()
    feedback: str = ""
    max_steps: int = 0
    mode: PlanMode = PlanMode.NEW
