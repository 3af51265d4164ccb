"""Written by scripts/message_stubs.py: do not edit."""

from typing import ClassVar

from builtin_interfaces.msg import (
    Time,
)
from geometry_msgs.msg import (
    Point,
    Pose,
    PoseStamped,
)
from sensor_msgs.msg import (
    Image,
    RegionOfInterest,
)
from std_msgs.msg import (
    Header,
)

class AffordanceArea:
    roi: RegionOfInterest
    u_min: float
    v_min: float
    u_max: float
    v_max: float
    position: Point
    clamped: bool
    label: str
    def __init__(
        self,
        *,
        roi: RegionOfInterest = ...,
        u_min: float = ...,
        v_min: float = ...,
        u_max: float = ...,
        v_max: float = ...,
        position: Point = ...,
        clamped: bool = ...,
        label: str = ...,
    ) -> None: ...
    @classmethod
    def get_fields_and_field_types(cls) -> dict[str, str]: ...

class AffordancePoint:
    u: float
    v: float
    position: Point
    clamped: bool
    label: str
    def __init__(
        self,
        *,
        u: float = ...,
        v: float = ...,
        position: Point = ...,
        clamped: bool = ...,
        label: str = ...,
    ) -> None: ...
    @classmethod
    def get_fields_and_field_types(cls) -> dict[str, str]: ...

class Affordances:
    header: Header
    task: str
    instruction: str
    query: str
    camera: str
    image_width: int
    image_height: int
    points: list[AffordancePoint]
    areas: list[AffordanceArea]
    position_note: str
    report: InferenceReport
    def __init__(
        self,
        *,
        header: Header = ...,
        task: str = ...,
        instruction: str = ...,
        query: str = ...,
        camera: str = ...,
        image_width: int = ...,
        image_height: int = ...,
        points: list[AffordancePoint] = ...,
        areas: list[AffordanceArea] = ...,
        position_note: str = ...,
        report: InferenceReport = ...,
    ) -> None: ...
    @classmethod
    def get_fields_and_field_types(cls) -> dict[str, str]: ...

class ApproachPose:
    pose: PoseStamped
    pre_grasp: PoseStamped
    floor_pose: PoseStamped
    direction: str
    graspable: bool
    opening: float
    finger_depth: float
    width: float
    length: float
    elongated: bool
    position_deviation: float
    angle_deviation: float
    u: float
    v: float
    label: str
    reason: str
    floor_reason: str
    def __init__(
        self,
        *,
        pose: PoseStamped = ...,
        pre_grasp: PoseStamped = ...,
        floor_pose: PoseStamped = ...,
        direction: str = ...,
        graspable: bool = ...,
        opening: float = ...,
        finger_depth: float = ...,
        width: float = ...,
        length: float = ...,
        elongated: bool = ...,
        position_deviation: float = ...,
        angle_deviation: float = ...,
        u: float = ...,
        v: float = ...,
        label: str = ...,
        reason: str = ...,
        floor_reason: str = ...,
    ) -> None: ...
    @classmethod
    def get_fields_and_field_types(cls) -> dict[str, str]: ...

class DoneStep:
    SUCCEEDED: ClassVar[int]
    FAILED: ClassVar[int]
    CANCELED: ClassVar[int]
    text: str
    robot: str
    skill: str
    arguments: str
    outcome: int
    observation: str
    def __init__(
        self,
        *,
        text: str = ...,
        robot: str = ...,
        skill: str = ...,
        arguments: str = ...,
        outcome: int = ...,
        observation: str = ...,
    ) -> None: ...
    @classmethod
    def get_fields_and_field_types(cls) -> dict[str, str]: ...

class Event:
    NOT_SET: ClassVar[int]
    BECAME_TRUE: ClassVar[int]
    BECAME_FALSE: ClassVar[int]
    BECAME_UNKNOWN: ClassVar[int]
    header: Header
    query: str
    question: str
    camera: str
    type: int
    initial: bool
    confidence: float
    frames: int
    previous_duration: float
    text: str
    report: InferenceReport
    def __init__(
        self,
        *,
        header: Header = ...,
        query: str = ...,
        question: str = ...,
        camera: str = ...,
        type: int = ...,
        initial: bool = ...,
        confidence: float = ...,
        frames: int = ...,
        previous_duration: float = ...,
        text: str = ...,
        report: InferenceReport = ...,
    ) -> None: ...
    @classmethod
    def get_fields_and_field_types(cls) -> dict[str, str]: ...

