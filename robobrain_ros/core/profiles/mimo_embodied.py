"""MiMo-Embodied 7B (XiaomiMiMo/MiMo-Embodied).

The authors evaluate points and affordances with one prompt, ``PROMPT_MIMO_EMBODIED``. They compare the coordinates with masks of
the resized image (``resize_mask`` in lmms_eval/tasks/_task_utils/eval_utils.py). The texts that open and skip the thinking are
those of lmms_eval/models/mivllm.py.
"""

from robobrain_ros.core.profiles.common import ASK
from robobrain_ros.core.profiles.profile import AnswerForm, CoordinateRule, Profile, Source, TaskPrompt, Thinking
from robobrain_ros.core.profiles.writing import LABEL, json_items, json_object
from robobrain_ros.core.query import Task

_PAIRS = r"(\[{x}, ?{y}\]|\[\[{x}, ?{y}\](, ?\[{x}, ?{y}\]){0,9}\])"

_POINT = TaskPrompt(
    'Based on the description: "{text}", locate points matching the description. Output a JSON in the format [{"points": [...], '
    '"label": "{the_whole_description}"}, ...].',
    AnswerForm.POINTS,
    writing=json_items(json_object(f'"points": ?{_PAIRS}', f'"label": ?{LABEL}'), most=5),
    source=Source("XiaomiMiMo/MiMo-Embodied", "lmms_eval/tasks/where2place_point/utils.py", "0bee4b6"),
)

PROFILE = Profile(
    name="mimo-embodied",
    family="MiMo-Embodied",
    model_type="qwen2_5_vl",
    prompts={Task.ASK: ASK, Task.POINT: _POINT, Task.AFFORDANCE: _POINT},
    coordinates=CoordinateRule.PIXELS_OF_MODEL_IMAGE,
    cell=28,
    source=Source("XiaomiMiMo/MiMo-Embodied", "lmms_eval/tasks/_task_utils/eval_utils.py", "0bee4b6"),
    thinking=Thinking(skipped="<think>\n</think>\n"),
    can_think=True,
    names=r"mimo[-_ ]?embodied",
    examples=("XiaomiMiMo/MiMo-Embodied-7B",),
)
