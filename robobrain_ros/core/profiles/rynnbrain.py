"""RynnBrain 2B, 4B and 8B (alibaba-damo-academy/RynnBrain). The prompts are those of the cookbooks for a single image.

README.md @ 24d35c0 lists the 2B and the 8B, and README.md of July 2026 also the 4B. RynnBrain-30B-A3B has the model type
qwen3_vl_moe, which is not supported. RynnBrain-Plan, -Nav and -CoP (also called -Cot) have other prompts, and are rejected. So is
RynnBrain 1.1, which was made from Qwen3.5: its cookbooks could not be read.
"""

from robobrain_ros.core.profiles.common import ASK
from robobrain_ros.core.profiles.profile import AnswerForm, CoordinateRule, Profile, Source, TaskPrompt
from robobrain_ros.core.profiles.writing import MOST_POINTS, MOST_WAYPOINTS, Writing
from robobrain_ros.core.query import Task


def _source(cookbook: str) -> Source:
    return Source("alibaba-damo-academy/RynnBrain", f"cookbooks/{cookbook}.ipynb", "24d35c0")


def _tagged(tag: str, item: str, most: int) -> Writing:
    return Writing(item, opening=f"<{tag}> ", closing=f" </{tag}>", most=most)


_TUPLE = r"\({x}, ?{y}\)"
_POINT = TaskPrompt(
    "{text}\nExpress the coordinates as a tuple sequence in the format <area> (x1, y1), (x2, y2), ... </area> with all "
    "coordinate values normalized to the standardized pixel coordinate system spanning 0 to 1000.",
    AnswerForm.POINTS,
    ends_sentence=False,
    writing=_tagged("area", _TUPLE, MOST_POINTS),
    source=_source("5_area_location"),
)
_AFFORDANCE = TaskPrompt(
    "{text}\nIdentify one affordance point and provide its normalized pixel coordinates. The x and y values must be between "
    "0 and 1000. Output format: <affordance> (x, y) </affordance>.",
    AnswerForm.POINTS,
    ends_sentence=False,
    writing=_tagged("affordance", _TUPLE, 1),
    source=_source("6_affordance_location"),
)
_TRAJECTORY = TaskPrompt(
    "{text}\nPredict a trajectory comprising up to 10 key points. Return coordinates in the format <trajectory> (x1, y1), "
    "(x2, y2), ... </trajectory> with all values normalized to the [0, 1000] range.",
    AnswerForm.WAYPOINTS,
    ends_sentence=False,
    writing=_tagged("trajectory", _TUPLE, MOST_WAYPOINTS),
    source=_source("7_trajectory_location"),
)
_GROUND = TaskPrompt(
    "{text}\nGenerate coordinates for one object bounding box. Constraints: x1,y1,x2,y2 ∈ [0,1000]. Response must be in the "
    "format: <object> (x1, y1), (x2, y2) </object>",
    AnswerForm.BOXES,
    ends_sentence=False,
    writing=_tagged("object", f"{_TUPLE}, ?{_TUPLE}", 1),
    source=_source("4_object_location"),
)

PROFILE = Profile(
    name="rynnbrain",
    family="RynnBrain",
    model_type="qwen3_vl",
    prompts={
        Task.ASK: ASK,
        Task.POINT: _POINT,
        Task.AFFORDANCE: _AFFORDANCE,
        Task.TRAJECTORY: _TRAJECTORY,
        Task.GROUND: _GROUND,
    },
    coordinates=CoordinateRule.THOUSANDTHS,
    cell=32,
    source=_source("4_object_location"),
    marks=("object", "area", "affordance", "trajectory"),
    names=r"rynn[-_ ]?brain",
    examples=tuple(f"Alibaba-DAMO-Academy/RynnBrain-{size}" for size in ("2B", "4B", "8B")),
    other_names=r"rynn[-_ ]?brain(.*[-_ ](plan|nav|co[pt])(?![a-z])|[-_ ]?1[._]1)",
    sizes={2048: "2B", 2560: "4B", 4096: "8B"},
    based_on=("qwen3-vl",),
)
