"""Written by scripts/message_stubs.py: do not edit."""

from collections.abc import Sequence

from sensor_msgs.msg import (
    Image,
)

from robobrain_ros.msg import (
    Affordances,
    ApproachPose,
    Outcome,
    Plan,
    PlanContext,
    Progress,
    QueryOptions,
    TextAnswer,
    Trajectory,
)

class Approach:
    class Request:
        instruction: str
        task: str
        pixels: Sequence[float]
        direction: str
        distance: float
        floor_distance: float
        options: QueryOptions
        def __init__(
            self,
            *,
            instruction: str = ...,
            task: str = ...,
            pixels: Sequence[float] = ...,
            direction: str = ...,
            distance: float = ...,
            floor_distance: float = ...,
            options: QueryOptions = ...,
        ) -> None: ...
        @classmethod
        def get_fields_and_field_types(cls) -> dict[str, str]: ...

    class Response:
        outcome: Outcome
        approach: ApproachPose
        affordances: Affordances
        def __init__(
            self,
            *,
            outcome: Outcome = ...,
            approach: ApproachPose = ...,
            affordances: Affordances = ...,
        ) -> None: ...
        @classmethod
        def get_fields_and_field_types(cls) -> dict[str, str]: ...

class Ask:
    class Request:
        question: str
        options: QueryOptions
        def __init__(
            self,
            *,
            question: str = ...,
            options: QueryOptions = ...,
        ) -> None: ...
        @classmethod
        def get_fields_and_field_types(cls) -> dict[str, str]: ...

    class Response:
        outcome: Outcome
        answer: TextAnswer
        def __init__(
            self,
            *,
            outcome: Outcome = ...,
            answer: TextAnswer = ...,
        ) -> None: ...
        @classmethod
        def get_fields_and_field_types(cls) -> dict[str, str]: ...

class EstimateProgress:
    class Request:
        task: str
        reference_start: Image
        reference_end: Image
        before: list[Image]
        after: list[Image]
        options: QueryOptions
        def __init__(
            self,
            *,
            task: str = ...,
            reference_start: Image = ...,
            reference_end: Image = ...,
            before: list[Image] = ...,
            after: list[Image] = ...,
            options: QueryOptions = ...,
        ) -> None: ...
        @classmethod
        def get_fields_and_field_types(cls) -> dict[str, str]: ...

    class Response:
        outcome: Outcome
        progress: Progress
        def __init__(
            self,
            *,
            outcome: Outcome = ...,
            progress: Progress = ...,
        ) -> None: ...
        @classmethod
        def get_fields_and_field_types(cls) -> dict[str, str]: ...

class Locate:
    class Request:
        instruction: str
        options: QueryOptions
        def __init__(
            self,
            *,
            instruction: str = ...,
            options: QueryOptions = ...,
        ) -> None: ...
        @classmethod
        def get_fields_and_field_types(cls) -> dict[str, str]: ...

    class Response:
        outcome: Outcome
        affordances: Affordances
        def __init__(
            self,
            *,
            outcome: Outcome = ...,
            affordances: Affordances = ...,
        ) -> None: ...
        @classmethod
        def get_fields_and_field_types(cls) -> dict[str, str]: ...

class MakePlan:
    class Request:
        task: str
        options: QueryOptions
        context: PlanContext
        def __init__(
            self,
            *,
            task: str = ...,
            options: QueryOptions = ...,
            context: PlanContext = ...,
        ) -> None: ...
        @classmethod
        def get_fields_and_field_types(cls) -> dict[str, str]: ...

    class Response:
        outcome: Outcome
        plan: Plan
        def __init__(
            self,
            *,
            outcome: Outcome = ...,
            plan: Plan = ...,
        ) -> None: ...
        @classmethod
        def get_fields_and_field_types(cls) -> dict[str, str]: ...

class PredictTrajectory:
    class Request:
        instruction: str
        options: QueryOptions
        def __init__(
            self,
            *,
            instruction: str = ...,
            options: QueryOptions = ...,
        ) -> None: ...
        @classmethod
        def get_fields_and_field_types(cls) -> dict[str, str]: ...

    class Response:
        outcome: Outcome
        trajectory: Trajectory
        def __init__(
            self,
            *,
            outcome: Outcome = ...,
            trajectory: Trajectory = ...,
        ) -> None: ...
        @classmethod
        def get_fields_and_field_types(cls) -> dict[str, str]: ...

class SetStandingQuery:
    class Request:
        name: str
        enabled: bool
        task: str
        instruction: str
        rate: float
        options: QueryOptions
        condition: bool
        stable_frames: int
        min_confidence: float
        def __init__(
            self,
            *,
            name: str = ...,
            enabled: bool = ...,
            task: str = ...,
            instruction: str = ...,
            rate: float = ...,
            options: QueryOptions = ...,
            condition: bool = ...,
            stable_frames: int = ...,
            min_confidence: float = ...,
        ) -> None: ...
        @classmethod
        def get_fields_and_field_types(cls) -> dict[str, str]: ...

    class Response:
        outcome: Outcome
        names: list[str]
        def __init__(
            self,
            *,
            outcome: Outcome = ...,
            names: list[str] = ...,
        ) -> None: ...
        @classmethod
        def get_fields_and_field_types(cls) -> dict[str, str]: ...
