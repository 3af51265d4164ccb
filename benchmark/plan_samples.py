"""Count infeasible plans among random plans that satisfy their schemas: `python benchmark/plan_samples.py`.

Results: docs/results/node.md. Needs neither ROS, a model nor a GPU. The plans have tokens of Qwen's vocabulary.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import figures

from robobrain_ros.core.plans.feasibility import check_feasible
from robobrain_ros.core.plans.request import PlanRequest
from robobrain_ros.core.plans.schema import plan_form
from robobrain_ros.errors import InfeasiblePlanError

sys.path.append(str(Path(__file__).resolve().parent.parent / "test"))
from plan_requests import random_request
from plan_sampler import PlanSampler, parse, random_request_with_hands, shares_an_order
from random_checkpoint import qwen_tokenizer

ROOM = 8000
"""Token limit of a plan."""
COLUMNS = ("requests", "answers", "with steps", "steps of one robot share an order in the text", "infeasible")
REQUESTS: dict[str, Callable[[int], PlanRequest]] = {
    "skills without effects, up to 3 steps": random_request,
    "skills that grasp and release, 1 step": partial(random_request_with_hands, most_steps=1),
    "skills that grasp and release, up to 8 steps": partial(random_request_with_hands, most_steps=8),
}


def measure(sampler: PlanSampler, make: Callable[[int], PlanRequest], count: int) -> Counter[str]:
    """Write one plan for each of ``count`` requests, and count what happened."""
    counts: Counter[str] = Counter()
    for seed in range(count):
        form = plan_form(make(seed), ROOM)
        text = sampler.write(form)
        steps = parse(form, text).steps
        counts["steps"] += bool(steps)
        counts["shared"] += shares_an_order(text)
        try:
            check_feasible(steps, form.request)
        except InfeasiblePlanError:
            counts["infeasible"] += 1
    return counts


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000, help="random requests of each kind")
    arguments = parser.parse_args()
    sampler = PlanSampler(qwen_tokenizer())
    rows: list[tuple[str, ...]] = [COLUMNS]
    for name, make in REQUESTS.items():
        figures.tell(f"{name} ...")
        counts = measure(sampler, make, arguments.requests)
        numbers = (arguments.requests, counts["steps"], counts["shared"], counts["infeasible"])
        rows.append((name, *map(str, numbers)))
    print(figures.plain_table(rows))


if __name__ == "__main__":
    main()
