"""Select FlagGems' operators by measurements on this machine with this model::

    ros2 run robobrain_ros tune_flagos --model BAAI/RoboBrain2.0-7B
    python -m robobrain_ros.cli.tune_flagos --model BAAI/RoboBrain2.0-7B      # without ROS

The program measures each operator that the model calls in a running engine, alternately with PyTorch's own operator. It keeps an
operator if this gives the same tokens and nearly the same log-probabilities, and is not slower. Then it measures all kept
operators together. It removes the slowest operator until they are not slower together. ``flagos.mode: auto`` reads the result.
After an interruption, the same command continues the run.
"""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from statistics import median

from robobrain_ros.cli.engine_options import add_engine_argument, is_reserved
from robobrain_ros.cli.operator_tuner import EngineMaker, Questions, Report, Settings, State, Tuner, measure, measure_all
from robobrain_ros.cli.operator_verdicts import choose_mode, find_fault, table
from robobrain_ros.core.imaging import PixelBudget
from robobrain_ros.core.profiles import profile_for
from robobrain_ros.demo import DEMO_MODEL
from robobrain_ros.engine.base import EngineInfo
from robobrain_ros.engine.embedded.checkpoint import find_checkpoint
from robobrain_ros.engine.embedded.engine import EmbeddedEngine
from robobrain_ros.engine.embedded.measuring import MeasuredGeneration
from robobrain_ros.engine.flagos import tune_file
from robobrain_ros.engine.flagos.choice import Choice, Operators
from robobrain_ros.engine.flagos.decision import check_usable, graphs_are_possible
from robobrain_ros.engine.flagos.operators import EXCLUDED_BY_DEFAULT, known_operators
from robobrain_ros.engine.flagos.tune_file import TuningResult
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.engine.presets import resolve_options
from robobrain_ros.errors import RoboBrainError
from robobrain_ros.evaluation.evaluate import parse_size


async def tune(options: EngineOptions, settings: Settings, report: Report) -> TuningResult:
    """Measure the operators, and write the tune file.

    :raises RoboBrainError: measuring is impossible here. The message states the reason.
    """
    options.validate()
    # The import of vLLM below reads this variable. An engine sets it too late, when it starts.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", options.embedded.log_level.upper())
    check_usable(options)
    checkpoint = await asyncio.to_thread(find_checkpoint, options, lambda progress: None)
    key = await asyncio.to_thread(tune_file.key_of, options, checkpoint)
    path = tune_file.tune_file(options)
    state_path = path.with_name(f"{path.name}.state")
    state = State.resume(state_path, key, settings, _candidates(options))
    if state.called:
        report(f"Continuing an interrupted run: {len(state.verdicts)} of {len(state.called)} operators have been measured.")

    def questions(info: EngineInfo) -> Questions:
        profile = profile_for(info.model_type)
        return Questions(settings, profile, PixelBudget.within(options.max_pixels, info.min_pixels, info.max_pixels, info.cell))

    def engine(choice: Choice) -> EmbeddedEngine:
        return EmbeddedEngine(options, choice=choice)

    tuner = Tuner(engine, questions, settings, report)
    try:
        await tuner.start()
        operators, verdicts = await measure(tuner, state, state_path, settings, report)
    finally:
        await tuner.close()
    graphs = False
    if operators and graphs_are_possible(options):
        use, graphs = await _with_graphs(engine, questions, operators, settings, report)
        operators = operators if use else []
    tuned = TuningResult(key, tuple(operators), graphs, [{**asdict(verdict), "word": verdict.word} for verdict in verdicts])
    tune_file.write(path, tuned)
    state_path.unlink(missing_ok=True)
    report(f"\n{table(verdicts)}\n")
    how = "with CUDA graphs" if graphs else "eagerly"
    report(
        f"flagos.mode auto will use {', '.join(operators)}, {how}."
        if operators
        else "flagos.mode auto will use no FlagGems operators."
    )
    report(f"Written to {path}.")
    return tuned


def _candidates(options: EngineOptions) -> list[str]:
    known = sorted(known_operators())
    named = options.flagos.include or [name for name in known if name not in EXCLUDED_BY_DEFAULT]
    return [name for name in named if name not in options.flagos.exclude]


async def _with_graphs(
    make_engine: EngineMaker,
    questions: Callable[[EngineInfo], Questions],
    operators: Sequence[str],
    settings: Settings,
    report: Report,
) -> tuple[bool, bool]:
    """Measure whole engines: native with CUDA graphs, FlagGems without and with CUDA graphs, and native once more.

    Two starts of the same native engine differ by about 10 % on an H100. FlagGems must be at least as fast as the faster one.

    :returns: whether to use the operators, and whether with CUDA graphs.
    """
    ways = {
        "native with CUDA graphs": Choice(Operators.NATIVE, "tune_flagos measures."),
        "FlagGems, eager": Choice(Operators.OURS, "tune_flagos measures.", tuple(operators)),
        "FlagGems with CUDA graphs": Choice(Operators.OURS, "tune_flagos measures.", tuple(operators), graphs=True),
        "native once more": Choice(Operators.NATIVE, "tune_flagos measures."),
    }
    times: list[list[float]] = []
    native: list[MeasuredGeneration] = []
    for title, choice in ways.items():
        engine = make_engine(choice)
        try:
            asked = questions(await engine.start(lambda progress: None))
            answers = await measure_all(engine, asked)
            native = native or answers
            wrong = [
                fault for one, other in zip(native, answers, strict=True) if (fault := find_fault(one, other, settings.bound)[0])
            ]
            written = [await engine.measure(asked.timed(index)) for index in range(2 * settings.pairs)]
            times.append([] if wrong else [one.total for one in written])
            report(f"{title}: {median(one.total for one in written) * 1000:.1f} ms{', ' + wrong[0] if wrong else ''}")
        except RoboBrainError as error:
            if not native:
                raise
            times.append([])
            report(f"{title}: {error.message}")
        finally:
            await engine.close()
    return choose_mode(*times)


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description="Measure the FlagGems operators on this machine, and select those that are correct and not slower.",
    )
    parser.add_argument(
        "--model",
        default=str(DEMO_MODEL),
        help="model: a preset, a folder, or a name on the hub (default: the tabletop demo model)",
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
    settings = Settings(given.pairs, given.scenes, given.tokens, given.size[1][0], given.bound)
    try:
        asyncio.run(tune(engine_options(given), settings, lambda line: print(line, flush=True)))
    except RoboBrainError as error:
        sys.exit(error.message)
    except KeyboardInterrupt:
        sys.exit("Interrupted. The measurements are saved; the same command continues the run.")


if __name__ == "__main__":
    main()
