"""RoboBrain 2.5 (FlagOpen/RoboBrain2.5). The prompts are copied from inference.py: the model was trained with them."""

from robobrain_ros.core.profiles.common import ASK, DEEP_WAYPOINT_TUPLES, PLAN, POINT_TUPLES, PROGRESS
from robobrain_ros.core.profiles.profile import AnswerForm, CoordinateRule, Profile, Source, TaskPrompt
from robobrain_ros.core.profiles.robobrain2_0 import GROUND
from robobrain_ros.core.query import Task

_SOURCE = Source("FlagOpen/RoboBrain2.5", "inference.py", "")

_POINT = TaskPrompt(
    "{text}. Please provide its 2D coordinates. Your answer should be formatted as a tuple, i.e. [(x, y)], where the tuple "
    "contains the x and y coordinates of a point satisfying the conditions above.",
    AnswerForm.POINTS,
    writing=POINT_TUPLES,
    source=_SOURCE,
)
_TRAJECTORY = TaskPrompt(
    "Please predict 3D end-effector-centric waypoints to complete the task successfully. The task is "
    '"{text}". Your answer should be formatted as a list of tuples, i.e., [(x1, y1, d1), (x2, y2, d2), ...], where each tuple '
    "contains the x and y coordinates and the depth of the point.",
    AnswerForm.WAYPOINTS,
    writing=DEEP_WAYPOINT_TUPLES,
    source=_SOURCE,
)

PROFILE = Profile(
    name="robobrain2.5",
    family="RoboBrain 2.5",
    model_type="qwen3_vl",
    prompts={
        Task.ASK: ASK,
        Task.POINT: _POINT,
        # RoboBrain 2.5 has no affordance task. The prompt asks for a point.
        Task.AFFORDANCE: _POINT,
        Task.TRAJECTORY: _TRAJECTORY,
        Task.GROUND: GROUND,
        Task.PLAN: PLAN,
        Task.PROGRESS: PROGRESS,
    },
    coordinates=CoordinateRule.THOUSANDTHS,
    cell=32,
    source=_SOURCE,
    gives_depth=True,
    names=r"robobrain[-_ ]?2[._]5",
    examples=("BAAI/RoboBrain2.5-4B", "BAAI/RoboBrain2.5-8B-NV", "BAAI/RoboBrain2.5-8B-MT"),
    sizes={2560: "4B", 4096: "8B"},
    based_on=("qwen3-vl",),
)