class InferenceReport:
    model: str
    engine: str
    profile: str
    flagos_active: bool
    flagos_operators: list[str]
    think: bool
    image_age: float
    queue_time: float
    first_token_time: float
    first_part_time: float
    total_time: float
    prompt_tokens: int
    thinking_tokens: int
    answer_tokens: int
    finish_reason: str
    raw_text: str
    thinking: str
    model_image_width: int
    model_image_height: int
    stamps: list[Time]
    def __init__(
        self,
        *,
        model: str = ...,
        engine: str = ...,
        profile: str = ...,
        flagos_active: bool = ...,
        flagos_operators: list[str] = ...,
        think: bool = ...,
        image_age: float = ...,
        queue_time: float = ...,
        first_token_time: float = ...,
        first_part_time: float = ...,
        total_time: float = ...,
        prompt_tokens: int = ...,
        thinking_tokens: int = ...,
        answer_tokens: int = ...,
        finish_reason: str = ...,
        raw_text: str = ...,
        thinking: str = ...,
        model_image_width: int = ...,
        model_image_height: int = ...,
        stamps: list[Time] = ...,
    ) -> None: ...
    @classmethod
    def get_fields_and_field_types(cls) -> dict[str, str]: ...

class Outcome:
    NOT_SET: ClassVar[int]
    OK: ClassVar[int]
    NOT_READY: ClassVar[int]
    BUSY: ClassVar[int]
    NO_IMAGE: ClassVar[int]
    STALE_IMAGE: ClassVar[int]
    BAD_IMAGE: ClassVar[int]
    BAD_REQUEST: ClassVar[int]
    UNSUPPORTED_TASK: ClassVar[int]
    UNPARSABLE_ANSWER: ClassVar[int]
    NOTHING_FOUND: ClassVar[int]
    TIMEOUT: ClassVar[int]
    CANCELED: ClassVar[int]
    ENGINE_FAILED: ClassVar[int]
    INFEASIBLE_PLAN: ClassVar[int]
    NO_POSE: ClassVar[int]
    UNSAFE_TRAJECTORY: ClassVar[int]
    code: int
    message: str
    def __init__(
        self,
        *,
        code: int = ...,
        message: str = ...,
    ) -> None: ...
    @classmethod
    def get_fields_and_field_types(cls) -> dict[str, str]: ...

class Place:
    name: str
    objects: list[str]
    def __init__(
        self,
        *,
        name: str = ...,
        objects: list[str] = ...,
    ) -> None: ...
    @classmethod
    def get_fields_and_field_types(cls) -> dict[str, str]: ...

class Plan:
    VERDICT_PLAN: ClassVar[int]
    VERDICT_DONE: ClassVar[int]
    VERDICT_NOT_DONE: ClassVar[int]
    header: Header
    task: str
    query: str
    camera: str
    verdict: int
    steps: list[PlanStep]
    reasoning: str
    roboos_json: str
    behavior_tree: str
    report: InferenceReport
    def __init__(
        self,
        *,
        header: Header = ...,
        task: str = ...,
        query: str = ...,
        camera: str = ...,
        verdict: int = ...,
        steps: list[PlanStep] = ...,
        reasoning: str = ...,
        roboos_json: str = ...,
        behavior_tree: str = ...,
        report: InferenceReport = ...,
    ) -> None: ...
    @classmethod
    def get_fields_and_field_types(cls) -> dict[str, str]: ...

class PlanContext:
    MODE_NEW: ClassVar[int]
    MODE_REPLAN: ClassVar[int]
    MODE_NEXT_STEP: ClassVar[int]
    MODE_CHECK: ClassVar[int]
    mode: int
    robots: list[Robot]
    scene: list[Place]
    done: list[DoneStep]
    feedback: str
    max_steps: int
    def __init__(
        self,
        *,
        mode: int = ...,
        robots: list[Robot] = ...,
        scene: list[Place] = ...,
        done: list[DoneStep] = ...,
        feedback: str = ...,
        max_steps: int = ...,
    ) -> None: ...
    @classmethod
    def get_fields_and_field_types(cls) -> dict[str, str]: ...

class PlanStep:
    order: int
    robot: str
    skill: str
    arguments: str
    text: str
    def __init__(
        self,
        *,
        order: int = ...,
        robot: str = ...,
        skill: str = ...,
        arguments: str = ...,
        text: str = ...,
    ) -> None: ...
    @classmethod
    def get_fields_and_field_types(cls) -> dict[str, str]: ...

class Progress:
    header: Header
    task: str
    camera: str
    progress: float
    change: float
    uncertainty: float
    incremental: float
    forward: float
    backward: float
    report: InferenceReport
    def __init__(
        self,
        *,
        header: Header = ...,
        task: str = ...,
        camera: str = ...,
        progress: float = ...,
        change: float = ...,
        uncertainty: float = ...,
        incremental: float = ...,
        forward: float = ...,
        backward: float = ...,
        report: InferenceReport = ...,
    ) -> None: ...
    @classmethod
    def get_fields_and_field_types(cls) -> dict[str, str]: ...

