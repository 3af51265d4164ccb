"""Qwen2.5-VL (QwenLM/Qwen3-VL, which contains both generations). Only its grounding prompt could be read there.

The unit of the coordinates is stated in qwen-vl-finetune/tools/process_bbox.ipynb of the same commit: "the absolute coordinated
for the resized image".
"""

from robobrain_ros.core.profiles.common import ASK
from robobrain_ros.core.profiles.profile import AnswerForm, CoordinateRule, Profile, Source, TaskPrompt
from robobrain_ros.core.profiles.writing import LABEL, json_items, json_object
from robobrain_ros.core.query import Task

_SOURCE = Source("QwenLM/Qwen3-VL", "qwen-vl-finetune/README.md", "9658872")
BOXES = json_items(json_object(r'"bbox_2d": ?\[{x}, ?{y}, ?{x}, ?{y}\]' + rf'(, ?"label": ?{LABEL})?'), bare=True)
"""``[{"bbox_2d": [x1, y1, x2, y2], "label": "..."}, ...]``."""

_GROUND = TaskPrompt(
    "Locate {text} in this image and output the bbox coordinates in JSON format.",
    AnswerForm.BOXES,
    writing=BOXES,
    source=_SOURCE,
)

PROFILE = Profile(
    name="qwen2.5-vl",
    family="Qwen2.5-VL",
    model_type="qwen2_5_vl",
    prompts={Task.ASK: ASK, Task.GROUND: _GROUND},
    coordinates=CoordinateRule.PIXELS_OF_MODEL_IMAGE,
    cell=28,
    source=_SOURCE,
    names=r"qwen2[._]5[-_ ]?vl",
    examples=("Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen2.5-VL-32B-Instruct"),
    sizes={2048: "3B", 3584: "7B", 5120: "32B", 8192: "72B"},
)
