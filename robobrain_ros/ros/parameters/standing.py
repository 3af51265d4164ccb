"""The parameters that describe a standing query."""

from robobrain_ros.core.hysteresis import DEFAULT_STABLE_FRAMES
from robobrain_ros.core.query import CAMERA_TASKS, Task
from robobrain_ros.engine.base import MOST_IMAGES
from robobrain_ros.ros.limits import (
    LEAST_CONFIDENCE,
    LEAST_HISTORY,
    LEAST_RATE,
    LONGEST_HISTORY,
    MOST_RATE,
    MOST_STABLE_FRAMES,
    MOST_TEXT,
)
from robobrain_ros.ros.parameters.parameter import Parameter

STANDING_PREFIX = "standing_query."


def standing_query_parameters(name: str) -> tuple[Parameter, ...]:
    """The parameters that each standing query of the parameter ``standing_queries`` has."""
    prefix = f"{STANDING_PREFIX}{name}."
    return (
        Parameter(f"{prefix}task", Task.POINT.value, "Task of the query.", choices=tuple(task.value for task in CAMERA_TASKS)),
        Parameter(
            f"{prefix}instruction",
            "",
            f"Instruction or question of the query, 1 to {MOST_TEXT} characters. Required: with the default, an empty text, "
            "configure fails.",
        ),
        Parameter(
            f"{prefix}rate",
            1.0,
            "Maximum requests per second. 0: no limit. In all cases, the node sends at most one request for each image, and only "
            "after the previous request of the query has ended.",
            minimum=0.0,
            maximum=MOST_RATE,
            least=LEAST_RATE,
        ),
        Parameter(f"{prefix}camera", "", "Name of the camera. Empty: the first camera."),
        Parameter(
            f"{prefix}condition",
            False,
            "Whether the instruction is a yes/no question (task ask only). Changes of the answer appear on ~/events "
            "(docs/how-to/events.md).",
        ),
        Parameter(
            f"{prefix}stable_frames",
            DEFAULT_STABLE_FRAMES,
            "With condition: number of equal answers in a row after which the node publishes an event.",
            minimum=1,
            maximum=MOST_STABLE_FRAMES,
        ),
        Parameter(
            f"{prefix}min_confidence",
            LEAST_CONFIDENCE,
            "With condition: the node ignores answers with a lower confidence than this. The confidence is the model's "
            "probability of its answer, yes or no. Some remote servers do not report it. The node uses all answers of these "
            "servers.",
            minimum=LEAST_CONFIDENCE,
            maximum=1.0,
        ),
        Parameter(
            f"{prefix}cameras", [], "Names of several cameras, for plan and ask. A new image of the first one triggers a request."
        ),
        Parameter(
            f"{prefix}history_seconds",
            0.0,
            "For plan and ask: seconds from the oldest to the newest image that the model gets, at most "
            "<camera>.history_seconds. 0: only the newest image.",
            minimum=0.0,
            maximum=LONGEST_HISTORY,
            least=LEAST_HISTORY,
        ),
        Parameter(
            f"{prefix}history_frames",
            0,
            "For plan and ask: number of images that the model gets, including the newest one, evenly spaced over "
            "history_seconds. 0: only the newest image.",
            minimum=0,
            maximum=MOST_IMAGES,
            least=2,
        ),
    )
