"""Speculative decoding without a second model: propose the tokens that followed the same tokens in recent requests.

A robot gets similar plans again and again: the keys of the JSON, the names of its skills and objects. vLLM's method ``ngram``
searches the same request only, which contains little of this. `LookupProposer` also searches earlier prompts and answers. The
model checks all proposed tokens in one step, so proposals do not change an answer, apart from rounding.

vLLM imports this module in its worker if ``speculative_config`` names `LookupProposer`. By default, it does not: see
docs/results/node.md.
"""

from collections.abc import Sequence
from typing import Any

_CONTEXTS = (8, 4, 2)
"""Numbers of tokens that are compared, the most reliable first."""
_MOST = 1 << 16
"""Entries of a generation of the table. There are two generations, so the tables of a worker need at most about 15 MB."""


class TokenTable:
    """A table of the tokens that followed the last few tokens. It forgets the entries that were not written for long.

    :param most: entries of each of the two generations.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._new: dict[int, int] = {}
        self._old: dict[int, int] = {}

    def learn(self, tokens: Sequence[int], start: int) -> None:
        """Add the tokens from this position on, each with the tokens before it."""
        for position in range(start, len(tokens)):
            if position >= 2 and tokens[position] == tokens[position - 1] == tokens[position - 2]:
                continue  # Placeholders of an image.
            for length in _CONTEXTS:
                if position >= length:
                    self._new[hash(tuple(tokens[position - length : position]))] = tokens[position]
        if len(self._new) > self._most:
            self._old, self._new = self._new, {}

    def propose(self, tokens: Sequence[int], count: int) -> list[int]:
        """Return at most this number of tokens that probably follow. Fewer: the table has no entry for the last tokens."""
        recent = list(tokens[-_CONTEXTS[0] :])
        proposed: list[int] = []
        while len(proposed) < count:
            following = self._following(recent)
            if following is None:
                break
            proposed.append(following)
            recent.append(following)
        return proposed

    def _following(self, tokens: list[int]) -> int | None:
        for length in _CONTEXTS:
            if len(tokens) >= length:
                key = hash(tuple(tokens[-length:]))
                found = self._new.get(key, self._old.get(key))
                if found is not None:
                    return found
        return None


class LookupProposer:
    """A proposer of vLLM (``custom_class``) that shares one `TokenTable` between all requests of a worker.

    :param vllm_config: vLLM's configuration. ``num_speculative_tokens`` is the number of proposed tokens.
    """

    def __init__(self, vllm_config: Any) -> None:
        self._count = int(vllm_config.speculative_config.num_speculative_tokens)
        self._longest = int(vllm_config.model_config.max_model_len)
        self._table = TokenTable()
        self._lengths: dict[int, int] = {}

    def load_model(self, *arguments: Any, **options: Any) -> None:
        """Do nothing. vLLM calls it for every proposer."""

    def propose(
        self, sampled_token_ids: list[list[int]], num_tokens_no_spec: Any, token_ids_cpu: Any, slot_mappings: Any = None
    ) -> list[list[int]]:
        """Return the proposals for each row of vLLM's batch.

        :param sampled_token_ids: new tokens of each row. Empty: its prompt is not finished.
        :param num_tokens_no_spec: number of tokens of each row, with the new ones.
        :param token_ids_cpu: tokens of each row, of shape (rows, longest request).
        :param slot_mappings: not used.
        """
        return [
            self._propose(row, len(sampled), int(num_tokens_no_spec[row]), token_ids_cpu[row]) if sampled else []
            for row, sampled in enumerate(sampled_token_ids)
        ]

    def _propose(self, row: int, new: int, length: int, tokens: Any) -> list[int]:
        start = length - new
        # Another length: the row has another request than in the last step. Its prompt may be new.
        first = max(0, start - _CONTEXTS[0]) if self._lengths.get(row) == start else 0
        self._lengths[row] = length
        recent = tokens[first:length].tolist()
        self._table.learn(recent, start - first if first else 0)
        return self._table.propose(recent, min(self._count, self._longest - length - 1))
