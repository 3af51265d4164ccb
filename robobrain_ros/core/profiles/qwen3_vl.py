"""Qwen3-VL (QwenLM/Qwen3-VL), the Instruct editions. The Thinking editions have another chat template, and are rejected."""

from robobrain_ros.core.profiles.common import ASK
from robobrain_ros.core.profiles.profile import AnswerForm, CoordinateRule, Profile, Source, TaskPrompt
from robobrain_ros.core.profiles.qwen2_5_vl import BOXES
from robobrain_ros.core.profiles.writing import LABEL, json_items, json_object
from robobrain_ros.core.query import Task

_SOURCE = Source("QwenLM/Qwen3-VL", "cookbooks/spatial_understanding.ipynb", "9658872")

# The cookbook asks for points and for affordances in the same words.
_POINT = TaskPrompt(
    "Locate {text} in this image. Output the point coordinates in JSON format.",
    AnswerForm.POINTS,
    writing=json_items(json_object(r'"point_2d": ?\[{x}, ?{y}\]' + rf'(, ?"label": ?{LABEL})?'), bare=True),
    source=_SOURCE,
)
_GROUND = TaskPrompt(
    "Locate every instance that belongs to the following categories: '{text}'. Report bbox coordinates in JSON format.",
    AnswerForm.BOXES,
    writing=BOXES,
    source=Source("QwenLM/Qwen3-VL", "evaluation/ODinW-13/dataset_utils.py", "9658872"),
)

PROFILE = Profile(
    name="qwen3-vl",
    family="Qwen3-VL",
    model_type="qwen3_vl",
    prompts={Task.ASK: ASK, Task.POINT: _POINT, Task.AFFORDANCE: _POINT, Task.GROUND: _GROUND},
    coordinates=CoordinateRule.THOUSANDTHS,
    cell=32,
    source=_SOURCE,
    names=r"qwen3[-_ ]?vl",
    examples=("Qwen/Qwen3-VL-2B-Instruct", "Qwen/Qwen3-VL-4B-Instruct", "Qwen/Qwen3-VL-8B-Instruct"),
    other_names=r"qwen3[-_ ]?vl.*thinking",
    sizes={2048: "2B", 2560: "4B", 4096: "8B", 5120: "32B"},
)
