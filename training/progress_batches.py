"""Comparisons of two moments of a rollout, as arrays: the prompt of the general reward model with eight images.

All comparisons of one rollout share the references at the beginning of the prompt. Those with the same moment *before* share it
too. Therefore the comparisons of a rollout are a tree with three levels: references, moments before, moments after.
"""

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from robobrain_ros.core.imaging import FittedSize, fit
from robobrain_ros.core.profiles import TEXT_SLOT
from robobrain_ros.core.progress_prompt import GRM_PROMPT
from robobrain_ros.demo.world import GRIPPER, Scene, render_layout
from robobrain_ros.evaluation.exam import FIRST_TRAINING_SEED
from robobrain_ros.evaluation.rollouts import Frame, Rollout, make_rollout, true_score
from training.batches import Packer, jpeg, model_image
from training.tokenizer import MIN_PIXELS, PATCH

Indices = npt.NDArray[np.int64]

MOST_PIXELS = 76_800
"""Pixel limit of an image in the official code."""
CAMERA = (640, 480)
DETAILS = ((352, 264), (352, 264), (480, 360), (640, 480))
"""Sizes at which frames are rendered before they are resized for the model."""
PLUS, MINUS, ZERO, END = "<score>+", "<score>-", "<score>0", "%</score>"
"""Tokens of the answer. llguidance, which vLLM uses for grammars, never allows a token that begins with < and ends with >."""
_FRAMES = 6
"""Frames of a sample, besides start and end."""
ANSWER_LENGTH = 4
"""Tokens of the longest answer: sign, number, end of the score, end of the message."""
NO_TARGET = -100
"""The target after the end of a shorter answer. PyTorch's cross entropy ignores it."""
IMAGE_SLOT = "<image>"


def new_tokens() -> list[str]:
    """Return the constant parts of the prompt and of the answer. Each becomes one token."""
    parts = [part for text in GRM_PROMPT.split(IMAGE_SLOT) for part in text.split(TEXT_SLOT)]
    return [*parts, PLUS, MINUS, ZERO, END]


def score_text(value: int) -> str:
    """Return the answer with a score in percent."""
    return f"{ZERO}{END}" if value == 0 else f"{PLUS if value > 0 else MINUS}{abs(value)}{END}"


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
    return _sample(rollout, tuple(chosen), tuple(comparisons), rng)


def whole_sample(rollout: Rollout) -> Sample:
    """Return the comparisons of each frame with the previous one, the start and the end, in this order, without compression."""
    frames = range(1, len(rollout.frames))
    places = [0, *(index + 1 for index in frames)]
    truth = [frame.progress for frame in rollout.frames]
    comparisons = [
        Comparison(before, places[index], true_score(progress, truth[index]))
        for index in frames
        for before, progress in ((places[index - 1], truth[index - 1]), (0, truth[0]), (1, 1.0))
    ]
    return _sample(rollout, tuple(frames), tuple(comparisons), None)


def _sample(rollout: Rollout, chosen: tuple[int, ...], comparisons: tuple[Comparison, ...], rng: random.Random | None) -> Sample:
    """Render the start, the end and the chosen frames. ``rng``: compress some of the images as JPEG."""
    frames = rollout.frames
    shown = [frames[0], Frame(rollout.end, 1.0, frames[-1].object), *(frames[index] for index in chosen)]
    scenes = [render_layout(frame.layout)[0] for frame in shown]
    width, height = fitted()
    size = FittedSize(scenes[0].width, scenes[0].height, width, height)
    images = [model_image(scene, size) for scene in scenes]
    if rng is not None:
        images = [jpeg(image, rng, 0.1) for image in images]
    about = np.stack([_about(scene, frame.object, size) for scene, frame in zip(scenes, shown, strict=True)])
    values = np.stack([_values(scene, frame) for scene, frame in zip(scenes, shown, strict=True)])
    return Sample(rollout.task, np.stack(images), about, values, comparisons)


def _pool(frames: tuple[Frame, ...], rng: random.Random) -> list[int]:
    """Return the indices of a few frames, in order. They include the first disturbance, and successive frames."""
    last = len(frames) - 1
    chosen = {rng.randint(1, last), last} if rng.random() < 0.3 else {rng.randint(1, last)}
    for index, frame in enumerate(frames):
        if frame.disturbance is not None:
            chosen |= {max(index - 1, 1), index}
            break
    while len(chosen) < min(_FRAMES, last):
        index = rng.randint(1, last)
        chosen |= {index, min(index + rng.choice((1, 1, 2, 3)), last)}
    return sorted(chosen)


