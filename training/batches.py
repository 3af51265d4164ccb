"""Generate scenes and questions, and convert them to arrays for `training.network`."""

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import Queue
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from robobrain_ros.core.imaging import FittedSize, fit
from robobrain_ros.core.plans.prompt import plan_prompt
from robobrain_ros.core.query import RgbImage
from robobrain_ros.core.timed_images import sentence
from robobrain_ros.demo.layout import COLOURS, KINDS
from robobrain_ros.demo.world import Scene, make_scene
from robobrain_ros.evaluation.exam import FIRST_TRAINING_SEED
from robobrain_ros.evaluation.question import Question
from robobrain_ros.evaluation.questions import OTHER_WORDS, ask_about
from training.tokenizer import LARGEST_NUMBER, MAX_PIXELS, MIN_PIXELS, PATCH, PROFILE

CAMERAS = (
    (640, 480), (640, 480), (640, 480), (1280, 720), (1280, 720), (848, 480), (424, 240), (480, 640), (480, 480), (320, 240),
    (720, 480), (1280, 1024),
)  # fmt: skip
"""Image sizes of cameras. More common sizes are more frequent."""

BUDGETS = (MAX_PIXELS, MAX_PIXELS, MAX_PIXELS, MAX_PIXELS, 68_000, 54_000)
"""Pixel limits. Most are the default, and some are lower, because users can set a lower limit."""

MIX = {
    "point": 0.14, "spots": 0.07, "vacant": 0.07, "gripper": 0.02, "afford": 0.12, "reach": 0.06, "put": 0.07, "ground": 0.13,
    "plan": 0.09, "describe": 0.03, "count": 0.04, "exists": 0.03, "colour": 0.015, "side": 0.02, "where": 0.01, "absent": 0.07,
    "strange": 0.015,
}  # fmt: skip
"""Shares of the kinds of questions."""

SHARE_OF_THINKING = 0.15

IMAGE_START = "<|im_start|>user\n<|vision_start|>"
IDS = 9
"""Number of ids in a scene's mask."""

Arrays = dict[str, Any]


@dataclass(frozen=True)
class Example:
    """A question about a scene, with or without thinking."""

    question: Question
    think: bool


def view(seed: int, camera: tuple[int, int], detail: float, max_pixels: int = MAX_PIXELS) -> tuple[Scene, FittedSize, RgbImage]:
    """Return a scene, the image's size before and after resizing for the model, and the resized image.

    :param detail: number of rendered pixels for each pixel of the resized image. It is limited to the camera's size.
    :param max_pixels: pixel limit of the resized image.
    """
    size = rendered_size(camera, detail, max_pixels)
    scene = make_scene(seed, (size.width, size.height))
    return scene, size, model_image(scene, size)


def rendered_size(camera: tuple[int, int], detail: float, max_pixels: int) -> FittedSize:
    """Return the size at which a camera's image is rendered, and its size for the model. See `view`."""
    target = fit(camera, MIN_PIXELS, max_pixels, PATCH)
    ratio = min(1.0, (detail * target.model_width * target.model_height / (camera[0] * camera[1])) ** 0.5)
    return FittedSize(round(camera[0] * ratio), round(camera[1] * ratio), target.model_width, target.model_height)


def model_image(scene: Scene, size: FittedSize) -> RgbImage:
    """Return the scene's image, resized for the model."""
    shrinks = size.width * size.height > size.model_width * size.model_height
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    image: Any = cv2.resize(scene.image, (size.model_width, size.model_height), interpolation=method)
    return image