class QueryOptions:
    THINK_DEFAULT: ClassVar[int]
    THINK_OFF: ClassVar[int]
    THINK_ON: ClassVar[int]
    camera: str
    cameras: list[str]
    images: list[Image]
    images_in_time: bool
    history_seconds: float
    history_frames: int
    think: int
    timeout: float
    max_tokens: int
    def __init__(
        self,
        *,
        camera: str = ...,
        cameras: list[str] = ...,
        images: list[Image] = ...,
        images_in_time: bool = ...,
        history_seconds: float = ...,
        history_frames: int = ...,
        think: int = ...,
        timeout: float = ...,
        max_tokens: int = ...,
    ) -> None: ...
    @classmethod
    def get_fields_and_field_types(cls) -> dict[str, str]: ...

class Robot:
    name: str
    type: str
    state: str
    skills: list[Skill]
    position: str
    reachable_places: list[str]
    holding: str
    def __init__(
        self,
        *,
        name: str = ...,
        type: str = ...,
        state: str = ...,
        skills: list[Skill] = ...,
        position: str = ...,
        reachable_places: list[str] = ...,
        holding: str = ...,
    ) -> None: ...
    @classmethod
    def get_fields_and_field_types(cls) -> dict[str, str]: ...

class Skill:
    EFFECT_NONE: ClassVar[int]
    EFFECT_GRASPS: ClassVar[int]
    EFFECT_RELEASES: ClassVar[int]
    name: str
    description: str
    arguments_schema: str
    effect: int
    object_argument: str
    def __init__(
        self,
        *,
        name: str = ...,
        description: str = ...,
        arguments_schema: str = ...,
        effect: int = ...,
        object_argument: str = ...,
    ) -> None: ...
    @classmethod
    def get_fields_and_field_types(cls) -> dict[str, str]: ...

class TextAnswer:
    header: Header
    question: str
    query: str
    camera: str
    text: str
    report: InferenceReport
    def __init__(
        self,
        *,
        header: Header = ...,
        question: str = ...,
        query: str = ...,
        camera: str = ...,
        text: str = ...,
        report: InferenceReport = ...,
    ) -> None: ...
    @classmethod
    def get_fields_and_field_types(cls) -> dict[str, str]: ...

class TraceIssue:
    NOT_SET: ClassVar[int]
    TOO_FEW: ClassVar[int]
    TOO_MANY: ClassVar[int]
    NOT_FINITE: ClassVar[int]
    NO_MOTION: ClassVar[int]
    OUTSIDE_WORKSPACE: ClassVar[int]
    OUT_OF_REACH: ClassVar[int]
    LONG_STEP: ClassVar[int]
    TOO_FAST: ClassVar[int]
    NOT_FREE: ClassVar[int]
    FAR_START: ClassVar[int]
    WRONG_DISTANCE: ClassVar[int]
    waypoint: int
    kind: int
    measured: float
    allowed: float
    text: str
    def __init__(
        self,
        *,
        waypoint: int = ...,
        kind: int = ...,
        measured: float = ...,
        allowed: float = ...,
        text: str = ...,
    ) -> None: ...
    @classmethod
    def get_fields_and_field_types(cls) -> dict[str, str]: ...

class Trajectory:
    header: Header
    instruction: str
    query: str
    camera: str
    image_width: int
    image_height: int
    waypoints: list[Waypoint]
    poses: list[Pose]
    issues: list[TraceIssue]
    unchecked: list[str]
    position_note: str
    report: InferenceReport
    def __init__(
        self,
        *,
        header: Header = ...,
        instruction: str = ...,
        query: str = ...,
        camera: str = ...,
        image_width: int = ...,
        image_height: int = ...,
        waypoints: list[Waypoint] = ...,
        poses: list[Pose] = ...,
        issues: list[TraceIssue] = ...,
        unchecked: list[str] = ...,
        position_note: str = ...,
        report: InferenceReport = ...,
    ) -> None: ...
    @classmethod
    def get_fields_and_field_types(cls) -> dict[str, str]: ...

class Waypoint:
    u: float
    v: float
    depth: float
    position: Point
    interpolated: bool
    clamped: bool
    def __init__(
        self,
        *,
        u: float = ...,
        v: float = ...,
        depth: float = ...,
        position: Point = ...,
        interpolated: bool = ...,
        clamped: bool = ...,
    ) -> None: ...
    @classmethod
    def get_fields_and_field_types(cls) -> dict[str, str]: ...
