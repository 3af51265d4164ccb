"""Comparisons of two moments of a rollout, as arrays: the prompt of the general reward model with eight images.

All comparisons of one rollout share the references at the beginning. Forward comparisons share the moment *before* (the start).
Backward comparisons share the end. Therefore a rollout is a tree: the references, then the moments before, then those after.
"""

import random
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from robobrain_ros.core.imaging import FittedSize, fit
from robobrain_ros.core.profiles import TEXT_SLOT
from robobrain_ros.core.progress_prompt import GRM_PROMPT
from robobrain_ros.demo.world import GRIPPER, Scene, render_layout
from robobrain_ros.evaluation.exam import FIRST_TRAINING_SEED
from robobrain_ros.evaluation.rollouts import Frame, Rollout, make_rollout, true_score
from training.batches import Packer, model_image
from training.tokenizer import MIN_PIXELS, PATCH

MOST_PIXELS = 76_800
"""Pixel limit of an image in the official code."""
CAMERA = (640, 480)
DETAILS = ((352, 264), (352, 264), (480, 360), (640, 480))
"""Sizes at which frames are rendered before they are resized for the model."""
PLUS, MINUS, ZERO, END = "<score>+", "<score>-", "<score>0%</score>", "%</score>"
_FRAMES = 6
"""Frames of a sample, besides start and end."""
ANSWER_LENGTH = 4
"""Tokens of the longest answer: sign, number, end of the score, end of the message."""
IMAGE_SLOT = "<image>"


def new_tokens() -> list[str]:
    """Return the constant parts of the prompt and of the answer. Each becomes one token."""
    parts = [part for text in GRM_PROMPT.split(IMAGE_SLOT) for part in text.split(TEXT_SLOT)]
    return [*parts, PLUS, MINUS, ZERO, END]


def score_text(value: int) -> str:
    """Return the answer with a score in percent."""
    return ZERO if value == 0 else f"{PLUS if value > 0 else MINUS}{abs(value)}{END}"


@dataclass(frozen=True)
class Comparison:
    """Two images of a rollout, as indices into `Sample.images`: 0 is the start, 1 the end."""

    before: int
    after: int
    score: int


@dataclass(frozen=True)
class Sample:
    """Comparisons of one rollout.

    :param images: (images, height, width, 3), uint8, at the size for the model: start, end, and other frames.
    :param about: (images, 2, cells), whether the object that the arm handles (0) or the gripper (1) covers a cell.
    :param values: (images, 5), progress, and the places of the object and the gripper as shares of the image; NaN: hidden.
    """

    task: str
    images: npt.NDArray[np.uint8]
    about: npt.NDArray[np.bool_]
    values: npt.NDArray[np.float32]
    comparisons: tuple[Comparison, ...]


def fitted() -> tuple[int, int]:
    """Return the size (width, height) of the images for the model."""
    size = fit(CAMERA, MIN_PIXELS, MOST_PIXELS, PATCH)
    return size.model_width, size.model_height


def make_sample(rng: random.Random, count: int) -> Sample:
    """Return ``count`` comparisons of a random rollout for training."""
    seed = FIRST_TRAINING_SEED + rng.randrange(3_000_000_000)
    return sample_of(make_rollout(seed, rng.choice(DETAILS)), rng, count)


