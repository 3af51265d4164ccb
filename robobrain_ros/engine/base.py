"""The interface of engines: they generate text from prompts and images. Engines do not know tasks."""

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

DEFAULT_MAX_PIXELS = 1280 * 28 * 28
"""Default pixel limit of an image: 1280 visual tokens of RoboBrain 2.0. An image of 1280x720 keeps its size."""
MIN_CELLS = 4
MAX_CELLS = 16384
"""Minimum and maximum visual tokens of an image if the checkpoint has no limits: the values of Qwen-VL's processor."""
LARGEST_MAX_PIXELS = MAX_CELLS * 28 * 28
"""Maximum value of pixel limits."""
DEFAULT_CONTEXT = 8192
"""Default length of the context in tokens: four images of the default size, thinking and an answer. The models support more, but
the cache for it would fill a GPU."""
MOST_IMAGES = 8
"""Maximum number of images in one request, and of frames of a video."""
TIMED_TOKENS = 1792
"""Visual tokens that images of different times share. With 256 tokens of text, they fit into 2,048 tokens. Eight frames of
640x480 keep their size as a video, and are shrunk as images."""
MOST_CHOICES = 20
"""Maximum of ``Generation.choices``: the default limit of vLLM, and the limit of OpenAI-compatible servers."""

FRAMES_OF_VIDEO_TOKEN = 2
"""Number of successive frames of a video whose pixels share a visual token, in Qwen-VL's families."""

VIDEO_PLACEHOLDER = "<|video_pad|>"
"""Placeholder for a video in a prompt of Qwen-VL."""
IMAGE_PLACEHOLDER = "<|image_pad|>"
"""Placeholder for an image in a prompt of Qwen-VL. A question must not contain it, because vLLM would insert an image there."""


@dataclass(frozen=True)
class Constraint:
    """A constraint of the generated text. Exactly one of the two fields is set.

    The engine prevents other texts. Only a text that ends at ``max_tokens`` can be incomplete.

    :param json_schema: the text is one compact JSON value without whitespace that satisfies this schema (JSON text).
    :param regex: the whole text matches this pattern.
    """

    json_schema: str = ""
    regex: str = ""


@dataclass(frozen=True)
class Generation:
    """One generation.

    The user's message consists of ``images`` and then ``user_text``, with the texts of ``text_before_images`` in between. The
    engine renders it with the checkpoint's chat template.

    A generation has no deadline. Its caller ends it by closing the stream.

    :param request_id: unique id.
    :param images: RGB, (height, width, 3), uint8, at the size for the model.
    :param image_ids: see `core.query.Query`.
    :param text_before_images: the text before each image. Empty: there is no text before the images.
    :param assistant_prefix: text after the generation prompt, which the model continues.
    :param temperature: 0 means greedy decoding.
    :param stop: texts that end the generation. They are not part of the result.
    :param priority: generations with a lower value run first.
    :param constraint: constraint of the text without the prefix. None allows any text.
    :param choices: number of most likely tokens, at most `MOST_CHOICES`, that are reported for each token. 0: none.
    :param video_times: seconds of each image, increasing and evenly spaced. The images, which then have one size, are the frames
        of a video. Only for engines with `EngineInfo.takes_video`. Empty: they are images.
    """

    request_id: str
    user_text: str
    images: Sequence[npt.NDArray[np.uint8]]
    max_tokens: int
    _: KW_ONLY
    image_ids: Sequence[str] = ()
    text_before_images: Sequence[str] = ()
    assistant_prefix: str = ""
    temperature: float = 0.0
    stop: Sequence[str] = ()
    priority: int = 0
    constraint: Constraint | None = None
    choices: int = 0
    video_times: Sequence[float] = ()

    @property
    def text(self) -> str:
        """The text of the user's message, without images."""
        return "".join((*self.text_before_images, self.user_text))

    def interleaved(self, images: Sequence[Any]) -> Iterator[Any]:
        """Yield the parts of the user's message in order: texts, and the elements of ``images`` in place of the images.

        :raises ValueError: the numbers of texts and images differ.
        """
        for before, image in zip(self.text_before_images or [""] * len(images), images, strict=True):
            if before:
                yield before
            yield image
        yield self.user_text


@dataclass(frozen=True)
class TokenChoice:
    """A token that was likely at one place of the text.

    :param text: text of the token. It can be a part of a character.
    :param logprob: natural logarithm of its probability. Engines normalize over different tokens: over all, or only over those
        that the constraint allows. Only ratios of the probabilities at one place are comparable between engines.
    """

    text: str
    logprob: float


