"""Measure n-gram speculation, which needs no second model: `python benchmark/speculation.py`.

The demo model writes plans for robots and trajectories with and without speculation, alternately, one request at a time.
Speculation is useful only if the answers are the same, token by token, and arrive earlier. The benchmark needs neither ROS nor a
GPU. vLLM uses a GPU if there is one.
"""

import argparse
import asyncio
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from statistics import median

import figures
from figures import Goal, compare, quantile
from structured import demo_plans, demo_trajectories  # Makes the test support importable.

from robobrain_ros.core import Brain, Query, profile_for
from robobrain_ros.core.query import Report
from robobrain_ros.demo import DEMO_MODEL
from robobrain_ros.engine.embedded.engine import EmbeddedEngine
from robobrain_ros.engine.options import EngineOptions

from reports import report_of  # isort: skip

_GOAL = Goal(0.7)


def engine_options(model: str, tokens: int, most: int) -> EngineOptions:
    """Return the options of an engine.

    :param tokens: number of tokens that are proposed at a time; 0: no speculation.
    :param most: length in tokens of the longest text that is searched in the prompt and the answer.
    """
    speculation = {"method": "ngram", "num_speculative_tokens": tokens, "prompt_lookup_max": most, "prompt_lookup_min": 2}
    extra = json.dumps({"speculative_config": speculation}) if tokens else ""
    return EngineOptions.of(model=model, extra=extra, flagos_mode="off", max_num_seqs=4, gpu_memory_utilization=0.4)


async def measure(name: str, brains: tuple[Brain, Brain], queries: Sequence[Query]) -> figures.Comparison:
    """Send each query with and without speculation, in alternating order. Print the number of identical answers."""
    found: tuple[list[Report], list[Report]] = ([], [])
    for number, query in enumerate(queries):
        for brain in brains:
            await report_of(brain, query)  # Not counted. It puts the image and the prompt into the caches of both engines.
        sides = list(zip(brains, found, strict=True))
        for brain, reports in sides if number % 2 else reversed(sides):
            reports.append(await report_of(brain, query))
    plain, speculating = found
    same = sum(a.raw_text == b.raw_text and a.answer_tokens == b.answer_tokens for a, b in zip(plain, speculating, strict=True))
    figures.tell(f"{name}: {same} of {len(plain)} answers are the same; tokens, median: {median(_tokens(plain)):.0f}")
    title = f"{name}: first token to last, p50"
    return compare(title, _writing(speculating), _writing(plain), quantile(0.5), "ms", scale=1e3, goal=_GOAL)


def _writing(reports: Sequence[Report]) -> list[float]:
    return [report.total_time - report.first_token_time for report in reports]


def _tokens(reports: Sequence[Report]) -> list[int]:
    return [report.answer_tokens for report in reports]


async def main(options: argparse.Namespace) -> None:
    """Start both engines, and measure."""
    async with AsyncExitStack() as stack:
        brains = []
        for tokens in (0, options.tokens):
            engine = EmbeddedEngine(engine_options(options.model, tokens, options.lookup))
            stack.push_async_callback(engine.close)
            info = await engine.start(lambda progress: figures.tell(progress.message))
            brains.append(Brain(engine, profile_for(info.model_type), info=info))
        pair = brains[0], brains[1]
        lines = [
            await measure("plans", pair, list(demo_plans(options.rounds))),
            await measure("trajectories", pair, list(demo_trajectories(options.rounds))),
        ]
    print(figures.table(lines, ("speculating", "plain")))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(DEMO_MODEL), help="checkpoint (the demo model)")
    parser.add_argument("--rounds", type=int, default=30, help="questions of each kind (30)")
    parser.add_argument("--tokens", type=int, default=4, help="proposed tokens (4)")
    parser.add_argument("--lookup", type=int, default=4, help="longest text that is searched, in tokens (4)")
    asyncio.run(main(parser.parse_args()))
