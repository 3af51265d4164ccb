"""The tokens of earlier requests are proposed again, and only tokens that can follow."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from robobrain_ros.engine.embedded.lookup import LookupProposer, TokenTable

PLAN = [7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18]


def test_the_longest_known_context_decides() -> None:
    table = TokenTable()
    table.learn([1, 2, 3, 4, 5, 6], 0)
    table.learn([9, 9, 3, 4, 7], 0)
    assert table.propose([1, 2, 3, 4], 1) == [5]  # Four tokens are equal.
    assert table.propose([8, 8, 3, 4], 1) == [7]  # Two tokens are equal. The last request counts.
    assert table.propose([1, 2, 3], 9) == [4, 5, 6]
    assert table.propose([5, 1], 9) == []
    assert table.propose([], 9) == []


def test_only_new_tokens_are_learned() -> None:
    table = TokenTable()
    table.learn(PLAN, 8)
    assert table.propose(PLAN[:4], 4) == []
    assert table.propose(PLAN[:8], 4) == PLAN[8:12]


def test_the_placeholders_of_an_image_do_not_fill_the_table() -> None:
    table = TokenTable(most=8)
    table.learn([1, 2, 3], 0)
    table.learn([5] * 1000, 0)
    assert table.propose([1, 2], 1) == [3]


def test_old_entries_are_forgotten_and_used_ones_stay() -> None:
    table = TokenTable(most=16)
    for number in range(100):
        table.learn([1000, 1001, 1002], 0)
        table.learn([number, number + 200, number + 400], 0)
    assert table.propose([1000, 1001], 1) == [1002]
    assert table.propose([99, 299], 1) == [499]
    assert table.propose([0, 200], 1) == []


class Batch:
    """The arrays of vLLM's batch, with a row for each request."""

    def __init__(self, rows: int, longest: int) -> None:
        self.tokens = np.zeros((rows, longest), np.int32)
        self.lengths = np.zeros(rows, np.int32)

    def put(self, row: int, tokens: list[int]) -> None:
        self.tokens[row, : len(tokens)], self.lengths[row] = tokens, len(tokens)

    def write(self, row: int, new: list[int]) -> list[int]:
        length = self.lengths[row]
        self.put(row, [*self.tokens[row, :length].tolist(), *new])
        return new


def proposer(count: int = 4, longest: int = 64) -> LookupProposer:
    config: Any = SimpleNamespace(
        speculative_config=SimpleNamespace(num_speculative_tokens=count), model_config=SimpleNamespace(max_model_len=longest)
    )
    return LookupProposer(config)


def test_the_answer_to_another_request_is_proposed() -> None:
    found, batch = proposer(), Batch(2, 64)
    batch.put(0, [1, 2, 3])
    for token in PLAN:
        found.propose([batch.write(0, [token]), []], batch.lengths, batch.tokens)
    batch.put(1, [4, 5, 6, 7, 8])
    assert found.propose([[], batch.write(1, [9])], batch.lengths, batch.tokens) == [[], [10, 11, 12, 13]]
    assert found.propose([[], batch.write(1, [10, 11, 12])], batch.lengths, batch.tokens) == [[], [13, 14, 15, 16]]


def test_a_row_can_get_another_request() -> None:
    found, batch = proposer(), Batch(1, 64)
    batch.put(0, PLAN)
    found.propose([batch.write(0, [19])], batch.lengths, batch.tokens)
    batch.put(0, [30, 31, 32, 33, 34])
    assert found.propose([batch.write(0, [35])], batch.lengths, batch.tokens) == [[]]
    batch.put(0, [40, 30, 31])
    assert found.propose([batch.write(0, [32])], batch.lengths, batch.tokens) == [[33, 34, 35]]


def test_a_request_never_exceeds_the_context() -> None:
    found, batch = proposer(count=4, longest=16), Batch(1, 16)
    batch.put(0, PLAN)
    found.propose([batch.write(0, [19])], batch.lengths, batch.tokens)
    batch.put(0, [*PLAN, 7, 8])
    assert found.propose([batch.write(0, [9])], batch.lengths, batch.tokens) == [[]]
