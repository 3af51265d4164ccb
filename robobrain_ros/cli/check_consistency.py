"""Evaluate a model on the tabletop world and on benchmarks, with native operators and with FlagGems operators::

    ros2 run robobrain_ros check_consistency --model BAAI/RoboBrain2.0-7B --benchmark ~/Where2Place --think both
    python -m robobrain_ros.cli.check_consistency --model ...      # without ROS

With ``--bag``, it compares several models on a bag: see `compare_models`.

docs/reference/benchmarks.md describes the supported formats of a folder. The table shows the scores of both engines with 95 %
intervals, the scores with coordinates read on other grids, and published scores.
"""

import argparse
import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from robobrain_ros.bounds.files import home_expanded
from robobrain_ros.cli.answer_log import AnswerLog
from robobrain_ros.cli.compare_options import add_bag_arguments, check_use
from robobrain_ros.cli.consistency_html import page
from robobrain_ros.cli.consistency_report import (
    Cell,
    Column,
    as_json,
    benchmark_cells,
    grid_warnings,
    published_model,
    table,
)
from robobrain_ros.cli.engine_options import add_engine_argument, is_reserved
from robobrain_ros.cli.kept_requests import KeptRequests
from robobrain_ros.cli.progress import Bar, Messages
from robobrain_ros.core.brain import Brain
from robobrain_ros.core.grids import Grid, grid_of
from robobrain_ros.core.profiles import AUTO, Profile
from robobrain_ros.core.query import Task
from robobrain_ros.demo import DEMO_MODEL, DemoError
from robobrain_ros.engine.base import MOST_IMAGES
from robobrain_ros.errors import RoboBrainError
from robobrain_ros.evaluation.benchmark_item import FLAGEVAL, PUBLISHED, Item
from robobrain_ros.evaluation.benchmarks import Benchmark, ItemResult, ask_item, read_benchmark
from robobrain_ros.evaluation.exam import FIRST_SEED, GROUPS, Answers, ExamQuestion, exam, score_all
from robobrain_ros.evaluation.outputs import check_outputs, write_output
from robobrain_ros.evaluation.score_table import rows_of
from robobrain_ros.evaluation.tabletop_grids import OnGrid, Recorder

_SPATIAL = [task.value for task in Task if task.spatial and task.value in GROUPS]
"""Groups of tabletop questions whose answers have coordinates."""
_messages = Messages("check_consistency")


async def fill(
    column: Column, brain: Brain, benchmarks: Sequence[Benchmark], options: argparse.Namespace, log: AnswerLog | None = None
) -> None:
    """Ask one engine all questions, and add the scores and results to its column.

    Answers are not constrained to the grid of the profile, as in the benchmarks' own programs.

    :param log: results of earlier runs, and the file for the new ones.
    """
    free = brain.with_defaults(constrain_coordinates=False)
    for think in {"no": [False], "yes": [True], "both": [False, True]}[options.think]:
        if think and not brain.profile.can_think:
            _messages.report(
                f"This {brain.profile.family} checkpoint was not trained to think. The questions with thinking are skipped."
            )
            continue
        if options.scenes:
            await _fill_tabletop(column, KeptRequests(free, log, column.title), think, options)
        for benchmark in benchmarks:
            askable = _askable(benchmark, brain.profile)
            if not askable:
                continue
            results = await _ask_all(free, askable, benchmark.name, think, options.at_once, column.title, log)
            _messages.report(f"{column.title}: {benchmark.name}{', thinking' if think else ''}: {len(results)} answers")
            column.results[benchmark.name, think] = results
            for measure, cell in benchmark_cells(benchmark, results, grid_of(brain.profile).value).items():
                column.cells[benchmark.name, think, measure] = cell


async def _fill_tabletop(column: Column, brain: KeptRequests, think: bool, options: argparse.Namespace) -> None:
    asked = exam(range(FIRST_SEED, FIRST_SEED + options.scenes), [(640, 480)], list(GROUPS))
    known = await asyncio.to_thread(lambda: [each for each in asked if each.question.task in brain.profile.tasks])
    if not known:
        return
    spatial = [question for question in known if question.group in _SPATIAL]

    async def scores(answers: Answers, questions: Sequence[ExamQuestion], progress: Callable[[int], None]) -> dict[str, Cell]:
        rows = rows_of(await score_all(answers, iter(questions), think, at_once=options.at_once, progress=progress))
        return {f"{row.group}: {row.measure}": Cell(row.value, row.count, row.low, row.high) for row in rows if not row.kind}

    recorder = Recorder(brain)
    bar = Bar(_messages, f"{column.title}: tabletop{', thinking' if think else ''}", len(known))
    try:
        cells = await scores(recorder, known, bar.show)
    finally:
        bar.finish()
    by_grid = {grid.value: await scores(OnGrid(recorder, grid), spatial, lambda done: None) for grid in Grid} if spatial else {}
    own = grid_of(brain.profile).value
    for measure, cell in cells.items():
        grids = {name: found[measure].value for name, found in by_grid.items() if measure in found}
        if not measure.startswith(tuple(_SPATIAL)) or "distance" in measure:
            grids = {}
        column.cells["tabletop", think, measure] = Cell(cell.value, cell.count, cell.low, cell.high, own if grids else "", grids)


