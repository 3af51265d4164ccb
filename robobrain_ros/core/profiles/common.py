"""Parts of profiles that several families share."""

from robobrain_ros.core.profiles.profile import TEXT_SLOT, AnswerForm, Source, TaskPrompt
from robobrain_ros.core.profiles.writing import MOST_WAYPOINTS, Writing
from robobrain_ros.core.progress_prompt import GRM_PROMPT

ASK = TaskPrompt(TEXT_SLOT, AnswerForm.TEXT, ends_sentence=False)
"""A question without any other text."""
# This prompt is not from RoboBrain, which has no planning prompt. It is worded like the official planning examples, and adds
# the form of the answer.
PLAN = TaskPrompt(
    'The task is "{text}". What are the steps to complete the task? Answer with a numbered list, one step per line.',
    AnswerForm.STEPS,
)
GRM = Source("FlagOpen/Robo-Dopamine", "examples/inference.py", "7d4415f")
# The GRM models have the architectures of RoboBrain 2.0 and 2.5. The pixel limit is that of examples/inference.py of
# FlagOpen/Robo-Dopamine, which never asks a model to think.
PROGRESS = TaskPrompt(GRM_PROMPT, AnswerForm.SCORE, ends_sentence=False, tagged=False, max_pixels=76_800, source=GRM)

POINT_TUPLES = Writing(r"\({x}, ?{y}\)", optional=True)
"""``[(x1, y1), (x2, y2), ...]``."""
WAYPOINT_TUPLES = Writing(r"\({x}, ?{y}\)", most=MOST_WAYPOINTS, optional=True)
DEEP_WAYPOINT_TUPLES = Writing(r"\({x}, ?{y}, ?{depth}\)", most=MOST_WAYPOINTS, optional=True)
"""``[(x1, y1, d1), (x2, y2, d2), ...]``."""
BOX_LIST = Writing("{x}, ?{y}, ?{x}, ?{y}", most=1, optional=True)
"""``[x1, y1, x2, y2]``."""
