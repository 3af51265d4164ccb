"""Run the skinny matrix product in Triton's interpreter on the CPU.

This is a separate program, because Triton reads its variable at import. It prints a JSON object for each case: its name, the
largest error against float64 divided by the largest expected element, and whether a second call gave the same bits.
"""

import itertools
import json
import os
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import torch

from robobrain_ros.engine.flagos.by_shape.matmul import multiply, obstacle
from robobrain_ros.engine.flagos.by_shape.table import Launch

SIZES = ((64, 16), (100, 33), (1, 1), (7, 5))
"""(k, n): multiples of the blocks, and sizes with a remainder in each direction."""
VECTOR = (Launch("vector", 4, 64), Launch("vector", 8, 16, split_k=3, stages=1), Launch("vector", 16, 64, split_k=2))
TILE = (Launch("tile", 32, 32, 16), Launch("tile", 16, 16, 8, split_k=3), Launch("tile", 64, 32, 16, split_k=2))


def case(launch: Launch, dtype: Any, rows: int, k: int, n: int, bias: str, padded: bool) -> None:
    """Compute a product twice into memory that is full of NaN, and print the result of the comparison."""
    generator = torch.Generator().manual_seed(rows * k * n)

    def random(*size: int) -> Any:
        return torch.randn(size, generator=generator).to(dtype)

    extra = 3 if padded else 0
    x, weight = random(rows, k + extra)[:, :k], random(n, k + extra)[:, :k].t()
    biases = {"": None, "row": random(n), "expanded": random(n).expand(rows, n), "matrix": random(rows, n + 1)[:, :n]}
    used = biases[bias]
    first, second = (torch.full((rows, n + extra), torch.nan, dtype=dtype)[:, :n] for _ in range(2))
    assert obstacle(x, weight, used, first) == ""
    for out in (first, second):
        assert multiply(launch, x, weight, used, out) is out
    new = multiply(launch, x, weight, used)
    exact = x.double() @ weight.double() + (0.0 if used is None else used.double())
    error = float((first.double() - exact).abs().max() / exact.abs().max())
    same = torch.equal(first, second) and torch.equal(first, new)
    name = f"{launch.kernel} {launch.split_k} {dtype} {rows}x{k}x{n} {bias or 'none'} {'padded' if padded else 'dense'}"
    print(json.dumps({"name": name, "error": error, "same": same}))


def main() -> None:
    """Run all cases. The interpreter multiplies bfloat16 in ``tl.dot`` as integers, so "tile" runs with float16 only."""
    biases = ("", "row", "expanded", "matrix")
    for index, (launch, dtype, (k, n)) in enumerate(itertools.product(VECTOR, (torch.float16, torch.bfloat16), SIZES)):
        case(launch, dtype, 1, k, n, biases[index % 4], padded=index % 2 == 1)
    for index, (launch, rows, (k, n)) in enumerate(itertools.product(TILE, (1, 3, 16), SIZES)):
        case(launch, torch.float16, min(rows, launch.most_rows), k, n, biases[index % 4], padded=index % 3 == 1)


if __name__ == "__main__":
    main()
