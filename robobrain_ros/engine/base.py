"""What an engine is: text out of images and prompts. It knows nothing of tasks."""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

DEFAULT_MAX_PIXELS = 1280 * 28 * 28
"""Default pixel limit of an image: 1280 visual tokens of RoboBrain 2.0. An image of 1280x720 keeps its size."""
MIN_CELLS = 4
MAX_CELLS = 16384
"""Fewest and most visual tokens of an image where the checkpoint has no limits of its own: those of Qwen-VL's processor."""
LARGEST_MAX_PIXELS = MAX_CELLS * 28 * 28
"""Upper bound of pixel limits that users set."""
DEFAULT_CONTEXT = 8192
"""Default length of the context in tokens: four images of the default size, thinking and an answer. The models support more, but
the cache for it would fill a GPU."""
MOST_IMAGES = 8
"""Images of one request."""

IMAGE_PLACEHOLDER = "<|image_pad|>"
"""What stands in a prompt of Qwen-VL for an image; in a question it would take an image's place."""


@dataclass(frozen=True)
class Constraint:
    """What a text must match; exactly one of the two is set.

    ``json_schema``: the text is one compact JSON value, without blanks, that satisfies this schema (JSON text). ``regex``: the
    whole text matches this pattern. The engine lets the model write nothing else; only a text cut at ``max_tokens`` may break it.
    """

    json_schema: str = ""
    regex: str = ""


@dataclass(frozen=True)
class Generation:
    """One generation.

    ``user_text`` and ``images`` (RGB, (height, width, 3), uint8, at the size the model shall see) make the user's message,
    images first; the engine renders it with the checkpoint's own chat template and appends ``assistant_prefix`` after the
    generation prompt, so that the model goes on from there. ``image_ids`` as of `core.query.Query`. Decoding is greedy at
    ``temperature`` 0. ``stop``: text that ends the generation and is not part of it. ``request_id`` must be unique.
    A lower ``priority`` is served first. ``constraint``: what the text, without the prefix, must match; None: anything.

    A generation has no deadline. Its caller ends it by closing the stream.
    """

    request_id: str
    user_text: str
    images: Sequence[npt.NDArray[np.uint8]]
    max_tokens: int
    image_ids: Sequence[str] = ()
    assistant_prefix: str = ""
    temperature: float = 0.0
    stop: Sequence[str] = ()
    priority: int = 0
    constraint: Constraint | None = None


@dataclass(frozen=True)
class TextDelta:
    """A piece of generated text. ``finish_reason`` is empty until the last piece: "stop", "length" or "abort".

    ``thinking``: a server's reasoning parser has declared the piece to be thinking, without tags around it. False: the text says
    itself what is thinking.
    """

    text: str
    tokens: int
    prompt_tokens: int = 0
    queue_time: float = 0.0
    finish_reason: str = ""
    thinking: bool = False


@dataclass(frozen=True)
class LoadProgress:
    """Where starting an engine has got to: ``stage`` is one word for machines, ``message`` a sentence for people."""

    stage: str
    message: str
    fraction: float | None = None


ProgressCallback = Callable[[LoadProgress], None]


@dataclass(frozen=True)
class EngineInfo:
    """What a started engine serves. Sizes are in pixels; 0 means unknown.

    ``cell``: side of the square of pixels that one visual token covers. Sides of images are multiples of it.
    ``special_tokens``: the texts that the tokenizer makes control tokens of; empty: not known. ``count_tokens``: how many tokens
    of the model a text has; None: not known, but at most one for each byte of its UTF-8.
    """

    model: str
    model_type: str
    engine: str
    max_model_len: int = 0
    min_pixels: int = 0
    max_pixels: int = 0
    cell: int = 0
    flagos_active: bool = False
    details: dict[str, str] = field(default_factory=dict)
    special_tokens: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    count_tokens: Callable[[str], int] | None = field(default=None, compare=False, repr=False)


EngineState = Literal["stopped", "loading", "ready", "failed", "restarting"]


@dataclass(frozen=True)
class EngineHealth:
    """The present state of an engine.

    :param message: the state as a sentence for people.
    :param running: number of requests that the engine computes; ``waiting``: number of requests that wait for it.
    :param restarts: how often the engine was restarted.
    :param warning: a sentence about what does not work as requested, and what to do; empty: everything does.
    :param flagos_active: whether operators of FlagOS are in use; None: as in `EngineInfo`.
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
    """The five verbs of an engine. All coroutines run on one asyncio loop, which owns the engine."""

    async def start(self, progress: ProgressCallback) -> EngineInfo:
        """Load the model; raises `EngineConfigError` with what to do when it cannot."""
        ...

    def generate(self, generation: Generation) -> AsyncGenerator[TextDelta, None]:
        """Stream the text. Closing the iterator, or cancelling the task that runs it, aborts the request in the engine.

        Raises `EngineFailedError` when the engine dies, `BadRequestError` or `BadImageError` when it refuses the request.
        """
        ...

    async def abort(self, request_id: str) -> None:
        """End a generation now; its stream ends with finish reason "abort". Unknown ids are ignored."""
        ...

    def health(self) -> EngineHealth:
        """The present state; returns at once, callable from any thread."""
        ...

    async def close(self) -> None:
        """Give everything back, processes and memory; the engine can be started again afterwards."""
        ...
