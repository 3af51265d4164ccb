"""A generation with its tokens, log-probabilities and times, for comparing operators and benchmarks."""

import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from robobrain_ros.engine.base import Generation
from robobrain_ros.engine.embedded import compat
from robobrain_ros.engine.embedded.prompt import Prompts


@dataclass(frozen=True)
class MeasuredGeneration:
    """A measured generation. Times in seconds.

    :param tokens: token ids.
    :param probabilities: the tokens' log-probabilities; empty unless requested.
    :param prefill: time to the first token.
    :param total: time to the last token.
    :param broken: the generation ended early, because the model wrote a token that the constraint forbids.
    :param prepared: part of ``prefill`` that vLLM spent in this process, on tokens and image patches.
    :param sent: part of ``prefill`` between ``prepared`` and the time at which the engine's process scheduled the request.
    :param computed: part of ``prefill`` between scheduling and the first token.
    """

    tokens: tuple[int, ...]
    probabilities: tuple[float, ...]
    prefill: float
    total: float
    broken: bool = False
    prepared: float = 0.0
    sent: float = 0.0
    computed: float = 0.0

    @property
    def decode(self) -> float:
        """Time from the first token to the last."""
        return self.total - self.prefill


async def measure(vllm: Any, prompts: Prompts, generation: Generation, probabilities: bool) -> MeasuredGeneration:
    """Generate exactly ``max_tokens`` tokens greedily, or at most ``max_tokens`` with a constraint.

    :param vllm: vLLM's engine.
    :param probabilities: whether to return the tokens' log-probabilities.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    parameters = SamplingParams(
        max_tokens=generation.max_tokens,
        temperature=0.0,
        ignore_eos=generation.constraint is None,
        structured_outputs=compat.structured_outputs(generation.constraint),
        logprobs=0 if probabilities else None,
        output_kind=RequestOutputKind.DELTA,
    )
    tokens: list[int] = []
    logarithms: list[float] = []
    first, sent, computed, broken = 0.0, 0.0, 0.0, False
    began = time.monotonic()
    prepared = await compat.prepare(vllm, prompts.render(generation))
    ready = time.monotonic() - began
    async with aclosing(vllm.generate(prepared, parameters, generation.request_id)) as outputs:
        async for output in outputs:
            first = first or time.monotonic() - began
            if output.metrics is not None:
                # All processes of a machine share the monotonic clock.
                sent = output.metrics.scheduled_ts - began - ready
                computed = output.metrics.first_token_ts - output.metrics.scheduled_ts
            (completion,) = output.outputs
            tokens += completion.token_ids
            broken = completion.finish_reason == "error"
            for token, entry in zip(completion.token_ids, completion.logprobs or (), strict=False):
                logarithms.append(entry[token].logprob)
    return MeasuredGeneration(tuple(tokens), tuple(logarithms), first, time.monotonic() - began, broken, ready, sent, computed)
