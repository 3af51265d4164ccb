"""Transforms between frames, and a buffer of them that gives the same results as tf2."""

import math
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from robobrain_ros.core.geometry import Floats
from robobrain_ros.core.messages.frames import quoted_frame

Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]

_QUATERNION_TOLERANCE = 0.01
"""Maximum deviation of a quaternion's length from 1."""
_FARTHEST = 1e9
"""Maximum of a translation's coordinates in metres. Frames on the earth, such as UTM and ECEF, have up to 1e7 m."""


class TransformError(Exception):
    """There is no transform. The message is the end of a sentence."""


@dataclass(frozen=True)
class Transform:
    """A transform to another frame: a rotation by a quaternion (x, y, z, w), then a translation in metres.

    A transform from tf2 or a bag can be broken until it is `normalized`.
    """

    quaternion: Quaternion
    translation: Vector

    @property
    def valid(self) -> bool:
        """Whether all numbers are finite and the quaternion's length is about 1."""
        numbers = (*self.quaternion, *self.translation)
        return all(map(math.isfinite, numbers)) and abs(math.hypot(*self.quaternion) - 1.0) <= _QUATERNION_TOLERANCE

    def apply(self, positions: Floats) -> Floats:
        """Return positions (n, 3) in the other frame. The length of the quaternion must be 1."""
        axis, w = np.array(self.quaternion[:3]), self.quaternion[3]
        turned = positions + 2.0 * np.cross(axis, np.cross(axis, positions) + w * positions)
        return np.asarray(turned + np.array(self.translation), np.float64)

    def normalized(self) -> "Transform":
        """Return the same transform with a quaternion of length 1. tf2 tolerates an error of 1 %, and infinite translations.

        :raises TransformError: the numbers are no rotation and translation.
        """
        length = math.hypot(*self.quaternion)
        shortest, longest = 1.0 - _QUATERNION_TOLERANCE, 1.0 + _QUATERNION_TOLERANCE
        if not (shortest <= length <= longest and all(abs(shift) <= _FARTHEST for shift in self.translation)):
            raise TransformError(
                f"the transform is broken: its quaternion is {self.quaternion}, and its translation is {self.translation}"
            )
        x, y, z, w = (part / length for part in self.quaternion)
        return Transform((x, y, z, w), self.translation)

    def after(self, first: "Transform") -> "Transform":
        """Return the transform that applies ``first`` and then this one."""
        turn = _product(self.quaternion, first.quaternion)
        return Transform(turn, _vector(self.apply(np.array([first.translation]))[0]))

    def inverse(self) -> "Transform":
        """Return the transform in the other direction. The length of the quaternion must be 1."""
        x, y, z, w = self.quaternion
        back = Transform((-x, -y, -z, w), (0.0, 0.0, 0.0))
        return Transform(back.quaternion, _vector(-back.apply(np.array([self.translation]))[0]))


IDENTITY = Transform((0.0, 0.0, 0.0, 1.0), (0.0, 0.0, 0.0))
"""The transform between a frame and itself."""


def between(before: Transform, after: Transform, part: float) -> Transform:
    """Return the transform between two others: linear in the translation, and slerp in the rotation, as in tf2.

    :param part: 0 returns ``before``, 1 returns ``after``.
    """
    start, end = np.array(before.translation), np.array(after.translation)
    cosine = sum(a * b for a, b in zip(before.quaternion, after.quaternion, strict=True))
    sign = -1.0 if cosine < 0.0 else 1.0
    angle = math.acos(min(abs(cosine), 1.0))
    if angle < 1e-9:
        weights = 1.0 - part, part
    else:
        weights = math.sin((1.0 - part) * angle) / math.sin(angle), math.sin(part * angle) / math.sin(angle)
    turn = [weights[0] * a + sign * weights[1] * b for a, b in zip(before.quaternion, after.quaternion, strict=True)]
    length = math.hypot(*turn)
    x, y, z, w = (value / length for value in turn)
    return Transform((x, y, z, w), _vector(start + (end - start) * part))


