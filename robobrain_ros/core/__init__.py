"""The core answers questions about images. It does not import ROS. See `robobrain_ros.local` for a quick start.

profile = profile_for("qwen2_5_vl")                      # or a checkpoint's folder
parse_answer(Task.POINT, text, profile)                  # the content of a text, in the model's own coordinates
await Brain(engine, profile).run(Query(Task.POINT, "the red mug", [image]))   # an answer in the image's pixels
"""

from robobrain_ros.core.brain import Brain
from robobrain_ros.core.imaging import read_image
from robobrain_ros.core.overlay import draw
from robobrain_ros.core.profiles import Profile, profile_for
from robobrain_ros.core.query import Answer, Defaults, Query, Task
from robobrain_ros.core.reading.answers import AnswerParser, parse_answer

__all__ = [
    "Answer",
    "AnswerParser",
    "Brain",
    "Defaults",
    "Profile",
    "Query",
    "Task",
    "draw",
    "parse_answer",
    "profile_for",
    "read_image",
]
