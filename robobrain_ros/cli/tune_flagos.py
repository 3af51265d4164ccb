"""Measure which operators and matrix products of FlagOS are faster on this machine with this model::

    ros2 run robobrain_ros tune_flagos --model BAAI/RoboBrain2.0-7B
    python -m robobrain_ros.cli.tune_flagos --model BAAI/RoboBrain2.0-7B      # without ROS

The program measures in an engine with CUDA graphs, as the node's engine has them. First, it times kernels for the engine's matrix
products, inside CUDA graphs and with weights that are not in the GPU's cache. Then it measures each operator of FlagGems that the
model calls. It keeps an operator that gives the same tokens and nearly the same log-probabilities, and is not slower. Finally, it
compares complete engines, and keeps only what is not slower. ``flagos.mode: auto`` reads the result. After an interruption, the
same command continues with the measured operators.
"""

import argparse
import asyncio
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from robobrain_ros.cli.budget import Budget, Report
from robobrain_ros.cli.engine_options import add_engine_argument, is_reserved
from robobrain_ros.cli.operator_tuner import Settings, State
from robobrain_ros.cli.operator_verdicts import table
from robobrain_ros.cli.tuning_run import Outcome, TuningRun, both_fit, gpu_memory
from robobrain_ros.demo import DEMO_MODEL
from robobrain_ros.engine.embedded.checkpoint import find_checkpoint
from robobrain_ros.engine.flagos import tune_file
from robobrain_ros.engine.flagos.by_shape import own_table
from robobrain_ros.engine.flagos.choice import MATRIX_PRODUCTS
from robobrain_ros.engine.flagos.decision import Measurable, measurable
from robobrain_ros.engine.flagos.operators import EXCLUDED_BY_DEFAULT, known_operators
from robobrain_ros.engine.flagos.tune_file import TuningResult
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.engine.presets import resolve_options
from robobrain_ros.errors import EngineConfigError, RoboBrainError
from robobrain_ros.evaluation.evaluate import parse_size

DEFAULT_MINUTES: float = 6
"""Time limit of a run in minutes. It is meant for the 7B."""


async def tune(options: EngineOptions, settings: Settings, report: Report, minutes: float = DEFAULT_MINUTES) -> TuningResult:
    """Measure, and write the tune file and the table of matrix products.

    :param minutes: time limit. A measurement that has begun is completed, and what was not measured stays native.
    :raises RoboBrainError: measuring is impossible here, the files cannot be written, or the time limit is too short. The message
        states the reason.
    """
    budget = Budget(60.0 * minutes)
    report_time = budget.reporter(report)
    options.validate()
    path = tune_file.tune_file(options)
    await asyncio.to_thread(_check_writable, path)
    # The import of vLLM below reads this variable. An engine sets it too late, when it starts.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", options.embedded.log_level.upper())
    can = await asyncio.to_thread(measurable, options)
    checkpoint = await asyncio.to_thread(find_checkpoint, options, lambda progress: None)
    key = await asyncio.to_thread(tune_file.key_of, options, checkpoint)
    state_path = path.with_name(f"{path.name}.state")
    state = State.resume(state_path, key, settings, _candidates(options, can))
    if state.called:
        report_time(f"Continuing an interrupted run: {len(state.verdicts)} of {len(state.called)} operators have been measured.")
    share = 0.5 if can.graphs and both_fit(options, checkpoint, await asyncio.to_thread(gpu_memory)) else 1.0
    run = TuningRun(options, settings, can, budget, report_time, share)
    outcome = await run.run(state, state_path)
    tuned = _result(key, outcome, can)
    tune_file.write(path, tuned)
    if state.complete:
        state_path.unlink(missing_ok=True)
    if outcome.verdicts:
        report(f"\n{table(outcome.verdicts)}\n")
    _report_operators(outcome, can, report)
    _save_shapes(outcome, path, report)
    report(f"Written to {path} in {budget.used:.0f} s.")
    return tuned