class Packer:
    """Converts scenes and questions to token ids and targets."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer.backend_tokenizer
        self.start = self.encode(IMAGE_START)
        self.image, self.end = self.encode("<|image_pad|>")[0], self.encode("<|vision_end|>")[0]
        self.padding = self.encode("<|endoftext|>")[0]
        self.number_ids = [self.encode(str(number))[0] for number in range(LARGEST_NUMBER)]
        self._numbers = {token: number for number, token in enumerate(self.number_ids)}
        self._words = {self.encode(f" {word}")[0]: word for word in (*COLOURS, *KINDS)}
        self._words.update({self.encode(f" {other}")[0]: word for word, other in OTHER_WORDS.items()})

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: list[int]) -> str:
        """Return the text of token ids, including tags."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False)
        return text

    def prompt(self, example: Example, times: Sequence[float] = ()) -> list[int]:
        """Return the token ids between the image and the answer. ``times``: those of several images, see `Query.image_times`."""
        question = example.question
        text = PROFILE.prompt(question.task, question.text)
        if question.plan is not None:
            text = plan_prompt(question.text, question.plan)
        if times:
            text = f"{sentence(times)}\n{text}"
        return self.encode(f"{text}<|im_end|>\n<|im_start|>assistant\n{PROFILE.assistant_prefix(example.think)}")

    def answer(self, example: Example, size: FittedSize) -> list[int]:
        """Return the token ids of the true answer."""
        thinking = f"{example.question.thinking(size)}</think><answer>" if example.think else ""
        return self.encode(f"{thinking}{example.question.answer(size)}</answer><|im_end|>")

    def _about(self, scene: Scene, example: Example, answer: list[int]) -> tuple[list[int], list[int], list[int]]:
        """Return three values for each token of an answer: its number, and the ids of up to two objects that it refers to.

        The number is the value of a token in a coordinate; -1: the token is not part of a coordinate. An id of -1 means none.
        """
        numbers, first, second = ([-1] * len(answer) for _ in range(3))
        question = example.question
        here = [question.here] if example.think and question.here is not None else []
        coordinates = [coordinate for coordinate in (*here, *question.coordinates) for _ in range(2)]
        spatial = question.task.spatial or bool(here)
        places = [index for index, token in enumerate(answer) if token in self._numbers] if spatial else []
        for index, coordinate in zip(places, coordinates, strict=False):
            numbers[index] = self._numbers[answer[index]]
            if coordinate.about:
                first[index] = coordinate.about[0]
                second[index] = coordinate.about[1] if len(coordinate.about) > 1 else -1
        for index in range(len(answer) - 1):
            thing = scene.find(f"{self._words.get(answer[index])} {self._words.get(answer[index + 1])}")
            if thing is not None:
                first[index] = first[index + 1] = thing.id
        return numbers, first, second

    def batch(self, views: list[tuple[Scene, FittedSize, RgbImage]], examples: list[list[Example]]) -> Arrays:
        """Return a batch of B views. Each row has the tokens of the image, and then the tokens of all questions about it.

        ``ids`` (B, L) are the token ids. ``segment`` (B, L) is 0 for the image, a number for each question, and -1 for padding.
        ``targets`` (4, B, L) are the label, the number and the ids of two objects of the *next* token. ``positions`` (3, B, L)
        are those of the tokens. ``cells`` (B, ids, cells) states whether an object covers a cell. ``helper`` (B, cells, 6) is the
        result of `_helper`. ``images`` (B, height, width, 3) are those of the views, for the model.
        """
        size = views[0][1]
        head = self.head(1, (size.model_height, size.model_width))
        asked = [
            [self._written(example, fitted, scene) for example in own]
            for (scene, fitted, _), own in zip(views, examples, strict=True)
        ]
        packed = self.pack(head, asked)
        covered = np.stack([_covered(scene, fitted) for scene, fitted, _ in views])
        packed["cells"] = covered > 0.1
        helped = zip(views, covered, strict=True)
        packed["helper"] = np.stack([_helper(scene, fitted, part) for (scene, fitted, _), part in helped])
        packed["images"] = np.stack([image for _, _, image in views])
        return packed

    def _written(self, example: Example, size: FittedSize, scene: Scene) -> "Written":
        answer = self.answer(example, size)
        return Written(self.prompt(example), answer, self._about(scene, example, answer))

    def head(self, images: int, size: tuple[int, int]) -> "Head":
        """Return the beginning of a prompt: the tokens of images of the same size (height, width) in pixels."""
        rows, columns = size[0] // PATCH, size[1] // PATCH
        cells = rows * columns
        down, across = np.divmod(np.arange(cells), columns)
        opening, begin = self.start[:-1], self.start[-1]
        ids, places = list(opening), [np.tile(np.arange(len(opening)), (3, 1))]
        visual: list[int] = []
        after = len(opening)
        for _ in range(images):
            visual += range(len(ids) + 1, len(ids) + 1 + cells)
            ids += [begin, *([self.image] * cells), self.end]
            corner = after + 1
            inside = np.stack([np.full(cells, corner), corner + down, corner + across])
            after = corner + max(rows, columns) + 1
            places += [np.full((3, 1), corner - 1), inside, np.full((3, 1), after - 1)]
        return Head(ids, np.concatenate(places, axis=1), np.array(visual), after)

    def pack(self, head: "Head", asked: Sequence[Sequence["Written"]]) -> Arrays:
        """Return a batch of rows. Each has the tokens of the images, and then those of its questions. See `batch`.

        ``visual`` are the indices of the visual tokens, and ``head`` is the number of tokens before the questions.
        """
        made = []
        for own in asked:
            ids = list(head.ids)
            targets = [[-1] * len(ids) for _ in range(4)]
            segment, places = [0] * len(ids), [head.positions]
            for number, one in enumerate(own, start=1):
                length = len(one.prompt) + len(one.answer)
                ids += one.prompt + one.answer
                segment += [number] * length
                places.append(np.tile(head.after + np.arange(length), (3, 1)))
                for target, values in zip(targets, (one.answer, *one.about), strict=True):
                    target += [-1] * (len(one.prompt) - 1) + values + [-1]
            made.append((ids, segment, targets, np.concatenate(places, axis=1)))
        length = (max(len(row[0]) for row in made) + 15) // 16 * 16
        packed: Arrays = {
            "ids": np.full((len(made), length), self.padding, np.int64),
            "segment": np.full((len(made), length), -1, np.int64),
            "targets": np.full((4, len(made), length), -1, np.int64),
            "positions": np.zeros((3, len(made), length), np.int64),
            "visual": head.visual,
            "head": len(head.ids),
        }
        for index, (ids, segment, targets, positions) in enumerate(made):
            packed["ids"][index, : len(ids)], packed["segment"][index, : len(ids)] = ids, segment
            packed["targets"][:, index, : len(ids)], packed["positions"][:, index, : len(ids)] = targets, positions
        return packed


