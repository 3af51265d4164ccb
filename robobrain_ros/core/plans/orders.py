"""Number the steps of a plan, so that a robot does one step at a time."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from robobrain_ros.core.query import PlanStep


def numbered(steps: Sequence[PlanStep]) -> tuple[PlanStep, ...]:
    """Return the steps sorted by their order, which counts from 1 without gaps.

    Steps of different robots keep a common order, because they may run in parallel. If steps of one robot have the same order,
    the first one in the list keeps it, and each further one gets an order of its own after it. No JSON schema can prevent such
    steps: it compares no items of a list. Steps without a robot keep a common order.

    :param steps: the steps as the model wrote them. Equal orders keep their position in the list.
    """
    turns: Counter[tuple[str, int]] = Counter()
    places = []
    for step in steps:
        places.append((step.order, turns[step.robot, step.order]))
        if step.robot:
            turns[step.robot, step.order] += 1
    ranks = {place: rank for rank, place in enumerate(sorted(set(places)), 1)}
    ranked = (replace(step, order=ranks[place]) for step, place in zip(steps, places, strict=True))
    return tuple(sorted(ranked, key=lambda step: step.order))