def message_content(parts: Iterable[Any]) -> list[Any]:
    """Return the content of a chat message from `Generation.interleaved`. Parts that are no texts remain unchanged."""
    return [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]


@dataclass(frozen=True)
class TextDelta:
    """A piece of generated text.

    :param finish_reason: "stop", "length" or "abort" for the last piece; otherwise empty.
    :param thinking: whether a server's reasoning parser marked the piece as thinking. False: only tags in the text mark thinking.
    :param choices: for each token, the most likely tokens at its place, the most likely one first. Empty if the generation
        requests none or if the server does not report them. An engine can report fewer than requested.
    """

    text: str
    tokens: int
    prompt_tokens: int = 0
    queue_time: float = 0.0
    finish_reason: str = ""
    thinking: bool = False
    choices: tuple[tuple[TokenChoice, ...], ...] = ()


@dataclass(frozen=True)
class LoadProgress:
    """The progress of an engine's start.

    :param stage: one or two words for programs.
    :param message: a sentence for users.
    """

    stage: str
    message: str
    fraction: float | None = None


ProgressCallback = Callable[[LoadProgress], None]


@dataclass(frozen=True)
class ModelOrigin:
    """Where a model comes from. `core.profiles` identifies the model's family by it.

    :param names: names of the model in ``engine.model`` and on a server.
    :param folder: folder of the checkpoint. None: it is on a server.
    """

    names: tuple[str, ...] = ()
    folder: Path | None = None


CheckOrigin = Callable[[ModelOrigin], str]
"""Called before a model is loaded. Returns its model type, or an empty text if unknown. Raises EngineConfigError if the family is
contradictory or not supported."""


@dataclass(frozen=True)
class EngineInfo:
    """Properties of a started engine. Sizes are in pixels; 0 means unknown.

    :param cell: side of the square that one visual token covers. The sides of images are multiples of it.
    :param special_tokens: texts that the tokenizer converts to control tokens, or an empty collection if unknown.
    :param takes_video: whether the engine accepts videos, see `Generation.video_times`.
    :param count_tokens: returns the number of tokens of a text; None: unknown, but at most one for each byte in UTF-8.
    :param origin: where the model comes from.
    """

    model: str
    model_type: str
    engine: str
    max_model_len: int = 0
    min_pixels: int = 0
    max_pixels: int = 0
    cell: int = 0
    flagos_active: bool = False
    takes_video: bool = False
    details: dict[str, str] = field(default_factory=dict)
    origin: ModelOrigin = ModelOrigin()
    special_tokens: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    count_tokens: Callable[[str], int] | None = field(default=None, compare=False, repr=False)


EngineState = Literal["stopped", "loading", "ready", "failed", "restarting"]


@dataclass(frozen=True)
class EngineHealth:
    """The current state of an engine.

    :param message: the state as a sentence for users.
    :param running: number of requests in the engine.
    :param waiting: number of requests that wait for the engine.
    :param restarts: number of restarts.
    :param warning: a sentence about a problem, and what to do, or empty if there is none.
    :param flagos_active: whether operators of FlagOS are in use. None means as in `EngineInfo`.
    :param flagos_operators: operators of FlagOS that have run so far.
    :param image_cache: use and limit of the cache of prepared images, for people; empty: the engine has none in this process.
    """

    state: EngineState
    message: str
    running: int = 0
    waiting: int = 0
    restarts: int = 0
    warning: str = ""
    flagos_active: bool | None = None
    flagos_operators: tuple[str, ...] = ()
    image_cache: str = ""


class Engine(Protocol):
    """The interface of an engine. All coroutines run on the same asyncio loop."""

    async def start(self, progress: ProgressCallback) -> EngineInfo:
        """Load the model.

        :raises EngineConfigError: the model cannot be loaded. The message states what to do.
        """
        ...

    def generate(self, generation: Generation) -> AsyncGenerator[TextDelta, None]:
        """Stream the text. Closing the iterator, or cancelling the task that runs it, aborts the request in the engine.

        :raises EngineFailedError: the engine died.
        :raises BadRequestError: the engine rejected the request.
        :raises BadImageError: the engine rejected an image.
        """
        ...

    async def abort(self, request_id: str) -> None:
        """End a generation. Its stream ends with the finish reason "abort". Unknown ids are ignored."""
        ...

    def health(self) -> EngineHealth:
        """Return the current state without waiting. Callable from any thread."""
        ...

    async def close(self) -> None:
        """End the processes, and release the memory. The engine can be started again afterwards."""
        ...
