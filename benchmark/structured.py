"""Measure the cost and the effect of JSON schemas for plans: `python benchmark/structured.py`.

Results: docs/results/node.md. Needs neither ROS nor a GPU.

The demo model answers questions about the simulated table. A checkpoint with random weights has a vocabulary as large as
RoboBrain's, because the cost of a schema grows with the vocabulary.
"""

import argparse
import asyncio
import json
import random
import sys
import sysconfig
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import figures
import numpy as np
from figures import Comparison, compare, plain_table, quantile

from robobrain_ros.core import Brain, Query, Task, profile_for
from robobrain_ros.core.plans.request import PlanMode, PlanRequest, Robot, Skill
from robobrain_ros.core.plans.schema import plan_form
from robobrain_ros.core.query import Report, RgbImage
from robobrain_ros.demo import DEMO_MODEL
from robobrain_ros.demo.world import make_scene
from robobrain_ros.engine.base import Constraint, Engine, EngineHealth, EngineInfo, Generation, ProgressCallback, TextDelta
from robobrain_ros.engine.embedded.engine import EmbeddedEngine
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.errors import InfeasiblePlanError, NothingFoundError, UnparsableAnswerError
from robobrain_ros.evaluation.plans import at_first
from robobrain_ros.evaluation.questions import ask_about

sys.path.append(str(Path(__file__).resolve().parent.parent / "test"))
from random_checkpoint import make_random_checkpoint

PARTS = ("plans", "waypoint", "vocabulary", "schemas", "cancel")
SIZE = (640, 480)
SKILL_COUNTS = (1, 10, 100)
_SCHEMA_COLUMNS = (
    "skills", "schema, kB", "write, ms", "first token, new schema, ms", "first token, known schema, ms", "compile, ms",
    "write and compile, maximum, ms",
)  # fmt: skip
ROOM = 7000
"""Token limit of a plan of the random checkpoint."""
NARROW = 2600
"""Context length in tokens for complete plans of the random checkpoint."""
TIMEOUT = 600.0
_numbers = count()


@dataclass
class Measured:
    """The results so far."""

    sections: list[str] = field(default_factory=list)
    lines: list[Comparison] = field(default_factory=list)
    samples: dict[str, Any] = field(default_factory=dict)


