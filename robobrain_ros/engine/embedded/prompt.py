"""Convert a generation to a prompt of vLLM with the checkpoint's chat template. Checks images and text."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from robobrain_ros.bounds.control_tokens import reject_control_tokens, special_tokens_of
from robobrain_ros.bounds.texts import shortened
from robobrain_ros.engine.base import IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER, Generation, message_content
from robobrain_ros.engine.embedded import compat
from robobrain_ros.engine.embedded.checkpoint import Checkpoint
from robobrain_ros.engine.embedded.checkpoint_files import AGAIN
from robobrain_ros.errors import BadImageError, BadRequestError, EngineConfigError

_TRIAL = "What is in the image?"
_IMAGE, _VIDEO = {"type": "image"}, {"type": "video"}
"""An image and a video in a message for a chat template."""
_VIDEO_TEXT = f"<|vision_start|>{VIDEO_PLACEHOLDER}<|vision_end|>"
"""A video in a prompt. vLLM replaces this text."""


@dataclass(frozen=True)
class Prompts:
    """Renders generations for one checkpoint.

    :param tokenizer: tokenizer of transformers.
    :param special_tokens: texts that the tokenizer turns into control tokens.
    """

    checkpoint: Checkpoint
    tokenizer: Any
    special_tokens: frozenset[str]

    @classmethod
    def load(cls, checkpoint: Checkpoint, trust_remote_code: bool) -> "Prompts":
        """Load the tokenizer. Takes seconds.

        :raises EngineConfigError: the checkpoint has no usable tokenizer or chat template.
        """
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(checkpoint.path, trust_remote_code=trust_remote_code)
        except Exception as error:  # transformers can raise any exception.
            reason = f"{type(error).__name__}: {shortened(str(error), 200)}"
            raise EngineConfigError(f"The tokenizer in {checkpoint.path} cannot be loaded ({reason}). {AGAIN}.") from error
        if not tokenizer.chat_template:
            raise EngineConfigError(
                f"The checkpoint in {checkpoint.path} has no chat template. Copy chat_template.jinja from the original."
            )
        prompts = cls(checkpoint, tokenizer, special_tokens_of(tokenizer))
        prompts._check_template()
        return prompts

    def _check_template(self) -> None:
        try:
            text = self._apply([_IMAGE, _TRIAL])
        except Exception as error:  # From jinja2, or any exception of the template.
            reason = f"{type(error).__name__}: {shortened(str(error), 200)}"
            raise EngineConfigError(f"The chat template in {self.checkpoint.path} fails ({reason}). {AGAIN}.") from error
        if text.count(IMAGE_PLACEHOLDER) != 1 or _TRIAL not in text:
            raise EngineConfigError(
                f"The chat template in {self.checkpoint.path} drops the image or the text of a request. Copy that of the "
                "original checkpoint."
            )

    def _apply(self, parts: Iterable[Any]) -> str:
        rendered: str = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": message_content(parts)}], tokenize=False, add_generation_prompt=True
        )
        return rendered

    def renders_video(self) -> bool:
        """Return whether the chat template supports videos, so that the family was trained on them."""
        try:
            return _VIDEO_TEXT in self._apply([_VIDEO, _TRIAL])
        except Exception:  # From jinja2, or any exception of the template.
            return False

    def _render_video(self, generation: Generation) -> dict[str, Any]:
        """Return vLLM's prompt with one video.

        :raises BadRequestError: see `render`.
        """
        text = self._apply([_VIDEO, generation.user_text])
        if text.count(VIDEO_PLACEHOLDER) != 1 or IMAGE_PLACEHOLDER in text:
            raise BadRequestError(f"Remove model tokens such as {VIDEO_PLACEHOLDER} from the question.")
        if len({image.shape for image in generation.images}) != 1 or len(generation.video_times) != len(generation.images):
            raise BadImageError("The frames of a video must have one size, and each frame needs a time.")
        return {"prompt": text + generation.assistant_prefix} | compat.video_data(
            np.stack(generation.images), generation.video_times
        )

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a text."""
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def render(self, generation: Generation) -> dict[str, Any]:
        """Return vLLM's prompt.

        :raises BadRequestError: the text contains control tokens.
        :raises BadImageError: an image has a wrong shape, type or size.
        """
        reject_control_tokens("The prompt", generation.text, self.special_tokens)
        _check_images(generation, self.checkpoint.cell or 1)
        if generation.video_times:
            return self._render_video(generation)
        text = self._apply(generation.interleaved([_IMAGE] * len(generation.images)))
        # vLLM silently accepts a placeholder without an image and an image without a placeholder.
        found = text.count(IMAGE_PLACEHOLDER)
        if found != len(generation.images):
            raise BadRequestError(
                f"The prompt has {found} image placeholders for {len(generation.images)} images. Remove model tokens such as "
                f"{IMAGE_PLACEHOLDER} from the question."
            )
        if not _in_order(text, generation.text_before_images):
            raise BadRequestError(
                f"The chat template in {self.checkpoint.path} changes the order of images and texts, so the model would see "
                "another request. Use a checkpoint whose template keeps the order."
            )
        prompt: dict[str, Any] = {"prompt": text + generation.assistant_prefix}
        if generation.images:
            # transformers rejects arrays with negative strides, such as BGR images that were reversed to RGB.
            prompt["multi_modal_data"] = {"image": [np.ascontiguousarray(image) for image in generation.images]}
            prompt.update(compat.image_names(generation))
        return prompt


def _in_order(prompt: str, text_before_images: Sequence[str]) -> bool:
    """Return whether each text directly precedes its image, apart from the tokens around the image."""
    before_images = prompt.split(IMAGE_PLACEHOLDER)
    return all(text in before for text, before in zip(text_before_images, before_images, strict=False))


def _check_images(generation: Generation, cell: int) -> None:
    """Check that the sides of every image are multiples of the model's cell.

    vLLM would resize other images, and coordinates would be wrong. An image of a few pixels would end the engine.
    """
    for image in generation.images:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype.name != "uint8":
            raise BadImageError(
                f"The engine needs images of shape (height, width, 3) and type uint8, not {image.shape} and {image.dtype.name}."
            )
        height, width = image.shape[:2]
        if min(height, width) < cell or height % cell or width % cell:
            raise BadImageError(f"The engine needs images whose sides are multiples of {cell} pixels, not {width}x{height}.")