@dataclass(frozen=True)
class Head:
    """The beginning of a prompt with images.

    :param ids: token ids.
    :param positions: (3, tokens).
    :param visual: indices of the visual tokens, those of the first image first.
    :param after: position of the next token.
    """

    ids: list[int]
    positions: npt.NDArray[np.int64]
    visual: npt.NDArray[np.int64]
    after: int


@dataclass(frozen=True)
class Written:
    """A question and its answer as token ids, and three values for each token of the answer, see `Packer._about`."""

    prompt: list[int]
    answer: list[int]
    about: tuple[list[int], list[int], list[int]]


def _covered(scene: Scene, size: FittedSize) -> npt.NDArray[np.float32]:
    """Return the share (ids, cells) of each cell that each object covers."""
    rows, columns = size.model_height // PATCH, size.model_width // PATCH
    shares = np.zeros((IDS, rows * columns), np.float32)
    for identity in (1, *(thing.id for thing in scene.objects)):
        mask = (scene.mask == identity).astype(np.float32)
        shares[identity] = cv2.resize(mask, (columns, rows), interpolation=cv2.INTER_AREA).reshape(-1)
    return shares


def _helper(scene: Scene, size: FittedSize, covered: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return colour, kind and box (cells, 6) of the object that covers most of each cell.

    The box is in pixels of the resized image. -1 means that no object covers the cell. The number of colours and the number of
    kinds stand for the gripper.
    """
    targets = np.full((covered.shape[1], 6), -1, np.float32)
    scale = np.array([size.model_width / size.width, size.model_height / size.height] * 2, np.float32)
    rows = [(1, len(COLOURS), len(KINDS), scene.gripper.box)]
    colours = list(COLOURS)
    rows += [(thing.id, colours.index(thing.colour), KINDS.index(thing.kind), thing.box) for thing in scene.objects]
    most = covered.argmax(0)
    for identity, colour, kind, box in rows:
        targets[(most == identity) & (covered[identity] > 0.08)] = [colour, kind, *(np.array(box, np.float32) * scale)]
    return targets


def examples_about(scene: Scene, rng: random.Random, count: int) -> list[Example]:
    """Return random questions with the frequencies of `MIX`."""
    kinds = rng.choices(list(MIX), weights=list(MIX.values()), k=count)
    return [Example(ask_about(scene, kind, rng), rng.random() < SHARE_OF_THINKING) for kind in kinds]


def random_view(rng: random.Random, camera: tuple[int, int], max_pixels: int) -> tuple[Scene, FittedSize, RgbImage]:
    """Return a random scene for training. The resolution of the rendering varies, and some images are compressed as JPEG."""
    detail = rng.choices((1.15, 2.0, 4.0), weights=(0.55, 0.35, 0.1))[0]
    scene, size, image = view(FIRST_TRAINING_SEED + rng.randrange(3_000_000_000), camera, detail, max_pixels)
    return scene, size, jpeg(image, rng, 0.15)


def jpeg(image: RgbImage, rng: random.Random, share: float) -> RgbImage:
    """Return an image that is compressed as JPEG with this probability."""
    if rng.random() >= share:
        return image
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, rng.randint(75, 95)])
    compressed: Any = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return compressed


def produce(queue: "Queue[Arrays]", tokenizer_folder: Path, seed: int, views: int, questions: int) -> None:
    """Put batches into the queue, without end. This is the work of one process."""
    from transformers import PreTrainedTokenizerFast

    os.nice(5)
    cv2.setNumThreads(1)
    packer = Packer(PreTrainedTokenizerFast.from_pretrained(tokenizer_folder))
    rng = random.Random(seed)
    while True:
        camera, budget = rng.choice(CAMERAS), rng.choice(BUDGETS)
        seen = [random_view(rng, camera, budget) for _ in range(views)]
        queue.put(packer.batch(seen, [examples_about(scene, rng, questions) for scene, _, _ in seen]))
