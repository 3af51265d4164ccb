"""RoboBrain 2.0 (FlagOpen/RoboBrain2.0). The prompts are copied from inference.py: the model was trained with them.

RoboBrain 2.0 answers in pixels, although its prompts contain "normalized".
"""

from robobrain_ros.core.profiles.common import ASK, BOX_LIST, PLAN, POINT_TUPLES, PROGRESS, WAYPOINT_TUPLES
from robobrain_ros.core.profiles.profile import AnswerForm, CoordinateRule, Profile, Source, TaskPrompt, Thinking
from robobrain_ros.core.query import Task

_SOURCE = Source("FlagOpen/RoboBrain2.0", "inference.py", "8b8b3bd")

GROUND = TaskPrompt(
    "Please provide the bounding box coordinate of the region this sentence describes: {text}.",
    AnswerForm.BOXES,
    writing=BOX_LIST,
    source=_SOURCE,
)
_POINT = TaskPrompt(
    "{text}. Your answer should be formatted as a list of tuples, i.e. [(x1, y1), (x2, y2), ...], where each tuple contains "
    "the x and y coordinates of a point satisfying the conditions above. The coordinates should indicate the normalized pixel "
    "locations of the points in the image.",
    AnswerForm.POINTS,
    writing=POINT_TUPLES,
    source=_SOURCE,
)
_AFFORDANCE = TaskPrompt(
    'You are a robot using the joint control. The task is "{text}". Please predict a possible affordance area of the end '
    "effector.",
    AnswerForm.BOXES,
    writing=BOX_LIST,
    source=_SOURCE,
)
_TRAJECTORY = TaskPrompt(
    'You are a robot using the joint control. The task is "{text}". Please predict up to 10 key trajectory points to complete '
    "the task. Your answer should be formatted as a list of tuples, i.e. [[x1, y1], [x2, y2], ...], where each tuple contains "
    "the x and y coordinates of a point.",
    AnswerForm.WAYPOINTS,
    writing=WAYPOINT_TUPLES,
    source=_SOURCE,
)

PROFILE = Profile(
    name="robobrain2.0",
    family="RoboBrain 2.0",
    model_type="qwen2_5_vl",
    prompts={
        Task.ASK: ASK,
        Task.POINT: _POINT,
        Task.AFFORDANCE: _AFFORDANCE,
        Task.TRAJECTORY: _TRAJECTORY,
        Task.GROUND: GROUND,
        Task.PLAN: PLAN,
        Task.PROGRESS: PROGRESS,
    },
    coordinates=CoordinateRule.PIXELS_OF_MODEL_IMAGE,
    cell=28,
    source=_SOURCE,
    thinking=Thinking(closing="</think><answer>", skipped="<think></think><answer>"),
    can_think=True,
    names=r"robobrain[-_ ]?2[._]0",
    examples=("BAAI/RoboBrain2.0-3B", "BAAI/RoboBrain2.0-7B", "BAAI/RoboBrain2.0-32B"),
    other_names=r"robobrain[-_ ]?(x\d|dex)",  # These are action models.
    sizes={2048: "3B", 3584: "7B", 5120: "32B"},
    based_on=("qwen2.5-vl",),
)
