"""The arithmetic of the benchmark: ratios, intervals, the table and the file. Tests do not check the measured speed."""

import json
import random
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmark"))

import figures


def test_a_ratio_is_that_of_the_statistics() -> None:
    """The ratio is the median of one side divided by the median of the other side."""
    line = figures.compare("call", [2.0, 4.0, 100.0], [1.0, 2.0, 3.0], figures.quantile(0.5), "ms", scale=1000.0)
    assert (line.node, line.other, line.ratio, line.count) == (4000.0, 2000.0, 2.0, 3)


def test_rates_are_compared_upside_down() -> None:
    """A side that needs twice the time for a round has half the throughput."""
    line = figures.compare("round", [2.0, 2.0], [1.0, 1.0], figures.quantile(0.5), "1/s", per=8.0)
    assert (line.node, line.other, line.ratio) == (4.0, 8.0, 0.5)


def test_the_interval_holds_the_true_ratio_and_narrows() -> None:
    """The interval of two noisy sides contains the true ratio. More pairs make it narrower."""
    dice = random.Random(4)
    other = [0.1 * dice.lognormvariate(0.0, 0.2) for _ in range(800)]
    node = [0.11 * dice.lognormvariate(0.0, 0.2) for _ in range(800)]
    few, many = (figures.compare("call", node[:count], other[:count], figures.quantile(0.5), "ms") for count in (50, 800))
    for line in (few, many):
        assert line.low < 1.1 < line.high
        assert line.low <= line.ratio <= line.high
    assert many.high - many.low < 0.5 * (few.high - few.low)


def test_pairs_stay_together() -> None:
    """If a machine is slow for both sides of a pair, the interval does not become wider."""
    dice = random.Random(5)
    other = [dice.lognormvariate(0.0, 1.0) for _ in range(100)]
    line = figures.compare("call", [1.5 * seconds for seconds in other], other, figures.mean, "s")
    assert line.low == pytest.approx(1.5)
    assert line.high == pytest.approx(1.5)


def test_the_interval_is_reproducible() -> None:
    """The same measurements give the same interval."""
    dice = random.Random(6)
    node, other = ([dice.random() for _ in range(30)] for _ in range(2))
    first, second = (figures.compare("call", node, other, figures.quantile(0.95), "ms") for _ in range(2))
    assert first == second


@pytest.mark.parametrize(("node", "other"), [([], []), ([1.0], [1.0, 2.0]), ([1.0, 1.0], [1.0, 0.0])])
def test_values_without_a_ratio_are_rejected(node: list[float], other: list[float]) -> None:
    """There is no ratio if the sides have different numbers of measurements, or none, or if a time is 0."""
    with pytest.raises(ValueError, match="call"):
        figures.compare("call", node, other, figures.mean, "s")


@pytest.mark.parametrize(
    ("goal", "ratio", "reached"),
    [
        (figures.Goal(1.05), 1.05, True),
        (figures.Goal(1.05), 1.06, False),
        (figures.Goal(0.95, at_least=True), 0.95, True),
        (figures.Goal(0.95, at_least=True), 0.94, False),
    ],
)
def test_goals_bound_from_one_side(goal: figures.Goal, ratio: float, reached: bool) -> None:
    """A goal is an upper or a lower bound. The bound itself is allowed."""
    assert goal.reached(ratio) is reached


def test_the_table_has_a_line_for_each_comparison() -> None:
    """Every line has the cells of the head, and states whether the goal is reached."""
    lines = [
        figures.compare("call", [1.0, 1.0], [1.0, 1.0], figures.mean, "s", goal=figures.Goal(1.05)),
        figures.compare("a longer name", [2000.0], [1.0], figures.mean, "s", goal=figures.Goal(1.05)),
        figures.compare("without goal", [0.001], [1.0], figures.mean, "s"),
    ]
    rows = figures.table(lines).splitlines()
    assert len({len(row) for row in rows}) == 1
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [row[0] for row in cells[2:]] == ["call", "a longer name", "without goal"]
    assert [row[cells[0].index("reached")] for row in cells[2:]] == ["yes", "no", ""]
    assert cells[2][cells[0].index("goal")] == "≤ 1.05"


def test_the_file_holds_results_and_single_measurements(tmp_path: Path) -> None:
    """The file contains everything that another evaluation needs."""
    line = figures.compare("call", [2.0], [1.0], figures.mean, "s", goal=figures.Goal(1.05))
    path = tmp_path / "new" / "benchmark.json"
    figures.write(path, [line], {"call": {"node": [2.0], "other": [1.0]}}, {"model": "demo"})
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["about"] == {"model": "demo"}
    assert content["samples"]["call"]["node"] == [2.0]
    (result,) = content["results"]
    assert (result["name"], result["ratio"], result["goal"], result["reached"]) == ("call", 2.0, "≤ 1.05", False)
