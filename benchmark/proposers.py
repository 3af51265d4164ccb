"""A proposer of vLLM for benchmarks: its method and its number of tokens can be changed between two requests."""

from typing import Any

from robobrain_ros.engine.embedded.lookup import LookupProposer


class Selectable:
    """Proposes tokens by the method that `select` sets: "lookup", "ngram" or "none"."""

    def __init__(self, vllm_config: Any) -> None:
        from vllm.v1.spec_decode.ngram_proposer import NgramProposer

        self._vllm_config = vllm_config
        settings = vllm_config.speculative_config
        settings.prompt_lookup_min, settings.prompt_lookup_max = 2, 4
        self._ngram = NgramProposer(vllm_config)
        self.select("none", 0)

    def load_model(self, *arguments: Any, **options: Any) -> None:
        """Do nothing. vLLM calls it for every proposer."""

    def select(self, method: str, count: int) -> None:
        """Propose this number of tokens by this method from now on, and forget all earlier requests."""
        self._lookup = LookupProposer(self._vllm_config)
        self._method, self._count, self.steps = method, count, 0

    def propose(self, sampled: list[list[int]], lengths: Any, tokens: Any, slot_mappings: Any = None) -> list[list[int]]:
        """See `LookupProposer.propose`."""
        self.steps += any(sampled)
        if self._method == "lookup":
            proposed = self._lookup.propose(sampled, lengths, tokens)
        elif self._method == "ngram":
            proposed = self._ngram.propose(self._count, sampled, lengths, tokens)
        else:
            return [[] for _ in sampled]
        return [each[: self._count] for each in proposed]


def select(worker: Any, method: str, count: int) -> None:
    """Let the proposer of this worker use another method."""
    worker.model_runner.drafter.select(method, count)


def steps(worker: Any) -> int:
    """Return the number of steps that this worker computed since `select`."""
    return int(worker.model_runner.drafter.steps)