@dataclass
class _Link:
    """The transforms from one frame to its parent, by ascending stamp (ns). A static transform has no stamp."""

    stamps: deque[int] = field(default_factory=deque)
    entries: deque[tuple[str, Transform]] = field(default_factory=deque)
    static: tuple[str, Transform] | None = None

    def add(self, stamp: int, parent: str, transform: Transform, cache: int) -> None:
        if self.stamps and stamp < self.stamps[-1] - cache:
            return  # As in tf2: it is older than all that the buffer keeps.
        place = len(self.stamps) if not self.stamps or stamp > self.stamps[-1] else bisect_left(self.stamps, stamp)
        if place < len(self.stamps) and self.stamps[place] == stamp:
            self.entries[place] = parent, transform
            return
        self.stamps.insert(place, stamp)
        self.entries.insert(place, (parent, transform))
        while self.stamps[0] < self.stamps[-1] - cache:
            self.stamps.popleft()
            self.entries.popleft()

    def at(self, frame: str, stamp: int) -> tuple[str, Transform]:
        """Return the parent, and the transform to it at a stamp."""
        if self.static is not None:
            return self.static
        place = bisect_left(self.stamps, stamp)
        if place < len(self.stamps) and self.stamps[place] == stamp:
            return self.entries[place]
        if place in (0, len(self.stamps)):
            nearest = self.stamps[0 if place == 0 else -1]
            when = "earliest" if place == 0 else "latest"
            raise TransformError(
                f"the {when} transform of frame {quoted_frame(frame)} has the stamp {nearest * 1e-9:.6f} s, and the image "
                f"{stamp * 1e-9:.6f} s"
            )
        (parent, before), (other, after) = self.entries[place - 1], self.entries[place]
        if parent != other:
            return parent, before  # As in tf2: the frame changed its parent, so there is nothing between the two.
        earlier, later = self.stamps[place - 1], self.stamps[place]
        return parent, between(before, after, (stamp - earlier) / (later - earlier))


class TransformBuffer:
    """Transforms of the last seconds, with the rules of tf2: interpolation between two stamps, and no extrapolation.

    :param cache: seconds of transforms that are kept for each frame. 10 is tf2's default.
    """

    LONGEST_CHAIN = 1000
    """Frames between two frames. A longer chain has a loop."""

    def __init__(self, cache: float = 10.0) -> None:
        self._cache = round(cache * 1e9)
        self._links: dict[str, _Link] = {}
        self._frames: set[str] = set()

    def add(self, parent: str, child: str, stamp: int, transform: Transform, *, static: bool = False) -> None:
        """Store the transform from ``child`` to ``parent``.

        :param stamp: ns. It does not matter for a static transform.
        :raises TransformError: the numbers are no rotation and translation, or both frames are the same or have no name.
        """
        if not parent or not child or parent == child:
            raise TransformError(f"a transform connects the frames {quoted_frame(parent)} and {quoted_frame(child)}")
        transform = transform.normalized()
        self._frames.update((parent, child))
        link = self._links.setdefault(child, _Link())
        if static:
            link.static = parent, transform
        else:
            link.static = None
            link.add(stamp, parent, transform, self._cache)

    def clear(self) -> None:
        """Forget all transforms except static ones."""
        self._links = {child: link for child, link in self._links.items() if link.static is not None}

    def lookup(self, target: str, source: str, stamp: int) -> Transform:
        """Return the transform from ``source`` to ``target`` at a stamp in ns.

        :raises TransformError: the transform is unknown.
        """
        for frame in (target, source):
            if frame not in self._frames:
                raise TransformError(f"there is no transform with the frame {quoted_frame(frame)}")
        to_ancestor, reasons = self._ancestors(source, stamp)
        above_target, other_reasons = self._ancestors(target, stamp)
        common = next((frame for frame in to_ancestor if frame in above_target), None)
        if common is None:
            why = next(iter(reasons + other_reasons), None)
            raise why or TransformError(f"the frames {quoted_frame(source)} and {quoted_frame(target)} are not connected")
        return above_target[common].inverse().after(to_ancestor[common]).normalized()

    def _ancestors(self, frame: str, stamp: int) -> tuple[dict[str, Transform], list[TransformError]]:
        """Return the transforms from a frame to itself and to its ancestors, nearest first, and why there is no further one."""
        found = {frame: IDENTITY}
        total = IDENTITY
        while frame in self._links and len(found) <= self.LONGEST_CHAIN:
            try:
                parent, step = self._links[frame].at(frame, stamp)
            except TransformError as error:
                return found, [error]
            if parent in found:
                return found, [TransformError(f"the frames around {quoted_frame(frame)} form a loop")]
            total = step.after(total)
            found[parent] = total
            frame = parent
        return found, []


def _product(a: Quaternion, b: Quaternion) -> Quaternion:
    ax, ay, az, aw = a
    bx, by, bz, bw = b
    return (
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
        aw * bw - ax * bx - ay * by - az * bz,
    )


def _vector(values: Floats) -> Vector:
    x, y, z = values.tolist()
    return x, y, z