def _check_writable(path: Path) -> None:
    """Check before the measurement that its result can be written.

    :raises EngineConfigError: the tune file or the table of matrix products cannot be written.
    """
    shapes = own_table.folder_for(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        for folder in (path.parent, shapes) if shapes.exists() else (path.parent,):
            with tempfile.NamedTemporaryFile(dir=folder):
                pass
    except OSError as error:
        raise EngineConfigError(f"The result cannot be written to {path} ({error}). Set another --tune-file.") from error


def _candidates(options: EngineOptions, can: Measurable) -> list[str]:
    known = sorted(known_operators())
    named = options.flagos.include or [name for name in known if name not in EXCLUDED_BY_DEFAULT]
    # FlagGems' matrix products are measured by shape, where this is possible.
    excluded = {*options.flagos.exclude, *(() if can.shapes_obstacle else MATRIX_PRODUCTS)}
    return [name for name in named if name not in excluded]


def _result(key: tune_file.Key, outcome: Outcome, can: Measurable) -> TuningResult:
    rows = [{**asdict(verdict), "word": verdict.word} for verdict in outcome.verdicts]
    operators = outcome.kept.operators
    shapes = outcome.shapes.rows if outcome.shapes is not None else []
    return TuningResult(key, operators, bool(operators) and can.graphs, rows, shapes)


def _report_operators(outcome: Outcome, can: Measurable, report: Report) -> None:
    operators = outcome.kept.operators
    how = "with CUDA graphs" if can.graphs else "eagerly"
    report(
        f"flagos.mode auto will use {', '.join(operators)}, {how}."
        if operators
        else "flagos.mode auto will use no FlagGems operators."
    )


def _save_shapes(outcome: Outcome, path: Path, report: Report) -> None:
    """Write the table of matrix products. Without entries, PyTorch's operators are used for the model's weights."""
    if outcome.shapes is None:
        return
    if not outcome.shapes_judged:
        report("The matrix products stay as they are: complete engines do not show whether the shape classes are faster.")
        return
    kept = outcome.kept.table if outcome.kept.has_entries else replace(outcome.shapes.table, entries=())
    assert kept is not None
    written = own_table.save(kept, own_table.folder_for(path))
    report(f"flagos.mode auto will use {len(kept.entries)} shape classes of matrix products ({written}).")


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description="Measure matrix products and FlagGems operators on this machine, and select those that are correct and not "
        "slower.",
    )
    parser.add_argument(
        "--model",
        default=str(DEMO_MODEL),
        help="model: a preset, a folder, or a name on the hub (default: the tabletop demo model)",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=DEFAULT_MINUTES,
        help="time limit in minutes; what is not measured within it stays native (default: %(default)s)",
    )
    parser.add_argument("--include", nargs="+", default=[], metavar="OPERATOR", help="measure only these operators")
    parser.add_argument("--exclude", nargs="+", default=[], metavar="OPERATOR", help="measure all operators except these")
    parser.add_argument("--tune-file", default="", help="file for the result (default: the file that flagos.mode auto reads)")
    parser.add_argument(
        "--pairs",
        type=int,
        default=Settings.pairs,
        help="number of timed pairs, FlagGems and native, for each operator (default: %(default)s)",
    )
    parser.add_argument("--scenes", type=int, default=Settings.scenes, help="number of tabletop scenes (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=Settings.tokens, help="tokens of each answer (default: %(default)s)")
    parser.add_argument(
        "--size", type=parse_size, default=parse_size("640x480"), help="size of the images in pixels (default: 640x480)"
    )
    parser.add_argument(
        "--bound",
        type=float,
        default=Settings.bound,
        help="largest allowed difference of log-probabilities (default: %(default)s)",
    )
    add_engine_argument(parser, reserved=is_reserved)
    parser.add_argument("--list", action="store_true", help="list the operators of the installed FlagGems, and exit")
    options = parser.parse_args(arguments)
    if not 0.0 < options.minutes < 10_000.0:
        parser.error("--minutes must be above 0")
    if min(options.pairs, options.scenes) < 1 or options.tokens < 2:
        parser.error("--pairs and --scenes must be at least 1, --tokens at least 2")
    return options


def engine_options(given: argparse.Namespace) -> EngineOptions:
    """Return the engine's options of the command line.

    :raises EngineConfigError: the model is a misspelled preset.
    """
    explicit = {
        "model": given.model,
        "flagos_mode": "on",
        "flagos_include": tuple(given.include),
        "flagos_exclude": tuple(given.exclude),
        "flagos_tune_file": given.tune_file,
    }
    return resolve_options(explicit | dict(given.engine))


def main() -> None:
    """Run the program. An error ends it with one sentence."""
    given = parse_options()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if given.list:
        print("\n".join(sorted(known_operators())) or "FlagGems is not installed in this Python.")
        return
    settings = Settings(given.pairs, given.scenes, given.tokens, given.size[1][0], given.bound, given.model_profile)
    try:
        asyncio.run(tune(engine_options(given), settings, lambda line: print(line, flush=True), given.minutes))
    except RoboBrainError as error:
        sys.exit(error.message)
    except KeyboardInterrupt:
        sys.exit("Interrupted. The measured operators are saved; the same command continues with them.")


if __name__ == "__main__":
    main()