def _about(scene: Scene, name: str, size: FittedSize) -> npt.NDArray[np.bool_]:
    rows, columns = size.model_height // PATCH, size.model_width // PATCH
    thing = scene.find(name)
    down, across = _means(scene.height, rows), _means(scene.width, columns)
    masks = [scene.mask == (thing.id if thing is not None else 255), scene.mask == GRIPPER]
    return np.stack([(down @ (mask.astype(np.float32) @ across.T)).reshape(-1) > 0.1 for mask in masks])


@functools.lru_cache(maxsize=16)
def _means(pixels: int, parts: int) -> npt.NDArray[np.float32]:
    """Return the matrix (parts, pixels) that computes the means over equal parts of a row of pixels."""
    ends = np.arange(parts + 1) * (pixels / parts)
    at = np.arange(pixels)
    covered = np.minimum(at + 1, ends[1:, None]) - np.maximum(at, ends[:-1, None])
    return (covered.clip(0.0) * (parts / pixels)).astype(np.float32)


def _values(scene: Scene, frame: Frame) -> npt.NDArray[np.float32]:
    thing = scene.find(frame.object)
    centre = thing.centre if thing is not None else (np.nan, np.nan)
    pixels = np.array([*centre, *scene.gripper.tip], np.float32)
    return np.concatenate([[frame.progress], pixels / ([scene.width, scene.height] * 2)]).astype(np.float32)


@dataclass(frozen=True)
class Level:
    """A level of the trees of several rollouts. Each row adds images to the prompt of its parent.

    :param rollout: (rows,), the rollout of each row.
    :param parent: (rows,), the row of the previous level that each row continues.
    :param images: (rows, 2 or 3), indices into `Tree.images`.
    """

    rollout: Indices
    parent: Indices
    images: Indices


@dataclass(frozen=True)
class Tree:
    """The comparisons of several rollouts as one batch.

    :param images: those of all samples, as ``about`` and ``values``. See `Sample`.
    :param levels: references, moments before, moments after. A row of the last level is a comparison.
    :param scores: (comparisons,), in percent.
    """

    tasks: tuple[str, ...]
    images: npt.NDArray[np.uint8]
    about: npt.NDArray[np.bool_]
    values: npt.NDArray[np.float32]
    levels: tuple[Level, Level, Level]
    scores: Indices


def collate(samples: Sequence[Sample]) -> Tree:
    """Return the comparisons of all samples as one batch, in their order."""
    rows: tuple[list[tuple[int, int, list[int]]], ...] = ([], [], [])
    first = 0
    for number, sample in enumerate(samples):
        befores = list(dict.fromkeys(comparison.before for comparison in sample.comparisons))
        begin = len(rows[1])
        rows[0].append((number, 0, [first, first + 1]))
        rows[1].extend((number, number, [first + before] * 3) for before in befores)
        for comparison in sample.comparisons:
            rows[2].append((number, begin + befores.index(comparison.before), [first + comparison.after] * 3))
        first += len(sample.images)
    references, before, after = (Level(*(np.array(column) for column in zip(*level, strict=True))) for level in rows)
    return Tree(
        tuple(sample.task for sample in samples),
        np.concatenate([sample.images for sample in samples]),
        np.concatenate([sample.about for sample in samples]),
        np.concatenate([sample.values for sample in samples]),
        (references, before, after),
        np.array([comparison.score for sample in samples for comparison in sample.comparisons]),
    )


@dataclass(frozen=True)
class Part:
    """A part of the prompt for several tasks: its text tokens, and its visual tokens, separately.

    Shorter tasks have padding, so that each token has the same index for all tasks.

    :param ids: (tasks, text tokens), token ids.
    :param real: (tasks, text tokens), False for padding.
    :param positions: (3, tasks, text tokens), and ``cells`` (3, tasks, visual tokens).
    :param order: (text tokens + visual tokens,), the index of each token in the part: first those of the text tokens.
    :param after: (images,), index of the first text token of the text after each image, among the text tokens.
    :param next: (tasks,), position of the next token.
    """

    ids: Indices
    real: npt.NDArray[np.bool_]
    positions: Indices
    cells: Indices
    order: Indices
    after: Indices
    next: Indices