def _askable(benchmark: Benchmark, profile: Profile) -> list[Item]:
    """Return the questions that the model's family can answer, and report the others."""
    items = [item for item in benchmark.items if (Task.POINT if item.kind == "point" else Task.ASK) in profile.tasks]
    if len(items) < len(benchmark.items):
        missing = len(benchmark.items) - len(items)
        _messages.report(
            f"{benchmark.name}: {missing} questions are skipped, because {profile.family} has no prompt for their task."
        )
    return items


async def _ask_all(
    brain: Brain, items: Sequence[Item], name: str, think: bool, at_once: int, column: str, log: AnswerLog | None
) -> dict[str, ItemResult]:
    room = asyncio.Semaphore(at_once)
    results: dict[str, ItemResult] = {}
    bar = Bar(_messages, f"{column}: {name}{', thinking' if think else ''}", len(items))

    async def one(item: Item) -> None:
        result = log.result(column, name, think, item) if log is not None else None
        if result is None:
            async with room:
                result = await ask_item(brain, item, think)
            if log is not None:
                log.add(column, name, think, item, result)
        results[item.identity] = result
        bar.show(len(results))

    tasks = [asyncio.ensure_future(one(item)) for item in items]
    try:
        await asyncio.gather(*tasks)
    finally:
        bar.finish()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return {item.identity: results[item.identity] for item in items}


@contextlib.asynccontextmanager
async def _brain(options: argparse.Namespace, images: int, **flagos: Any) -> AsyncIterator[Brain]:
    from robobrain_ros.local import open_brain

    given = {
        "max_num_seqs": options.at_once,
        "max_images": max(4, images),
        **dict(options.engine),
        **flagos,
    }
    with contextlib.redirect_stdout(sys.stderr):
        brain = await open_brain(options.model, model_profile=options.model_profile, **given)
    try:
        yield brain
    finally:
        await brain.close()


async def run(options: argparse.Namespace) -> None:
    """Ask the engines, one after the other. Then print the table, and write the files that are requested."""
    check_outputs(options.resume, options.json, options.html)
    benchmarks = await asyncio.to_thread(_read_all, options)
    images = max((_images(item) for benchmark in benchmarks for item in benchmark.items), default=1)
    log = None if options.resume is None else AnswerLog(options.resume, _settings(options))
    if log is not None and len(log):
        _messages.report(f"{len(log)} answers of an earlier run are in {options.resume}. Only the others are asked.")
    columns, profile = [], None
    try:
        for title, mode in _engines(options):
            named = {"flagos_mode": mode} if mode else {}
            chosen = {"flagos_include": tuple(options.include), "flagos_exclude": tuple(options.exclude)}
            async with _brain(options, images, **named, **(chosen if mode not in ("", "off") else {})) as brain:
                profile = brain.profile
                ran = brain.engine.health().flagos_active or mode in ("", "off")
                column = Column(title if ran else "FlagOS (ran native!)")
                _messages.report(f"{column.title}: {brain.info.engine}. {brain.info.details.get('flagos', '')}")
                await fill(column, brain, benchmarks, options, log)
                if warning := brain.engine.health().warning:
                    _messages.report(warning)
                columns.append(column)
    finally:
        if log is not None:
            log.close()
    assert profile is not None, "at least one engine was asked"
    model = published_model(options.model)
    print(table(columns[0], columns[1] if len(columns) > 1 else None, model), flush=True)
    for warning in grid_warnings(columns):
        _messages.report(f"WARNING: {warning}")
    if options.json is not None:
        write_output(options.json, json.dumps(as_json(options, columns), indent=1) + "\n")
    if options.html is not None:
        text = page(f"Evaluation of {options.model}", columns, benchmarks, profile, grid_of(profile), model)
        write_output(options.html, text)


def _engines(options: argparse.Namespace) -> list[tuple[str, str]]:
    """Return the title and the FlagOS mode of each engine. A server has only one."""
    if dict(options.engine).get("kind") == "remote":
        return [("server", "")]
    both = [("native", "off"), ("FlagOS", options.mode)]
    return {"native": both[:1], "flagos": both[1:], "both": both}[options.engines]