class Unconstrained:
    """The same engine, without constraints on answers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def start(self, progress: ProgressCallback) -> EngineInfo:
        """See `Engine`."""
        return await self._engine.start(progress)

    def generate(self, generation: Generation) -> AsyncGenerator[TextDelta, None]:
        """See `Engine`. Ignores the constraint. The answer ends with the tag that the model was trained to write at the end."""
        return self._engine.generate(replace(generation, constraint=None, stop=("</answer>",)))

    async def abort(self, request_id: str) -> None:
        """See `Engine`."""
        await self._engine.abort(request_id)

    def health(self) -> EngineHealth:
        """See `Engine`."""
        return self._engine.health()

    async def close(self) -> None:
        """See `Engine`."""
        await self._engine.close()


@asynccontextmanager
async def started(options: EngineOptions) -> AsyncIterator[tuple[EmbeddedEngine, EngineInfo]]:
    """Start an engine, and end its processes at the end of the block."""
    engine = EmbeddedEngine(options)
    try:
        yield engine, await engine.start(lambda progress: figures.tell(progress.message))
    finally:
        await engine.close()


@dataclass(frozen=True)
class Asked:
    """Result of one request: whether the answer can be parsed, and times in seconds."""

    valid: bool
    first_token: float
    per_token: float
    tokens: int
    first_part: float
    total: float


async def ask(brain: Brain, query: Query) -> Asked:
    """Send one request. Infeasible plans and answers without a plan also have the form of a plan."""
    valid = True
    try:
        report = (await brain.run(query)).report
    except (InfeasiblePlanError, NothingFoundError) as error:
        report = error.report or Report()
    except UnparsableAnswerError as error:
        report, valid = error.report or Report(), False
    writing = report.total_time - report.first_token_time
    return Asked(
        valid,
        report.first_token_time,
        writing / max(report.answer_tokens - 1, 1),
        report.answer_tokens,
        report.first_part_time,
        report.total_time,
    )


async def ask_both(free: Brain, constrained: Brain, queries: Sequence[Query]) -> tuple[list[Asked], list[Asked]]:
    """Send each query with and without the constraint, in alternating order.

    An uncounted request comes first, so that the image and the prompt are in the caches of the engine for both.
    """
    found: tuple[list[Asked], list[Asked]] = ([], [])
    for number, query in enumerate(queries):
        await ask(constrained, query)
        sides = [(free, found[0]), (constrained, found[1])]
        for brain, answers in sides if number % 2 else reversed(sides):
            answers.append(await ask(brain, query))
    return found


def compare_both(name: str, free: Sequence[Asked], constrained: Sequence[Asked], measured: Measured) -> None:
    """Add rows for the first token and for each further token, and a section with the shares of answers in the correct form."""
    p50 = quantile(0.5)
    measured.lines += [
        compare(f"{name}: first token, p50", _each(constrained, "first_token"), _each(free, "first_token"), p50, "ms", scale=1e3),
        compare(
            f"{name}: each further token, p50", _each(constrained, "per_token"), _each(free, "per_token"), p50, "ms", scale=1e3
        ),
    ]
    shares = " and ".join(
        f"{sum(asked.valid for asked in answers)} of {len(answers)} {way}"
        for way, answers in (("free", free), ("constrained", constrained))
    )
    tokens = f"{median(_each(free, 'tokens')):.0f} and {median(_each(constrained, 'tokens')):.0f}"
    measured.sections.append(f"{name}: answers in the correct form: {shares}; tokens of an answer, median: {tokens}.")
    measured.samples[name] = {"free": [vars(asked) for asked in free], "constrained": [vars(asked) for asked in constrained]}


def _each(answers: Sequence[Asked], name: str) -> list[float]:
    return [getattr(asked, name) for asked in answers]


def demo_plans(number: int) -> Iterator[Query]:
    """Yield tasks for the demo's arm, each about another scene."""
    for seed in range(number):
        scene = make_scene(seed, SIZE)
        dice = random.Random(seed)
        question = at_first(scene, dice).question(PlanMode.NEW, dice)
        yield Query(Task.PLAN, question.text, [scene.image], plan=question.plan, timeout=TIMEOUT)


def demo_trajectories(number: int) -> Iterator[Query]:
    """Yield questions for trajectories, each about another scene."""
    for seed in range(number):
        scene = make_scene(seed, SIZE)
        question = ask_about(scene, "reach", random.Random(seed))
        yield Query(Task.TRAJECTORY, question.text, [scene.image], timeout=TIMEOUT)


async def measure_plans(brains: tuple[Brain, Brain], options: argparse.Namespace, measured: Measured) -> None:
    """Compare plans of the demo model with and without a schema."""
    free, constrained = await ask_both(*brains, list(demo_plans(options.rounds)))
    compare_both("plans of the demo model", free, constrained, measured)


async def measure_waypoint(brains: tuple[Brain, Brain], options: argparse.Namespace, measured: Measured) -> None:
    """Compare the time until the first waypoint is streamed with the time until the whole answer."""
    answers = [await ask(brains[1], query) for query in demo_trajectories(options.rounds + 1)]
    answers = [asked for asked in answers[1:] if asked.first_part]
    streamed, waited = _each(answers, "first_part"), _each(answers, "total")
    measured.lines.append(
        compare("first waypoint streamed, against the whole trajectory, p50", streamed, waited, quantile(0.5), "ms", scale=1e3)
    )
    measured.samples["waypoint"] = [vars(asked) for asked in answers]


def skills(number: int, variant: int) -> tuple[Skill, ...]:
    """Return skills with different arguments. The arguments of two variants differ."""
    return tuple(
        Skill(f"skill_{index}", f"does {index}", json.dumps({"type": "object", "properties": _properties(index, variant)}))
        for index in range(number)
    )


def _properties(index: int, variant: int) -> dict[str, Any]:
    return {
        f"object_{variant}_{index}": {"type": "string", "format": "object"},
        "speed": {"type": "number", "minimum": 0, "maximum": 1 + index},
        "note": {"type": "string", "maxLength": 20},
    }


