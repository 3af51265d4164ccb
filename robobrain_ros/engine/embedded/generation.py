"""Run a generation in vLLM's engine: stream its text as `TextDelta`, and convert vLLM's errors."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from robobrain_ros.engine.base import Generation, TextDelta
from robobrain_ros.engine.embedded import compat
from robobrain_ros.engine.embedded.prompt import Prompts
from robobrain_ros.errors import BadImageError, BadRequestError, EngineFailedError

_GRAMMAR_WORDS = ("grammar", "schema", "regex", "Unimplemented keys")
"""Each message of vLLM about a rejected constraint contains one of these words."""


class AnswerFailedError(EngineFailedError):
    """The engine is alive but failed twice to compute an answer."""


class VllmStream:
    """Generates text with one engine of vLLM.

    :param seed: seed of generations with a temperature above 0.
    :param on_output: called with each output of vLLM.
    """

    def __init__(self, vllm: Any, prompts: Prompts, seed: int, on_output: Callable[[], None]) -> None:
        self._vllm = vllm
        self.prompts = prompts
        self._seed = seed
        self._on_output = on_output

    async def once(self, generation: Generation, request_id: str) -> AsyncGenerator[TextDelta, None]:
        """Stream the text. A finish reason "error" means that vLLM could not compute it."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        parameters = SamplingParams(
            max_tokens=generation.max_tokens,
            temperature=generation.temperature,
            stop=list(generation.stop),
            structured_outputs=compat.structured_outputs(generation.constraint),
            seed=self._seed if generation.temperature > 0 else None,
            logprobs=compat.most_logprobs(self._vllm, generation.choices) or None,
            output_kind=RequestOutputKind.DELTA,
        )
        prepared = await compat.prepare(self._vllm, self.prompts.render(generation))
        outputs = self._vllm.generate(prepared, parameters, request_id, priority=generation.priority)
        async with aclosing(outputs):
            async for output in outputs:
                self._on_output()
                yield _to_delta(output)

    async def with_retry(self, generation: Generation) -> AsyncGenerator[TextDelta, None]:
        """Stream the text. Retry once after a finish reason "error", which a corrupt image cache causes before any text.

        :raises AnswerFailedError: the second attempt also failed.
        """
        for attempt in ("first", "second"):
            request_id = generation.request_id if attempt == "first" else f"{generation.request_id}-again"
            failed = False
            async with aclosing(self.once(generation, request_id)) as stream:
                async for delta in stream:
                    failed = delta.finish_reason == "error"
                    if failed:
                        break
                    yield delta
            if not failed:
                return
            await self._vllm.reset_mm_cache()
        raise AnswerFailedError("The engine failed twice to answer this request. See vLLM's log for the reason.")


def as_rejection(error: BaseException, generation: Generation) -> Exception:
    """Return this package's error for a request that vLLM rejected. The reason can be in the cause of vLLM's error."""
    reasons = [str(part).strip() for part in (error, error.__cause__) if part is not None]
    reason = next((part for part in reasons if part), type(error).__name__).splitlines()[0]
    if "aspect ratio" in reason or "height and width" in reason:
        return BadImageError(f"The model's image processor rejected the image: {reason}.")
    if generation.constraint is not None and any(word in reason for word in _GRAMMAR_WORDS):
        return BadRequestError(f"The engine cannot apply the constraint of the answer: {reason}")
    return BadRequestError(f"The engine rejected the request: {reason} Shorten it, or raise engine.max_model_len.")


def _to_delta(output: Any) -> TextDelta:
    completion = output.outputs[0]
    metrics = output.metrics
    queued = metrics.scheduled_ts - metrics.queued_ts if metrics is not None and metrics.scheduled_ts else 0.0
    return TextDelta(
        text=completion.text,
        tokens=len(completion.token_ids),
        prompt_tokens=len(output.prompt_token_ids or ()),
        queue_time=max(queued, 0.0),
        finish_reason=completion.finish_reason or "",
        choices=compat.token_choices(completion),
    )
