"""Written by scripts/message_stubs.py: do not edit."""

from robobrain_ros.msg import (
    AffordanceArea,
    AffordancePoint,
    Affordances,
    Outcome,
    Plan,
    PlanContext,
    PlanStep,
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
