"""vLLM's worker for the CPU. vLLM imports this module in its workers."""

from typing import Any

import torch
from vllm.v1.worker.cpu_worker import CPUWorker

from robobrain_ros.engine.embedded.image_bytes import NormalizesImages


class RewindableGenerator(torch.Generator):  # type: ignore[misc]
    """A generator of random numbers with the methods by which vLLM takes a sample back. Those of torch work on GPUs only."""

    _before: torch.Tensor

    @classmethod
    def of(cls, generator: torch.Generator) -> "RewindableGenerator":
        """Return a copy that can go back to the present state."""
        copy = cls(device=generator.device)
        copy._before = generator.get_state()
        copy.set_state(copy._before)
        return copy

    def get_offset(self) -> int:
        """As of `torch.Generator`: the caller subtracts the numbers of one sample from it."""
        return 0

    def set_offset(self, offset: int) -> None:
        """Go back to the state from before the sample."""
        self.set_state(self._before)


def make_rewindable(runner: Any) -> None:
    """Prepare the generators of requests whose next sample vLLM takes back, because their prompt is not complete yet.

    :param runner: vLLM's GPUModelRunner, after it prepared a step.
    """
    batch = runner.input_batch
    discarded = runner.discard_request_mask.np
    for index, generator in list(batch.generators.items()):
        if index < batch.num_reqs and discarded[index]:
            batch.generators[index] = runner.requests[batch.req_ids[index]].generator = RewindableGenerator.of(generator)


class CpuWorker(NormalizesImages, CPUWorker):  # type: ignore[misc]
    """The worker that computes on the CPU."""

    def sample_tokens(self, *arguments: Any, **options: Any) -> Any:
        """As vLLM's; a request with a seed and a prompt that takes several steps would end the process."""
        make_rewindable(self.model_runner)
        return super().sample_tokens(*arguments, **options)