def skill_query(number: int, variant: int) -> Query:
    """Return a task for a robot with this number of skills."""
    request = PlanRequest((Robot("arm", skills=skills(number, variant)),), max_steps=2)
    image: RgbImage = np.full((112, 112, 3), 90, np.uint8)
    return Query(Task.PLAN, f"Tidy up, variant {variant}.", [image], plan=request, timeout=TIMEOUT)


async def measure_vocabulary(brains: tuple[Brain, Brain], options: argparse.Namespace, measured: Measured) -> None:
    """Compare plans of random weights, with a large vocabulary, with and without a schema."""
    # Random weights write until the context is full. A small context keeps the answers short.
    narrow = [Brain(brain.engine, brain.profile, info=replace(brain.info, max_model_len=NARROW)) for brain in brains]
    free, constrained = await ask_both(narrow[0], narrow[1], [skill_query(10, 0)] * max(options.rounds // 4, 3))
    compare_both("plans of random weights", free, constrained, measured)


async def measure_schemas(brains: tuple[Brain, Brain], options: argparse.Namespace, measured: Measured) -> None:
    """Measure the time that a new schema adds to the first token: writing the schema, and compiling it in the engine."""
    rows: list[Sequence[str]] = [_SCHEMA_COLUMNS]
    brain = brains[1]
    for number in SKILL_COUNTS:
        made, new, again, size = [], [], [], 0
        for variant in range(1, options.variants + 1):
            query = skill_query(number, variant)
            assert query.plan is not None
            began = perf_counter()
            form = plan_form(query.plan, ROOM)
            size = len(form.text.encode())
            made.append(perf_counter() - began)
            # The first request puts the prompt into the cache, so that both measured requests find it there.
            constraint = Constraint(json_schema=form.text)
            prompt = brain.profile.plan_prompt(query.text, query.plan)
            await first_token(brain.engine, prompt, None)
            new.append(await first_token(brain.engine, prompt, constraint))
            again.append(await first_token(brain.engine, prompt, constraint))
        read = [fresh - known for fresh, known in zip(new, again, strict=True)]
        columns = (median(made), median(new), median(again), median(read), max(a + b for a, b in zip(made, read, strict=True)))
        rows.append((str(number), f"{size / 1e3:.1f}", *(f"{seconds * 1e3:.1f}" for seconds in columns)))
        measured.samples[f"schemas {number}"] = {"made": made, "new": new, "again": again}
    measured.sections.append(f"Schemas by the number of skills, medians of {options.variants}:\n\n{plain_table(rows)}")


async def first_token(engine: Engine, prompt: str, constraint: Constraint | None) -> float:
    """Return the seconds until the first token."""
    generation = Generation(f"structured-{next(_numbers)}", prompt, [], 1, constraint=constraint)
    began = perf_counter()
    async with aclosing(engine.generate(generation)) as stream:
        async for _ in stream:
            return perf_counter() - began
    raise RuntimeError("The engine wrote no token.")


async def measure_cancel(brains: tuple[Brain, Brain], options: argparse.Namespace, measured: Measured) -> None:
    """Measure how many steps the engine needs from a cancel until it works on a waiting request.

    The engine processes two requests at a time. One request runs all the time, and each of its tokens is one step of the engine.
    The second request is canceled while a third one waits. The result is the number of tokens of the first request from the
    cancel to the first token of the third request. This token takes one step itself.
    """
    engine = brains[0].engine
    steps = []
    for _ in range(options.cancels):
        steps.append(await steps_to_next(engine))
    counts = ", ".join(f"{steps.count(number)} x {number}" for number in sorted(set(steps)))
    measured.sections.append(
        f"Steps of the engine from a cancel to the first token of the waiting request: {counts} "
        f"(median {median(steps):.0f}, maximum {max(steps)}, n {len(steps)})."
    )
    measured.samples["cancel"] = steps


async def steps_to_next(engine: Engine) -> int:
    """Return the number of steps for one cancel."""
    witness = Witness(endless(engine, 2000))
    try:
        await witness.write(1)
        victim = endless(engine, 2000)
        await until_first(victim)
        waits = endless(engine, 4)
        waiting = asyncio.create_task(until_first(waits))
        await witness.write(5)
        assert not waiting.done(), "the engine processes three requests at a time"
        at_cancel = witness.written
        await victim.aclose()
        await asyncio.wait_for(waiting, 60.0)
        steps = witness.written - at_cancel
        await waits.aclose()
        return steps
    finally:
        await witness.close()


class Witness:
    """Reads a stream and counts its tokens."""

    def __init__(self, stream: AsyncGenerator[TextDelta, None]) -> None:
        self.written = 0
        self._more = asyncio.Event()
        self._reading = asyncio.create_task(self._read(stream))

    async def _read(self, stream: AsyncGenerator[TextDelta, None]) -> None:
        async with aclosing(stream):
            async for delta in stream:
                self.written += delta.tokens
                self._more.set()

    async def write(self, tokens: int) -> None:
        """Wait for this number of further tokens."""
        end = self.written + tokens
        while self.written < end:
            self._more.clear()
            await asyncio.wait_for(self._more.wait(), 60.0)

    async def close(self) -> None:
        """Stop reading, and close the stream."""
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)


def endless(engine: Engine, tokens: int) -> AsyncGenerator[TextDelta, None]:
    """Return a stream of this number of tokens. The constraint does not permit an earlier end."""
    constraint = Constraint(regex=f"[a-z]{{{tokens * 40}}}")
    return engine.generate(Generation(f"structured-{next(_numbers)}", "go on", [], tokens, constraint=constraint))


async def until_first(stream: AsyncGenerator[TextDelta, None]) -> None:
    """Wait for the first token of a stream."""
    async for delta in stream:
        if delta.tokens:
            return


def texts(most: int) -> Iterator[str]:
    """Yield texts for the training of a vocabulary: the Python sources on this machine, about ``most`` characters of them."""
    read = 0
    for root in (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")):
        for path in sorted(Path(root).rglob("*.py")):
            text = path.read_text(encoding="utf-8", errors="ignore")
            read += len(text)
            yield text
            if read > most:
                return


async def with_brains(options: EngineOptions, parts: Sequence[Any], arguments: argparse.Namespace, measured: Measured) -> None:
    """Measure parts with one engine."""
    if not parts:
        return
    async with started(options) as (engine, info):
        profile = profile_for(info.model_type)
        brains = Brain(Unconstrained(engine), profile, info=info), Brain(engine, profile, info=info)
        for part in parts:
            figures.tell(f"{part.__name__} ...")
            await part(brains, arguments, measured)


async def measure(arguments: argparse.Namespace, folder: Path) -> Measured:
    """Measure the selected parts."""
    measured = Measured()
    with_demo = {"plans": measure_plans, "waypoint": measure_waypoint}
    with_noise = {"vocabulary": measure_vocabulary, "schemas": measure_schemas, "cancel": measure_cancel}
    demo_parts = [part for name, part in with_demo.items() if name in arguments.only]
    noise_parts = [part for name, part in with_noise.items() if name in arguments.only]
    await with_brains(EngineOptions.of(model=arguments.model), demo_parts, arguments, measured)
    if noise_parts:
        figures.tell(f"Training a tokenizer with {arguments.vocabulary} tokens ...")
        make_random_checkpoint(folder, texts=texts(40_000_000), vocabulary=arguments.vocabulary)
        await with_brains(EngineOptions.of(model=str(folder), max_num_seqs=2), noise_parts, arguments, measured)
    return measured


def main() -> None:
    """Measure, print the results, and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", default=str(DEMO_MODEL), help="checkpoint that can plan: a folder, or a name on the hub")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure")
    parser.add_argument("--rounds", type=int, default=40, help="pairs of answers; a quarter of them with random weights")
    parser.add_argument("--variants", type=int, default=5, help="different schemas for each number of skills")
    parser.add_argument("--cancels", type=int, default=30, help="canceled requests")
    parser.add_argument("--vocabulary", type=int, default=151_000, help="tokens of the random checkpoint")
    parser.add_argument("--output", type=Path, default=Path("log/structured.json"), help="file for the JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="robobrain_ros-bench-") as folder:
        measured = asyncio.run(measure(arguments, Path(folder)))
    if measured.lines:
        print(figures.table(measured.lines, ("constrained, or first part", "free, or whole answer")))
    for section in measured.sections:
        print(f"\n{section}")
    figures.write(arguments.output, measured.lines, measured.samples, {"command": " ".join(sys.argv), "model": arguments.model})
    figures.tell(f"All measurements are in {arguments.output}.")


if __name__ == "__main__":
    main()
