"""The benchmark of skinny matrix products without a GPU: shapes, launches to try, the selection, and the table."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from shape_entries import Computed

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmark"))

import skinny_matmul

from robobrain_ros.engine.flagos.by_shape import launches, table
from robobrain_ros.engine.flagos.by_shape.search import Trial
from robobrain_ros.engine.flagos.by_shape.table import ROWS, Launch, ShapeClass, ShapeEntry, ShapeTable
from robobrain_ros.engine.presets import ARCHITECTURES


@pytest.mark.parametrize("model", skinny_matmul.MODELS)
def test_products_multiply_by_all_weights_of_a_step(model: str) -> None:
    shape = ARCHITECTURES[skinny_matmul.MODELS[model]]
    for parallel in skinny_matmul.PARALLEL:
        products = {product.name: product for product in skinny_matmul.products(shape, parallel)}
        layer = sum(products[name].k * products[name].n for name in ("qkv", "o", "gate_up", "down"))
        assert layer * shape.layers * parallel == shape.linear_parameters
        assert products["head"].n * parallel >= shape.vocabulary


def test_each_launch_to_try_can_stand_in_a_table(tmp_path: Path) -> None:
    entries = [
        ShapeEntry("mm", "bfloat16", rows, 64, index + 1, "skinny", launch, 2.0, 1.0)
        for rows in ROWS
        for index, launch in enumerate(launches.candidates(rows))
    ]
    path = tmp_path / "table.json"
    table.write(path, ShapeTable("GPU", "2", "3", tuple(entries)))
    assert len(table.read(path).entries) == len(entries) > 400


def test_few_launches_are_chosen_that_serve_all_well() -> None:
    wide, narrow, odd = (Launch("vector", block_n, 512) for block_n in (8, 2, 4))
    products = [skinny_matmul.Product("mm", 64, n, str(n)) for n in (1, 2, 3)]
    cells: Any = {
        (products[0], 1): {wide: 10.0, narrow: 10.05, odd: 12.0},
        (products[1], 1): {wide: 11.0, narrow: 10.0, odd: 12.0},
        (products[2], 1): {wide: 11.0, narrow: 11.0, odd: 10.0},
    }
    chosen = skinny_matmul.choose(cells)
    assert [chosen[product, 1] for product in products] == [narrow, narrow, odd]


@pytest.mark.parametrize(("speed", "used"), [(1.2, True), (1.005, False), (0.9, False)])
def test_only_what_is_surely_faster_gets_an_entry(speed: float, used: bool) -> None:
    implementation = Computed()

    def timer(functions: Sequence[Callable[[], Any]]) -> float:
        before = len(implementation.calls)
        functions[0]()
        return 1e-5 / speed if len(implementation.calls) > before else 1e-5

    class Bench:
        dtype = "bfloat16"

        def trial(self, product: Any, rows: int) -> Trial:
            weight = torch.randn(product.n, product.k, dtype=torch.bfloat16).t()
            shape = ShapeClass(product.operator, self.dtype, rows, product.k, product.n)
            return Trial(shape, [weight], {"skinny": implementation}, timer)

    product = skinny_matmul.Product("mm", 64, 32, "o")
    bench: Any = Bench()
    entry, line = skinny_matmul.confirm(bench, product, 1, Launch("vector", 4, 512))
    assert (entry is not None) == used
    assert line["ratio"] == pytest.approx(speed, rel=0.01)
    assert "native" in skinny_matmul.table_of(ShapeTable("GPU", "2", "3", (entry,) if entry else ()))
