"""Measure speculative decoding without a second model: `python benchmark/speculation.py`.

    python benchmark/speculation.py                                   # the demo model writes plans and trajectories
    python benchmark/speculation.py --dtype bfloat16 --at-once 8
    python benchmark/speculation.py --replay 7b --rounds 24           # random weights in the shapes of the 7B write given answers

Two engines answer alternately, one without and one with speculation. The table has a row for each setting, such as ``lookup:8``:
the method of this package (`engine.embedded.lookup`) with 8 proposed tokens. The other methods are ``ngram``, vLLM's own, and
``none``, an engine with speculation that proposes nothing. The settings get different questions, because ``lookup`` learns from
earlier answers. Speculation is useful only if the answers are the same, token by token, and arrive earlier. The benchmark needs
neither ROS nor a GPU. vLLM uses a GPU if there is one.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import figures
import proposers
import replay
from figures import Goal, compare, quantile
from structured import demo_plans, demo_trajectories  # Makes the test support importable.

from robobrain_ros.core import Brain, Query, profile_for
from robobrain_ros.core.query import Report
from robobrain_ros.demo import DEMO_MODEL
from robobrain_ros.engine.embedded.engine import EmbeddedEngine
from robobrain_ros.engine.options import EngineOptions

from reports import report_of  # isort: skip

_GOAL = Goal(0.7)
_LARGEST = 8
"""Proposed tokens of the engine with speculation. A setting can propose fewer."""
_FULL_GRAPHS = {"cudagraph_mode": "FULL", "cudagraph_capture_sizes": [*range(1, 10), *range(16, 73, 8)]}
"""CUDA graphs of a whole step, for each number of tokens. By default, vLLM has such graphs only for steps in which each request
has all proposed tokens. With vLLM 0.26 on an H200, answers with these graphs were not the same (docs/results/node.md)."""
_FAST_START = {"compile_mm_encoder": False, "cudagraph_mm_encoder": False, "cudagraph_capture_sizes": [1, 2, 4, 8, 16]}
"""Settings for engines with random weights. Only their decoding is measured, so they need no CUDA graphs for images."""


@dataclass
class Side:
    """An engine, and what it needs."""

    engine: EmbeddedEngine
    brain: Brain
    end: int

    async def call(self, function: Any, *arguments: Any) -> Any:
        """Call a function in the worker."""
        (result,) = await self.engine.vllm.collective_rpc(function, args=arguments)
        return result

    async def ask(self, query: Query, answer: list[int] | None) -> Report:
        """Send a query. ``answer``: the tokens that the model writes; None: it writes its own."""
        if answer is not None:
            await self.call(replay.give, answer, self.end)
        report = await report_of(self.brain, query)
        if not report.answer_tokens:
            raise RuntimeError("The engine wrote no token.")
        return report


async def start(options: argparse.Namespace, speculates: bool, stack: AsyncExitStack) -> Side:
    """Start an engine. The stack closes it."""
    extra: dict[str, Any] = {"compilation_config": _FAST_START} if options.replay else {}
    if speculates:
        extra["speculative_config"] = {
            "method": "custom_class", "model": f"{proposers.__name__}.{proposers.Selectable.__name__}",
            "num_speculative_tokens": _LARGEST,
        }  # fmt: skip
        if options.full_graphs:
            extra["compilation_config"] = extra.get("compilation_config", {}) | _FULL_GRAPHS
    if options.kv_gib:
        extra["kv_cache_memory_bytes"] = int(options.kv_gib * 2**30)
    folder: str | Path = options.model
    if options.replay:
        folder = replay.write_qwen_checkpoint(options.folder / f"{options.replay}-qwen", options.replay, options.device)
    engine = EmbeddedEngine(
        EngineOptions.of(
            model=str(folder), extra=json.dumps(extra), flagos_mode="off", max_num_seqs=8, gpu_memory_utilization=options.share,
            dtype=options.dtype, max_model_len=8192, max_images=1, load_format="dummy" if options.replay else "auto",
            start_timeout=900.0,
        )
    )  # fmt: skip
    stack.push_async_callback(engine.close)
    began = time.perf_counter()
    info = await engine.start(lambda progress: figures.tell(progress.message))
    figures.tell(f"{'with' if speculates else 'without'} speculation: ready after {time.perf_counter() - began:.0f} s")
    end = engine.vllm.vllm_config.model_config.hf_text_config.eos_token_id
    side = Side(engine, Brain(engine, profile_for(info.model_type), info=info), end)
    if options.replay:
        await side.call(replay.prepare, end)
    return side


def questions(kind: str, options: argparse.Namespace, seed: int) -> Iterator[tuple[Query, str]]:
    """Yield queries, and the answers that the model writes. Empty: it writes its own."""
    if options.replay:
        given = {"plans": replay.plans, "trajectories": replay.trajectories}[kind](options.rounds, seed)
        yield from ((each.query, each.answer) for each in given)
    else:
        own = {"plans": demo_plans, "trajectories": demo_trajectories}[kind](seed + options.rounds)
        yield from ((query, "") for query in islice(own, seed, None))


async def measure(
    kind: str, setting: str, pair: tuple[Side, Side], asked: Sequence[tuple[Query, str]], options: argparse.Namespace
) -> figures.Comparison:
    """Send each query to both engines, in alternating order. Write all values to the file of results."""
    method, _, count = setting.partition(":")
    plain, speculating = pair
    await speculating.call(proposers.select, method, int(count or 0))
    found: tuple[list[Report], list[Report]] = ([], [])
    tokenizer = plain.engine.vllm.get_tokenizer()
    for number, (query, text) in enumerate(asked):
        answer = tokenizer.encode(text, add_special_tokens=False) if text else None
        sides = list(zip(pair, found, strict=True))
        for side, reports in sides if number % 2 else reversed(sides):
            reports.append(await side.ask(query, answer))
        if text and any(reports[-1].raw_text.strip() != text for reports in found):
            figures.tell(f"The models wrote {found[0][-1].raw_text!r} and {found[1][-1].raw_text!r} instead of {text!r}.")
    same = sum(a.raw_text == b.raw_text and a.answer_tokens == b.answer_tokens for a, b in zip(*found, strict=True))
    tokens, steps = sum(_tokens(found[1])), await speculating.call(proposers.steps)
    figures.tell(
        f"{kind}, {setting}: {same} of {len(asked)} answers are the same; tokens, median: {median(_tokens(found[0])):.0f}; "
        f"tokens per step: {tokens / max(steps, 1):.2f}"
    )
    different = [(a.raw_text, b.raw_text) for a, b in zip(*found, strict=True) if a.raw_text != b.raw_text]
    if different:
        figures.tell(f"The first answers that differ, without and with speculation: {different[0][0]!r}, {different[0][1]!r}")
    times = {"speculating": _writing(found[1]), "plain": _writing(found[0])}
    first = {"first token, speculating": _first(found[1]), "first token, plain": _first(found[0])}
    add(
        options,
        {
            "kind": kind,
            "setting": setting,
            "same": same,
            "tokens": _tokens(found[0]),
            "steps": steps,
            "different": different,
            **times,
            **first,
        },
    )
    title = f"{kind}, {setting}: first token to last, p50"
    return compare(title, times["speculating"], times["plain"], quantile(0.5), "ms", scale=1e3, goal=_GOAL)


async def measure_at_once(
    setting: str, pair: tuple[Side, Side], queries: Sequence[Query], options: argparse.Namespace
) -> figures.Comparison:
    """Send several queries at once to one engine, and then to the other one."""
    method, _, count = setting.partition(":")
    await pair[1].call(proposers.select, method, int(count or 0))
    times: tuple[list[float], list[float]] = ([], [])
    same = 0
    for first in range(0, len(queries) - options.at_once + 1, options.at_once):
        texts = []
        for side, seconds in zip(pair, times, strict=True):
            began = time.perf_counter()
            group = queries[first : first + options.at_once]
            texts.append([report.raw_text for report in await asyncio.gather(*(side.ask(query, None) for query in group))])
            seconds.append(time.perf_counter() - began)
        same += sum(a == b for a, b in zip(*texts, strict=True))
    figures.tell(f"{options.at_once} plans at once, {setting}: {same} of {len(times[0]) * options.at_once} answers are the same")
    add(options, {"kind": "at once", "setting": setting, "same": same, "speculating": times[1], "plain": times[0]})
    return compare(f"{options.at_once} plans at once, {setting}: all, p50", times[1], times[0], quantile(0.5), "ms", scale=1e3)


def _writing(reports: Sequence[Report]) -> list[float]:
    return [report.total_time - report.first_token_time for report in reports]


def _first(reports: Sequence[Report]) -> list[float]:
    return [report.first_token_time for report in reports]


def _tokens(reports: Sequence[Report]) -> list[int]:
    return [report.answer_tokens for report in reports]


def add(options: argparse.Namespace, line: dict[str, Any]) -> None:
    """Append a line to the file of results."""
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with options.output.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


async def main(options: argparse.Namespace) -> None:
    """Start both engines, and measure."""
    os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # The benchmark calls its own functions in the worker.
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"  # As with CUDA graphs of the image encoder, see compat.runner_of_encoder_graphs.
    lines = []
    async with AsyncExitStack() as stack:
        pair = await start(options, False, stack), await start(options, True, stack)
        add(options, {"kind": "about", "command": " ".join(sys.argv), **about(options)})
        for kind in options.kinds:
            for number, setting in enumerate(options.settings):
                asked = list(questions(kind, options, 1000 * (number + 1) if options.replay else options.rounds * number))
                lines.append(await measure(kind, setting, pair, asked, options))
        if options.at_once and not options.replay:
            for setting in options.settings:
                queries = list(demo_plans(options.rounds))
                lines.append(await measure_at_once(setting, pair, queries, options))
    print(figures.table(lines, ("speculating", "plain")))


def about(options: argparse.Namespace) -> dict[str, Any]:
    """Return the versions and the device."""
    import torch
    import vllm

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return {"vllm": vllm.__version__, "torch": torch.__version__, "device": device, "python": sys.version.split()[0]}


def read_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(DEMO_MODEL), help="checkpoint (the demo model)")
    parser.add_argument("--replay", default="", help="instead of --model: a shape such as 7b, with given answers")
    parser.add_argument("--settings", nargs="+", default=["lookup:8", "ngram:4"], help="methods and proposed tokens")
    parser.add_argument("--kinds", nargs="+", default=["plans", "trajectories"], help="questions")
    parser.add_argument("--rounds", type=int, default=30, help="questions of each kind for each setting (30)")
    parser.add_argument("--at-once", type=int, default=0, help="also send this number of questions about plans at once")
    parser.add_argument("--full-graphs", action="store_true", help="CUDA graphs of a whole step for each number of tokens")
    parser.add_argument("--dtype", default="auto", help="engine.dtype (auto)")
    parser.add_argument("--share", type=float, default=0.4, help="engine.gpu_memory_utilization of each engine (0.4)")
    parser.add_argument("--kv-gib", type=float, default=0.0, help="KV cache of each engine in GiB, instead of --share")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu: to try --replay, with tiny")
    parser.add_argument("--folder", type=Path, default=Path("log/gpu_checkpoints"), help="folder for checkpoints of --replay")
    parser.add_argument("--output", type=Path, default=Path("log/speculation.jsonl"), help="file to which results are appended")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main(read_arguments()))
