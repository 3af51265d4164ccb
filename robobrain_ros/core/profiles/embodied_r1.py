"""Embodied-R1 3B (pickxiguapi/Embodied-R1). The prompts are ``CONF_MODE`` of inference_example.py.

POINT is the authors' mode REG, AFFORDANCE is OFG, and TRAJECTORY is VTG. The mode RRG (a place for an object) is left out,
because no task asks for it. ASK is left out, because the authors publish only prompts of multiple-choice questions.
"""

from robobrain_ros.core.profiles.profile import AnswerForm, CoordinateRule, Profile, Source, TaskPrompt, Thinking
from robobrain_ros.core.profiles.writing import Writing
from robobrain_ros.core.query import Task

_SOURCE = Source("pickxiguapi/Embodied-R1", "inference_example.py", "e599e95")
_POINTS = Writing(r"\[{x}, ?{y}\]", opening=r"<point>\[", closing=r"\]</point>")
_TRACE = Writing(r"\[{x}, ?{y}\]", opening=r"<point>\[", closing=r"\]</point>", least=8, most=8)
_THINK = (
    "You FIRST think about the reasoning process as an internal monologue and then provide the final answer. "
    "The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags. "
    "The answer consists only of several coordinate points, with the overall format being: "
)

_POINT = TaskPrompt(
    "Provide one or more points coordinate of objects region {text}. "
    "The results are presented in a format <point>[[x1,y1], [x2,y2], ...]</point>. "
    f"{_THINK}<think> reasoning process here </think><answer><point>[[x1, y1], [x2, y2], ...]</point></answer>",
    AnswerForm.POINTS,
    writing=_POINTS,
    source=_SOURCE,
)
_AFFORDANCE = TaskPrompt(
    "Please provide the 2D points coordinate of the region this sentence describes: {text}. "
    "The results are presented in a format <point>[[x1,y1], [x2,y2], ...]</point>. "
    f"{_THINK}<think> reasoning process here </think><answer><point>[[x1, y1], [x2, y2], ...]</point></answer>",
    AnswerForm.POINTS,
    writing=_POINTS,
    source=_SOURCE,
)
_TRAJECTORY = TaskPrompt(
    "You are currently a robot performing robotic manipulation tasks. The task instruction is: {text}. "
    "Use 2D points to mark the manipulated object-centric waypoints to guide the robot to successfully complete the task. "
    "You must provide the points in the order of the trajectory, and the number of points must be 8. "
    f"{_THINK}<think> reasoning process here </think><answer><point>[[x1, y1], [x2, y2], ..., [x8, y8]]</point></answer>.",
    AnswerForm.WAYPOINTS,
    writing=_TRACE,
    source=_SOURCE,
)

PROFILE = Profile(
    name="embodied-r1",
    family="Embodied-R1",
    model_type="qwen2_5_vl",
    prompts={Task.POINT: _POINT, Task.AFFORDANCE: _AFFORDANCE, Task.TRAJECTORY: _TRAJECTORY},
    # inference_example.py draws the coordinates without scaling them, on images that Qwen2.5-VL's processor has resized.
    coordinates=CoordinateRule.PIXELS_OF_MODEL_IMAGE,
    cell=28,
    source=_SOURCE,
    thinking=Thinking(closing="</think><answer>", always=True),
    can_think=True,
    marks=("point",),
    names=r"embodied[-_ ]?r1(?![._]\d)",
    examples=("IffYuan/Embodied-R1-3B-v1",),
    sizes={2048: "3B"},
    based_on=("qwen2.5-vl",),
)
