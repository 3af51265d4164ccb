"""Entries of a table of operators by shape, and an implementation of them, for tests."""

from collections.abc import Callable
from typing import Any

import torch

from robobrain_ros.engine.flagos.by_shape.table import ROWS, Launch, ShapeEntry

GPU = "Stub GPU 80GB"
VECTOR = Launch("vector", 4, 256)
TILE = Launch("tile", 32, 256, 16)


def entry(rows: int = 1, k: int = 32, n: int = 48, operator: str = "mm", dtype: str = "bfloat16") -> ShapeEntry:
    """Return an entry for small weights."""
    return ShapeEntry(operator, dtype, rows, k, n, "skinny", VECTOR if rows == 1 else TILE, 12.0, 10.0)


SHAPES = [entry(rows, k, n, operator) for rows in ROWS for k, n in ((32, 48), (64, 16), (16, 96)) for operator in ("mm", "addmm")]


class Computed:
    """An implementation in PyTorch that records its calls.

    :param spoil: changes a result. Its arguments are the result, k and n.
    """

    def __init__(self, spoil: Callable[[Any, int, int], None] | None = None, obstacle: str = "") -> None:
        self.calls: list[tuple[int, int, int, bool]] = []
        self._spoil, self._obstacle = spoil, obstacle

    def obstacle(self, x: Any, weight: Any, bias: Any = None, out: Any = None) -> str:
        return self._obstacle

    def multiply(self, launch: Launch, x: Any, weight: Any, bias: Any = None, out: Any = None) -> Any:
        self.calls.append((*x.shape, weight.shape[1], bias is not None))
        # einsum uses bmm, which is not registered.
        result = torch.einsum("mk,kn->mn", x.float(), weight.float()) + (0.0 if bias is None else bias.float())
        if self._spoil is not None:
            self._spoil(result, x.shape[1], weight.shape[1])
        out = x.new_empty(result.shape) if out is None else out
        return out.copy_(result)
