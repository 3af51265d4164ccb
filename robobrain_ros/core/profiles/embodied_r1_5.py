"""Embodied-R1.5 8B (pickxiguapi/Embodied-R1.5).

A prompt is ``QUESTION_TEMPLATE`` and then an entry of ``TYPE_TEMPLATE``, as in EasyR1/verl/utils/dataset.py, with which the model
was trained. The question about points is from inference/hf_example.py. For the other tasks, the user's text is the question. The
unit of the coordinates is stated in README.md of the same commit. The model reasons before ``<answer>``, without other tags.
"""

from robobrain_ros.core.profiles.profile import AnswerForm, CoordinateRule, Profile, Source, TaskPrompt, Thinking
from robobrain_ros.core.profiles.writing import MOST_WAYPOINTS, json_items, json_object
from robobrain_ros.core.query import Task

_SOURCE = Source("pickxiguapi/Embodied-R1.5", "EasyR1/verl/utils/dataset.py", "b38627f")
_QUESTION = (
    "\nPlease answer this question based on the visual content."
    "You FIRST think about the reasoning process as an internal monologue and then provide the final answer."
    "At the end, you must output the final answer in the format:\n"
    "<answer><your_answer_here></answer>\n"
)
_POINT_TYPE = (
    "Please pointing to answer the question within the <answer>...</answer> tags.\n"
    'Example:\n<answer>```json\n[{"point_2d": [230, 138]}]\n```</answer>'
)
_BOX_TYPE = (
    "Please provide only the bounding box as JSON with key 'boxes' within the <answer>...</answer> tags.\n"
    'Example:\n<answer>{"boxes": [35, 227, 437, 932]}</answer>'
)
_TRACE_TYPE = (
    "Please provide only the ordered 2D waypoints with depth (in meters) as JSON with key 'point_2d' and 'depth' within the "
    "<answer>...</answer> tags.\n"
    'Example:\n<answer>```json\n[{"point_2d": [463, 599], "depth": 1.08}, {"point_2d": [458, 603], "depth": 1.08}, '
    '{"point_2d": [449, 612], "depth": 1.06}]\n```</answer>'
)
_TEXT_TYPE = (
    "Please provide only your text answer within the <answer>...</answer> tags.\n"
    "Example:\n<answer>The capital of France is Paris.</answer>"
)

_POINT = TaskPrompt(
    "Provide one or more points coordinate of objects region this sentence describes: {text}. The answer should be presented in "
    f'JSON format as follows: [{{"point_2d": [x, y]}}].{_QUESTION}{_POINT_TYPE}',
    AnswerForm.POINTS,
    writing=json_items(json_object(r'"point_2d": ?\[{x}, ?{y}\]')),
    source=_SOURCE,
)
_GROUND = TaskPrompt(
    f"{{text}}{_QUESTION}{_BOX_TYPE}",
    AnswerForm.BOXES,
    ends_sentence=False,
    writing=json_items(json_object(r'"boxes": ?\[{x}, ?{y}, ?{x}, ?{y}\]'), bare=True),
    source=_SOURCE,
)
_TRAJECTORY = TaskPrompt(
    f"{{text}}{_QUESTION}{_TRACE_TYPE}",
    AnswerForm.WAYPOINTS,
    ends_sentence=False,
    writing=json_items(json_object(r'"point_2d": ?\[{x}, ?{y}\]', '"depth": ?{depth}'), most=MOST_WAYPOINTS),
    source=_SOURCE,
)
_ASK = TaskPrompt(f"{{text}}{_QUESTION}{_TEXT_TYPE}", AnswerForm.TEXT, ends_sentence=False, source=_SOURCE)

PROFILE = Profile(
    name="embodied-r1.5",
    family="Embodied-R1.5",
    model_type="qwen3_vl",
    prompts={
        Task.ASK: _ASK,
        Task.POINT: _POINT,
        Task.AFFORDANCE: _POINT,
        Task.TRAJECTORY: _TRAJECTORY,
        Task.GROUND: _GROUND,
    },
    coordinates=CoordinateRule.THOUSANDTHS,
    cell=32,
    source=_SOURCE,
    thinking=Thinking(opening="", closing="<answer>", always=True),
    can_think=True,
    names=r"embodied[-_ ]?r1[._]5",
    examples=("IffYuan/Embodied-R1.5",),
    other_names=r"embodied[-_ ]?r1[._]5[-_ ]?vla",  # These are action models.
    sizes={4096: "8B"},
    based_on=("qwen3-vl",),
)
