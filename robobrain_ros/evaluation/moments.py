"""Questions about several images of one view, from the oldest to the newest: what moved, and what fell.

The images are frames of a rollout. The answers follow from the layouts of the frames, so they are exact.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from robobrain_ros.core.query import Task
from robobrain_ros.demo import rearrange
from robobrain_ros.demo.layout import Layout, Thing
from robobrain_ros.evaluation.question import Question
from robobrain_ros.evaluation.rollouts import Disturbance, Frame, Rollout, make_rollout

KINDS = ("what moved", "moved", "fell")
"""Kinds of questions: which objects moved, whether an object moved, and whether an object fell."""
_WHAT_MOVED = ("What moved?", "What has moved?", "Which object moved?", "Which objects moved?")
_MOVED = ("Did the {} move?", "Has the {} moved?")
_FELL = ("Did the {} fall?", "Has the {} fallen?")
_ANY_FELL = ("Did an object fall?", "Did something fall?", "What fell?")
_FAR = 0.02
"""Metres between the places of an object that has moved, or fallen. Smaller distances are difficult to see."""
_MOST_NAMES = 2
"""No question asks what moved if more objects than this number moved."""
_DISTURBANCES: dict[Disturbance | None, float] = {
    Disturbance.SLIP: 0.65,
    None: 0.15,
    Disturbance.MOVED: 0.08,
    Disturbance.TAKEN: 0.12,
}
_SHARE_OF_DISTURBANCES = 0.8
"""Probability that a clip must show the rollout's disturbance, if it has one."""
_LONGEST_STRIDE = 3
"""Largest number of frames of the rollout from one image of a clip to the next."""
_SHORTEST, _LONGEST = 0.3, 2.0
"""Seconds between two successive images of a clip."""
_NEXT_SEED = 1_000_003
"""Distance to the seed of the next rollout, if a rollout has too few frames."""


@dataclass(frozen=True)
class Clip:
    """Frames of a rollout, from the oldest to the newest.

    :param times: the time of each frame in seconds before the newest one, see `core.query.Query.image_times`.
    :param moved: names of the objects whose positions in the first and in the last frame differ by more than `_FAR`.
    :param fallen: names of the objects that fell by more than `_FAR` between the first and the last frame.
    """

    frames: tuple[Frame, ...]
    times: tuple[float, ...]
    moved: tuple[str, ...]
    fallen: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """Names of all objects on the table."""
        return [thing.name for thing in self.frames[0].layout.things]


def make_clip(seed: int, count: int, size: tuple[int, int] = (640, 480)) -> Clip:
    """Return the clip of a seed. The same arguments give the same clip.

    :param count: number of frames.
    :param size: (width, height) of the images in pixels.
    """
    rng = random.Random(f"clip {seed}")
    while True:
        disturbance = rng.choices(list(_DISTURBANCES), weights=list(_DISTURBANCES.values()))[0]
        rollout = make_rollout(seed, size, disturbance)
        if len(rollout.frames) >= count:
            return clip_of(rollout, rng, count)
        seed += _NEXT_SEED


def clip_of(rollout: Rollout, rng: random.Random, count: int) -> Clip:
    """Return ``count`` frames of a rollout, evenly spaced. If there was a disturbance, most of these clips show it."""
    frames = rollout.frames
    stride = min(rng.randint(1, _LONGEST_STRIDE), (len(frames) - 1) // (count - 1))
    starts = range(len(frames) - stride * (count - 1))
    disturbance = next((index for index, frame in enumerate(frames) if frame.disturbance is not None), None)
    showing = [start for start in starts if disturbance is not None and start < disturbance <= start + stride * (count - 1)]
    start = rng.choice(showing if showing and rng.random() < _SHARE_OF_DISTURBANCES else starts)
    chosen = range(start, start + stride * (count - 1) + 1, stride)
    space = rng.uniform(_SHORTEST, _LONGEST)
    times = [-space * (count - 1 - index + rng.uniform(-0.1, 0.1)) for index in range(count - 1)]
    before, after = frames[chosen[0]].layout, frames[chosen[-1]].layout
    moved = tuple(thing.name for thing in before.things if _distance(thing, after) > _FAR)
    slips = [index for index in range(chosen[0] + 1, chosen[-1] + 1) if frames[index].disturbance is Disturbance.SLIP]
    fallen = tuple(name for index in slips for name in _fallen(frames[index - 1].layout, frames[index].layout))
    return Clip(tuple(frames[index] for index in chosen), (*(round(time, 2) for time in times), 0.0), moved, fallen)


def _distance(thing: Thing, after: Layout) -> float:
    other = rearrange.find(after, thing.name)
    return math.dist((thing.x, thing.y, thing.z), (other.x, other.y, other.z))


def _fallen(before: Layout, after: Layout) -> list[str]:
    """Return the names of the objects that are lower. An object that slips as soon as it is grasped lies on the table already."""
    return [thing.name for thing in before.things if thing.z - rearrange.find(after, thing.name).z > _FAR]


def question_about(clip: Clip, kind: str, rng: random.Random) -> Question | None:
    """Return a question of one of the `KINDS` about a clip. None: the clip permits none."""
    if kind == "what moved":
        text = rng.choice(_WHAT_MOVED)
        return _question(kind, text, f"{_listed(clip.moved)} moved.") if len(clip.moved) <= _MOST_NAMES else None
    true = clip.moved if kind == "moved" else clip.fallen
    if kind == "fell" and rng.random() < 0.3:
        return _question(kind, rng.choice(_ANY_FELL), f"{_listed(true)} fell.")
    others = [name for name in clip.names if name not in true]
    # An object that moved, but did not fall, is easily confused with one that fell.
    near = [name for name in others if name in clip.moved]
    pool: Sequence[str] = true if true and rng.random() < 0.5 else near if near and rng.random() < 0.6 else others
    if not pool:
        return None
    name = rng.choice(pool)
    asked, verb = (_MOVED, "move") if kind == "moved" else (_FELL, "fall")
    past = {"move": "moved", "fall": "fell"}[verb]
    words = f"Yes, the {name} {past}." if name in true else f"No, the {name} did not {verb}."
    return _question(kind, rng.choice(asked).format(name), words)


def _listed(names: Sequence[str]) -> str:
    """Return names as the subject of a sentence."""
    return f"The {' and the '.join(names)}" if names else "Nothing"


def _question(kind: str, text: str, words: str) -> Question:
    return Question(Task.ASK, kind, text, words=words)