def _images(item: Item) -> int:
    return len(item.images) if item.clip is None else MOST_IMAGES


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that change answers. The answers of other settings are not mixed."""
    return {
        "model": options.model,
        "model profile": options.model_profile,
        "protocol": options.protocol,
        "engine options": sorted(map(str, options.engine)),
        "FlagOS": [options.mode, *options.include, "without", *options.exclude],
    }


def _read_all(options: argparse.Namespace) -> list[Benchmark]:
    """Return the benchmarks of the command line, with at most ``--limit`` questions each."""
    benchmarks = []
    for name, folder in options.benchmark:
        _messages.report(f"{folder}: checking the questions, images and videos.")
        benchmark = read_benchmark(home_expanded(folder), name, options.protocol, options.limit)
        for kind, count in benchmark.skipped.items():
            _messages.report(f"{benchmark.name}: {count} questions are skipped ({kind}).")
        benchmarks.append(benchmark)
        _messages.report(f"{benchmark.name}: {len(benchmark.items)} questions, read as {benchmark.format}.")
    names = [benchmark.name for benchmark in benchmarks]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise DemoError(f"Two benchmarks are called {twice}. Name them: --benchmark NAME=FOLDER.")
    return benchmarks


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description="Evaluate a model on the tabletop world and on benchmarks, with native operators and with FlagGems "
        "operators. Or compare several models on a bag (--bag)."
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
        help="folder of a benchmark; repeatable (formats: docs/reference/benchmarks.md)",
    )
    parser.add_argument(
        "--protocol",
        choices=(PUBLISHED, FLAGEVAL),
        default=PUBLISHED,
        help="wording and scores: of the benchmark's authors, or of FlagEvalMM where it differs (default: published)",
    )
    parser.add_argument("--scenes", type=_count, default=50, help="number of tabletop scenes; 0: none (default: %(default)s)")
    parser.add_argument(
        "--limit", type=_count, default=0, help="number of questions of each benchmark, or of images of --bag (default: all)"
    )
    parser.add_argument(
        "--think", choices=("no", "yes", "both"), default="no", help="let the model think before it answers (default: no)"
    )
    parser.add_argument(
        "--engines", choices=("native", "flagos", "both"), default="both", help="engines to ask; a server is one (default: both)"
    )
    parser.add_argument(
        "--mode", choices=("auto", "on"), default="auto", help="flagos.mode of the run with FlagGems (default: auto)"
    )
    parser.add_argument("--include", nargs="+", default=[], metavar="OPERATOR", help="flagos.include")
    parser.add_argument("--exclude", nargs="+", default=[], metavar="OPERATOR", help="flagos.exclude")
    parser.add_argument(
        "--at-once", type=_count, default=None, help="number of requests at the same time (default: 16; with --bag: 1)"
    )
    add_engine_argument(parser, reserved=is_reserved, of_models=True)
    parser.add_argument("--resume", type=Path, metavar="FILE", help="keep the answers in this file, and ask only those not in it")
    parser.add_argument("--json", type=Path, help="JSON file for all questions and results")
    parser.add_argument("--html", type=Path, help="HTML file for the scores and the worst answers, drawn into their images")
    add_bag_arguments(parser)
    options = parser.parse_args(arguments)
    check_use(parser, options)
    if options.at_once is None:
        options.at_once = 1 if options.bag else 16
    if not options.bag:
        _require_one_model(parser, options)
    if not options.bag and not options.scenes and not options.benchmark:
        parser.error("there are no questions: --scenes is 0, and --benchmark is missing")
    if not options.at_once:
        parser.error("--at-once must be at least 1")
    return options


def _require_one_model(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Reject options of one of several models, which only --bag has."""
    if dotted := next((name for name, _ in options.engine if "." in name), ""):
        parser.error(f"--engine {dotted} names a model, which needs --bag")
    options.model_profile = options.model_profile[-1] if options.model_profile else AUTO


def _named_folder(text: str) -> tuple[str, str]:
    name, separator, folder = text.partition("=")
    return (name, folder) if separator else ("", text)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return int(text)


def main() -> None:
    """Run the program. An error ends it with one sentence."""
    options = parse_options()
    try:
        check_outputs(options.resume, options.json, options.html)
        if options.bag:
            from robobrain_ros.cli import compare_models

            sys.exit(compare_models.main(options, _messages))
        asyncio.run(run(options))
    except (RoboBrainError, DemoError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Interrupted.")


if __name__ == "__main__":
    main()
