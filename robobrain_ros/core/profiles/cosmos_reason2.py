"""Cosmos-Reason2 (nvidia-cosmos/cosmos-reason2).

The prompt of a trajectory speaks of pixels, but its coordinates are thousandths: reason_guide.md of nvidia-cosmos/cosmos-cookbook
states this, and has the example of the tests. The text that asks the model to think is ``REASONING_PROMPT`` in
cosmos_reason2_utils/cosmos_reason2_utils/text.py. Bounding boxes are left out, because no source states the order of their
coordinates.
"""

from robobrain_ros.core.profiles.common import ASK
from robobrain_ros.core.profiles.profile import AnswerForm, CoordinateRule, Profile, Source, TaskPrompt, Thinking
from robobrain_ros.core.profiles.writing import LABEL, json_items, json_object
from robobrain_ros.core.query import Task

_THINK = (
    "\n\nAnswer the question using the following format:\n\n<think>\nYour reasoning.\n</think>\n\n"
    "Write your final answer immediately after the </think> tag."
)

_TRAJECTORY = TaskPrompt(
    'You are given the task "{text}". Specify the 2D trajectory your end effector should follow in pixel space. Return the '
    'trajectory coordinates in JSON format like this: {"point_2d": [x, y], "label": "gripper trajectory"}.',
    AnswerForm.WAYPOINTS,
    writing=json_items(json_object(r'"point_2d": ?\[{x}, ?{y}\]', f'"label": ?{LABEL}'), bare=True),
    source=Source("nvidia-cosmos/cosmos-reason2", "prompts/robot_cot.yaml", "a3b4a1d"),
)

PROFILE = Profile(
    name="cosmos-reason2",
    family="Cosmos-Reason2",
    model_type="qwen3_vl",
    prompts={Task.ASK: ASK, Task.TRAJECTORY: _TRAJECTORY},
    coordinates=CoordinateRule.THOUSANDTHS,
    cell=32,
    source=Source("nvidia-cosmos/cosmos-cookbook", "docs/getting_started/prompt_guide/reason_guide.md", "48a30c0"),
    thinking=Thinking(request=_THINK),
    can_think=True,
    names=r"cosmos[-_ ]?reason[-_ ]?2",
    examples=("nvidia/Cosmos-Reason2-2B", "nvidia/Cosmos-Reason2-8B", "nvidia/Cosmos-Reason2-32B"),
    sizes={2048: "2B", 4096: "8B", 5120: "32B"},
    based_on=("qwen3-vl",),
)
