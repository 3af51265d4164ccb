"""Number the steps of a plan, so that a robot does one step at a time."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

from robobrain_ros.core.query import PlanStep


def numbered(steps: Sequence[PlanStep]) -> tuple[PlanStep, ...]:
    """Return the steps sorted by their order, which counts from 1 without gaps.

    Steps of different robots keep a common order, because they may run in parallel. If steps of one robot have the same order,
    the second one begins a new order, and the steps of this order that follow in the list come with it. So no step is before a
    step that the model listed earlier with the same order. No JSON schema can prevent such steps: it compares no items of a
    list. Steps without a robot keep a common order.

    :param steps: the steps as the model wrote them. Equal orders keep their position in the list.
    """
    waves: Counter[int] = Counter()
    busy: defaultdict[int, set[str]] = defaultdict(set)
    places = []
    for step in steps:
        if step.robot in busy[step.order]:
            waves[step.order] += 1
            busy[step.order] = set()
        if step.robot:
            busy[step.order].add(step.robot)
        places.append((step.order, waves[step.order]))
    ranks = {place: rank for rank, place in enumerate(sorted(set(places)), 1)}
    ranked = (replace(step, order=ranks[place]) for step, place in zip(steps, places, strict=True))
    return tuple(sorted(ranked, key=lambda step: step.order))
