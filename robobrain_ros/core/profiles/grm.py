"""GRM, the general reward models of FlagOpen/Robo-Dopamine. They answer only with scores, so they have no grid.

GRM-3B was trained from RoboBrain 2.0 3B, the 8B from RoboBrain 2.5 8B (README.md at 7d4415f). The previews of GRM 2.0 have the
architecture of RoboBrain 2.5.
"""

from robobrain_ros.core.profiles.common import GRM, PROGRESS
from robobrain_ros.core.profiles.profile import CoordinateRule, Profile
from robobrain_ros.core.query import Task

_NAMES = r"robo[-_ ]?dopamine|(^|[-_/ ])grm([-_ ]|$)"

ON_2_0 = Profile(
    name="grm-3b",
    family="GRM",
    model_type="qwen2_5_vl",
    prompts={Task.PROGRESS: PROGRESS},
    coordinates=CoordinateRule.PIXELS_OF_MODEL_IMAGE,
    cell=28,
    source=GRM,
    names=_NAMES,
    examples=("tanhuajie2001/Robo-Dopamine-GRM-3B",),
    sizes={2048: "3B"},
    based_on=("robobrain2.0", "qwen2.5-vl"),
)
ON_2_5 = Profile(
    name="grm-8b",
    family="GRM",
    model_type="qwen3_vl",
    prompts={Task.PROGRESS: PROGRESS},
    coordinates=CoordinateRule.THOUSANDTHS,
    cell=32,
    source=GRM,
    names=_NAMES,
    examples=("tanhuajie2001/Robo-Dopamine-GRM-2.0-4B-Preview", "tanhuajie2001/Robo-Dopamine-GRM-2.0-8B-Preview"),
    sizes={2560: "4B", 4096: "8B"},
    based_on=("robobrain2.5", "qwen3-vl"),
)
PROFILES = (ON_2_0, ON_2_5)
