"""Compare the answers of a model with native operators and with FlagGems operators::

    ros2 run robobrain_ros check_consistency --model BAAI/RoboBrain2.0-7B --benchmark ~/Where2Place --think both
    python -m robobrain_ros.cli.check_consistency --model ...      # without ROS

The program asks questions about the tabletop world, and the questions in benchmark folders. `read_benchmark` describes the two
supported formats of a folder. The table shows the scores of both runs with 95 % intervals, and the published scores of
RoboBrain2.0-32B from its model card at FlagRelease.
"""

import argparse
import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from robobrain_ros.bounds.files import home_expanded
from robobrain_ros.cli.consistency_report import Cell, Column, as_json, cell_of, table
from robobrain_ros.cli.engine_options import add_engine_argument, is_reserved
from robobrain_ros.cli.progress import Messages
from robobrain_ros.core.brain import Brain
from robobrain_ros.demo import DEMO_MODEL, DemoError
from robobrain_ros.errors import RoboBrainError
from robobrain_ros.evaluation.benchmarks import Benchmark, Item, ItemResult, ask_item, read_benchmark
from robobrain_ros.evaluation.exam import FIRST_SEED, GROUPS, exam, score_all
from robobrain_ros.evaluation.score_table import rows_of

_messages = Messages("check_consistency")


async def fill(column: Column, brain: Brain, benchmarks: Sequence[Benchmark], options: argparse.Namespace) -> None:
    """Ask one engine all questions, and add the scores and results to its column."""
    for think in {"no": [False], "yes": [True], "both": [False, True]}[options.think]:
        if think and not brain.profile.can_think:
            _messages.report(
                f"This {brain.profile.family} checkpoint was not trained to think. The questions with thinking are skipped."
            )
            continue
        if options.scenes:
            questions = exam(range(FIRST_SEED, FIRST_SEED + options.scenes), [(640, 480)], list(GROUPS))
            for row in rows_of(await score_all(brain, questions, think, at_once=options.at_once)):
                if not row.kind:
                    column.cells["tabletop", think, f"{row.group}: {row.measure}"] = Cell(row.value, row.count, row.low, row.high)
        for benchmark in benchmarks:
            results = await _ask_all(brain, benchmark.items, think, options.at_once)
            column.results[benchmark.name, think] = results
            column.cells[benchmark.name, think, "score"] = cell_of(list(results.values()))
            _messages.report(f"{column.title}: {benchmark.name}{', thinking' if think else ''}: {len(results)} answers")


async def _ask_all(brain: Brain, items: Sequence[Item], think: bool, at_once: int) -> dict[str, ItemResult]:
    room = asyncio.Semaphore(at_once)

    async def one(item: Item) -> tuple[str, ItemResult]:
        async with room:
            return item.identity, await ask_item(brain, item, think)

    tasks = [asyncio.ensure_future(one(item)) for item in items]
    try:
        return dict(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def _brain(options: argparse.Namespace, images: int, **flagos: Any) -> AsyncIterator[Brain]:
    from robobrain_ros.local import open_brain

    given = {
        "max_num_seqs": options.at_once,
        "max_images": max(4, images),
        **dict(options.engine),
        **flagos,
        "model_profile": options.model_profile,
    }
    with contextlib.redirect_stdout(sys.stderr):
        brain = await open_brain(options.model, model_profile=options.model_profile, **given)
    try:
        yield brain
    finally:
        await brain.close()


async def run(options: argparse.Namespace) -> None:
    """Ask both engines, one after the other. Then print the table, and write the JSON file if it is requested."""
    benchmarks = await asyncio.to_thread(_read_all, options)
    images = max((len(item.images) for benchmark in benchmarks for item in benchmark.items), default=1)
    columns = []
    for title, mode in (("native", "off"), ("FlagOS", options.mode)):
        named = {} if mode == "off" else {"flagos_include": tuple(options.include), "flagos_exclude": tuple(options.exclude)}
        async with _brain(options, images, flagos_mode=mode, **named) as brain:
            active = brain.engine.health().flagos_active
            column = Column(title if mode == "off" or active else "FlagOS (ran native!)")
            _messages.report(f"{column.title}: {brain.info.engine}. {brain.info.details.get('flagos', '')}")
            await fill(column, brain, benchmarks, options)
            if warning := brain.engine.health().warning:
                _messages.report(warning)
            columns.append(column)
    print(table(*columns), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(as_json(options, columns), indent=1) + "\n", encoding="utf-8")


def _read_all(options: argparse.Namespace) -> list[Benchmark]:
    """Return the benchmarks of the command line, with at most ``--limit`` questions each."""
    benchmarks = []
    for name, folder in options.benchmark:
        benchmark = read_benchmark(home_expanded(folder), name)
        for kind, count in benchmark.skipped.items():
            _messages.report(f"{benchmark.name}: {count} questions are skipped ({kind}).")
        items = benchmark.items[: options.limit] if options.limit else benchmark.items
        benchmarks.append(Benchmark(benchmark.name, items, benchmark.skipped))
    return benchmarks


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description="Compare the answers of a model with native operators and with FlagGems operators."
    )
    parser.add_argument(
        "--model", default=str(DEMO_MODEL), help="model: a folder, or a name on the hub (default: the tabletop demo model)"
    )
    parser.add_argument(
        "--benchmark",
        type=_named_folder,
        action="append",
        default=[],
        metavar="[NAME=]FOLDER",
        help="folder of a benchmark; repeatable",
    )
    parser.add_argument("--scenes", type=_count, default=50, help="number of tabletop scenes; 0: none (default: %(default)s)")
    parser.add_argument("--limit", type=_count, default=0, help="number of questions of each benchmark (default: all)")
    parser.add_argument(
        "--think", choices=("no", "yes", "both"), default="no", help="let the model think before it answers (default: no)"
    )
    parser.add_argument(
        "--mode", choices=("auto", "on"), default="auto", help="flagos.mode of the run with FlagGems (default: auto)"
    )
    parser.add_argument("--include", nargs="+", default=[], metavar="OPERATOR", help="flagos.include")
    parser.add_argument("--exclude", nargs="+", default=[], metavar="OPERATOR", help="flagos.exclude")
    parser.add_argument("--at-once", type=_count, default=16, help="number of requests at the same time (default: %(default)s)")
    add_engine_argument(parser, reserved=is_reserved)
    parser.add_argument("--json", type=Path, help="JSON file for all questions and results")
    options = parser.parse_args(arguments)
    if not options.scenes and not options.benchmark:
        parser.error("there are no questions: --scenes is 0, and --benchmark is missing")
    if not options.at_once:
        parser.error("--at-once must be at least 1")
    return options


def _named_folder(text: str) -> tuple[str, str]:
    name, separator, folder = text.partition("=")
    return (name, folder) if separator else ("", text)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return int(text)


def main() -> None:
    """Run the program. An error ends it with one sentence."""
    try:
        asyncio.run(run(parse_options()))
    except (RoboBrainError, DemoError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Interrupted.")


if __name__ == "__main__":
    main()
