"""Written by scripts/message_stubs.py: do not edit."""

from typing import ClassVar

from sensor_msgs.msg import (
    Image,
)

from robobrain_ros.msg import (
    AffordanceArea,
    AffordancePoint,
    Affordances,
    Outcome,
    Plan,
    PlanContext,
    PlanStep,
    Progress,
    QueryOptions,
    TextAnswer,
    Trajectory,
    Waypoint,
)

class RunTask:
    class Goal:
        task: str
        instruction: str
        options: QueryOptions
        context: PlanContext
        def __init__(
            self,
            *,
            task: str = ...,
            instruction: str = ...,
            options: QueryOptions = ...,
            context: PlanContext = ...,
        ) -> None: ...
        @classmethod
        def get_fields_and_field_types(cls) -> dict[str, str]: ...

    class Result:
        outcome: Outcome
        affordances: Affordances
        trajectory: Trajectory
        plan: Plan
        answer: TextAnswer
        def __init__(
            self,
            *,
            outcome: Outcome = ...,
            affordances: Affordances = ...,
            trajectory: Trajectory = ...,
            plan: Plan = ...,
            answer: TextAnswer = ...,
        ) -> None: ...
        @classmethod
        def get_fields_and_field_types(cls) -> dict[str, str]: ...

    class Feedback:
        sequence: int
        text: str
        thinking: bool
        points: list[AffordancePoint]
        areas: list[AffordanceArea]
        waypoints: list[Waypoint]
        steps: list[PlanStep]
        def __init__(
            self,
            *,
            sequence: int = ...,
            text: str = ...,
            thinking: bool = ...,
            points: list[AffordancePoint] = ...,
            areas: list[AffordanceArea] = ...,
            waypoints: list[Waypoint] = ...,
            steps: list[PlanStep] = ...,
        ) -> None: ...
        @classmethod
        def get_fields_and_field_types(cls) -> dict[str, str]: ...

class WatchTask:
    class Goal:
        task: str
        reference_start: Image
        reference_end: Image
        options: QueryOptions
        rate: float
        success: float
        regression: float
        stall: float
        timeout: float
        confirmations: int
        regression_confirmations: int
        def __init__(
            self,
            *,
            task: str = ...,
            reference_start: Image = ...,
            reference_end: Image = ...,
            options: QueryOptions = ...,
            rate: float = ...,
            success: float = ...,
            regression: float = ...,
            stall: float = ...,
            timeout: float = ...,
            confirmations: int = ...,
            regression_confirmations: int = ...,
        ) -> None: ...
        @classmethod
        def get_fields_and_field_types(cls) -> dict[str, str]: ...

    class Result:
        SUCCEEDED: ClassVar[int]
        REGRESSED: ClassVar[int]
        STALLED: ClassVar[int]
        TIMED_OUT: ClassVar[int]
        outcome: Outcome
        state: int
        peak: float
        final: float
        estimates: int
        skipped: int
        failed: int
        progress: Progress
        def __init__(
            self,
            *,
            outcome: Outcome = ...,
            state: int = ...,
            peak: float = ...,
            final: float = ...,
            estimates: int = ...,
            skipped: int = ...,
            failed: int = ...,
            progress: Progress = ...,
        ) -> None: ...
        @classmethod
        def get_fields_and_field_types(cls) -> dict[str, str]: ...

    class Feedback:
        progress: Progress
        def __init__(
            self,
            *,
            progress: Progress = ...,
        ) -> None: ...
        @classmethod
        def get_fields_and_field_types(cls) -> dict[str, str]: ...