def sample_of(rollout: Rollout, rng: random.Random, count: int) -> Sample:
    """Return ``count`` random comparisons of a rollout, of all three perspectives."""
    frames = rollout.frames
    chosen: list[int] = []
    comparisons: list[Comparison] = []

    def place(index: int) -> int:
        if index == 0:
            return 0
        if index not in chosen:
            chosen.append(index)
        return 2 + chosen.index(index)

    def compare(before: int, after: int) -> None:
        values = [0.0, 1.0, *(frames[index].progress for index in chosen)]
        comparisons.append(Comparison(before, after, true_score(values[before], values[after])))

    pool = _pool(frames, rng)
    shuffled = rng.sample(pool, len(pool))
    for number in range(count):
        if number % 3 < 2:
            compare(number % 3, place(shuffled[(number // 3 + number % 3) % len(pool)]))
            continue
        later = rng.randrange(len(pool))
        before, after = (pool[later - 1] if later else 0), pool[later]
        if rng.random() < 0.15:
            before, after = after, rng.choice(pool)  # Any two moments, also in the reverse order.
        first, second = place(before), place(after)
        compare(first, second)
    shown = [frames[0], Frame(rollout.end, 1.0, frames[-1].object), *(frames[index] for index in chosen)]
    scenes = [render_layout(frame.layout)[0] for frame in shown]
    width, height = fitted()
    size = FittedSize(scenes[0].width, scenes[0].height, width, height)
    images = np.stack([_jpeg(model_image(scene, size), rng) for scene in scenes])
    about = np.stack([_about(scene, frame.object, size) for scene, frame in zip(scenes, shown, strict=True)])
    values = np.stack([_values(scene, frame) for scene, frame in zip(scenes, shown, strict=True)])
    return Sample(rollout.task, images, about, values, tuple(comparisons))


def _pool(frames: tuple[Frame, ...], rng: random.Random) -> list[int]:
    """Return the indices of a few frames, in order. They include the first event, and successive frames."""
    last = len(frames) - 1
    chosen = {rng.randint(1, last), last} if rng.random() < 0.3 else {rng.randint(1, last)}
    for index, frame in enumerate(frames):
        if frame.event is not None:
            chosen |= {max(index - 1, 1), index}
            break
    while len(chosen) < min(_FRAMES, last):
        index = rng.randint(1, last)
        chosen |= {index, min(index + rng.choice((1, 1, 2, 3)), last)}
    return sorted(chosen)


def _jpeg(image: Any, rng: random.Random) -> Any:
    if rng.random() > 0.1:
        return image
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, rng.randint(75, 95)])
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


def _about(scene: Scene, name: str, size: FittedSize) -> npt.NDArray[np.bool_]:
    rows, columns = size.model_height // PATCH, size.model_width // PATCH
    thing = scene.find(name)
    masks = [scene.mask == (thing.id if thing is not None else 255), scene.mask == GRIPPER]
    shares = [cv2.resize(mask.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA) for mask in masks]
    return np.stack([share.reshape(-1) > 0.1 for share in shares])


def _values(scene: Scene, frame: Frame) -> npt.NDArray[np.float32]:
    thing = scene.find(frame.object)
    centre = thing.centre if thing is not None else (np.nan, np.nan)
    pixels = np.array([*centre, *scene.gripper.tip], np.float32)
    return np.concatenate([[frame.progress], pixels / ([scene.width, scene.height] * 2)]).astype(np.float32)


@dataclass(frozen=True)
class Part:
    """A part of the prompt: its text tokens, and its visual tokens, separately.

    :param ids: (text tokens,), token ids.
    :param positions: (3, text tokens), and ``cells`` (3, visual tokens).
    :param order: (text tokens + visual tokens,), the place of each token in the part: first those of the text tokens.
    :param after: index of the first text token of the text after each image, among the text tokens.
    """

    ids: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    cells: npt.NDArray[np.int64]
    order: npt.NDArray[np.int64]
    after: tuple[int, ...]

    @property
    def next(self) -> int:
        """The position of the next token."""
        return int(self.positions.max()) + 1


class ProgressPacker:
    """Converts a task to the token ids of the prompt's parts."""

    def __init__(self, packer: Packer) -> None:
        self._packer = packer
        width, height = fitted()
        self.rows, self.columns = height // PATCH, width // PATCH

    @property
    def cells(self) -> int:
        """Visual tokens of an image."""
        return self.rows * self.columns

    def parts(self, task: str) -> tuple[Part, Part, Part]:
        """Return the references, the moment before, and the moment after until the answer."""
        texts = [text.replace(TEXT_SLOT, task) for text in GRM_PROMPT.split(IMAGE_SLOT)]
        ends = f"{texts[8]}<|im_end|>\n<|im_start|>assistant\n"
        first = self._part(0, f"<|im_start|>user\n{texts[0]}", [texts[1], texts[2]])
        before = self._part(first.next, "", texts[3:6])
        after = self._part(before.next, "", [*texts[6:8], ends])
        return first, before, after

    def answer(self, value: int) -> list[int]:
        """Return the token ids of an answer."""
        return self._packer.encode(f"{score_text(value)}<|im_end|>")

    def _part(self, start: int, begin: str, texts: list[str]) -> Part:
        """Return a part: a text, and then images, each with a text after it."""
        packer = self._packer
        ids = packer.encode(begin) if begin else []
        places = list(range(len(ids)))
        positions = [np.tile(start + np.arange(len(ids)), (3, 1))]
        at, after = start + len(ids), list[int]()
        cells, cell_places = list[npt.NDArray[np.int64]](), list[int]()
        down, across = np.divmod(np.arange(self.cells), self.columns)
        for text in texts:
            begun = len(places) + len(cells) * self.cells
            written = [packer.end, *packer.encode(text)]
            after.append(len(ids) + 2)
            ids += [packer.start[-1], *written]
            places += [begun, *(begun + 1 + self.cells + index for index in range(len(written)))]
            cells.append(np.stack([np.full(self.cells, at + 1), at + 1 + down, at + 1 + across]))
            cell_places += [begun + 1 + index for index in range(self.cells)]
            end = at + 1 + max(self.rows, self.columns)
            positions += [np.full((3, 1), at), np.tile(end + np.arange(len(written)), (3, 1))]
            at = end + len(written)
        order = np.array([*places, *cell_places])
        return Part(np.array(ids), np.concatenate(positions, 1), np.concatenate(cells, 1), order, tuple(after))