class ProgressPacker:
    """Converts tasks to the token ids of the prompt's parts."""

    def __init__(self, packer: Packer) -> None:
        self._packer = packer
        width, height = fitted()
        self.rows, self.columns = height // PATCH, width // PATCH

    @property
    def cells(self) -> int:
        """Visual tokens of an image."""
        return self.rows * self.columns

    def parts(self, tasks: Sequence[str]) -> tuple[Part, Part, Part]:
        """Return the references, the moment before, and the moment after until the answer."""
        texts = GRM_PROMPT.split(IMAGE_SLOT)
        ends = f"{texts[8]}<|im_end|>\n<|im_start|>assistant\n"
        ids = [self._packer.encode(task) for task in tasks]
        first = self._part(np.zeros(len(tasks), int), ids, f"<|im_start|>user\n{texts[0]}", texts[1:3])
        before = self._part(first.next, ids, "", texts[3:6])
        after = self._part(before.next, ids, "", [*texts[6:8], ends])
        return first, before, after

    def answers(self, scores: Indices) -> Indices:
        """Return the token ids (scores, `ANSWER_LENGTH`) of the answers, and `NO_TARGET` after the end."""
        rows = [self._packer.encode(f"{score_text(int(score))}<|im_end|>") for score in scores]
        return np.array([row + [NO_TARGET] * (ANSWER_LENGTH - len(row)) for row in rows])

    def _text(self, text: str, tasks: list[list[int]]) -> tuple[Indices, npt.NDArray[np.bool_]]:
        """Return the token ids (tasks, tokens) of a text with the tasks in place of its slot, and which of them are real."""
        longest = max(map(len, tasks))
        padded = np.array([ids + [self._packer.padding] * (longest - len(ids)) for ids in tasks])
        real = np.array([[index < len(ids) for index in range(longest)] for ids in tasks])
        pieces = [np.tile(np.array(self._packer.encode(piece), int), (len(tasks), 1)) for piece in text.split(TEXT_SLOT)]
        blocks, shown = [pieces[0]], [np.ones(pieces[0].shape, bool)]
        for piece in pieces[1:]:
            blocks += [padded, piece]
            shown += [real, np.ones(piece.shape, bool)]
        return np.concatenate(blocks, 1), np.concatenate(shown, 1)

    def _part(self, start: Indices, tasks: list[list[int]], begin: str, texts: list[str]) -> Part:
        """Return a part: a text, and then images, each with a text after it.

        :param start: (tasks,), position of the first token.
        """
        packer, count = self._packer, len(tasks)
        down, across = np.divmod(np.arange(self.cells), self.columns)
        written, shown = self._text(begin, tasks)
        ids, real = [written], [shown]
        positions, at = [start[:, None] + shown.cumsum(1) - 1], start + shown.sum(1)
        places, after = list(range(written.shape[1])), list[int]()
        cells, cell_places = list[Indices](), list[int]()
        for text in texts:
            begun = len(places) + len(cell_places)
            written, shown = self._text(text, tasks)
            written = np.concatenate([np.tile([packer.start[-1], packer.end], (count, 1)), written], 1)
            shown = np.concatenate([np.ones((count, 2), bool), shown], 1)
            after.append(len(places) + 2)
            places += [begun, *(begun + self.cells + index for index in range(1, written.shape[1]))]
            cell_places += [begun + 1 + index for index in range(self.cells)]
            ids.append(written)
            real.append(shown)
            corner = at[:, None] + 1
            cells.append(np.stack([np.broadcast_to(corner, (count, self.cells)), corner + down, corner + across]))
            end = at + 1 + max(self.rows, self.columns)
            positions.append(np.concatenate([at[:, None], end[:, None] + shown[:, 1:].cumsum(1) - 1], 1))
            at = end + shown[:, 1:].sum(1)
        return Part(
            np.concatenate(ids, 1),
            np.concatenate(real, 1),
            np.tile(np.concatenate(positions, 1), (3, 1, 1)),
            np.concatenate(cells, 2),
            np.array([*places, *cell_places]),
            np.array(after),
            at,
        )
