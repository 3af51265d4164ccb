"""Measures the cost and the effect of structured outputs for plans: `python benchmark/structured.py`.

Results: docs/results/node.md.

Needs neither ROS nor a GPU. The demo model answers about tabletop scenes; a checkpoint of random weights, with as many tokens as
RoboBrain has, stands for the largest cost of a form: that of the grammar on a large vocabulary.
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
    "skills", "schema, kB", "made, ms", "first token, schema new, ms", "schema known, ms", "read, ms", "made and read, most, ms",
)  # fmt: skip
ROOM = 7000
"""Tokens for a plan of the random checkpoint."""
NARROW = 2600
"""Tokens of its context where it writes whole plans."""
TIMEOUT = 600.0
_numbers = count()


@dataclass
class Measured:
    """What has been found out so far."""

    sections: list[str] = field(default_factory=list)
    lines: list[Comparison] = field(default_factory=list)
    samples: dict[str, Any] = field(default_factory=dict)


class Unbound:
    """The same engine, which holds nobody to a form."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def start(self, progress: ProgressCallback) -> EngineInfo:
        """As of `Engine`."""
        return await self._engine.start(progress)

    def generate(self, generation: Generation) -> AsyncGenerator[TextDelta, None]:
        """As of `Engine`, but without the constraint; the tag that the model was trained to end an answer with ends it."""
        return self._engine.generate(replace(generation, constraint=None, stop=("</answer>",)))

    async def abort(self, request_id: str) -> None:
        """As of `Engine`."""
        await self._engine.abort(request_id)

    def health(self) -> EngineHealth:
        """As of `Engine`."""
        return self._engine.health()

    async def close(self) -> None:
        """As of `Engine`."""
        await self._engine.close()


@asynccontextmanager
async def started(options: EngineOptions) -> AsyncIterator[tuple[EmbeddedEngine, EngineInfo]]:
    """An engine, from loading to the end of its processes."""
    engine = EmbeddedEngine(options)
    try:
        yield engine, await engine.start(lambda progress: figures.tell(progress.message))
    finally:
        await engine.close()


@dataclass(frozen=True)
class Asked:
    """How one answer came: whether it can be read, and times in seconds."""

    valid: bool
    first_token: float
    per_token: float
    tokens: int
    first_part: float
    total: float


async def ask(brain: Brain, query: Query) -> Asked:
    """Ask once. A plan that cannot be carried out, and the answer that there is nothing to do, have the form all the same."""
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


async def ask_both(free: Brain, held: Brain, queries: Sequence[Query]) -> tuple[list[Asked], list[Asked]]:
    """Ask each query both ways, each way first in every second round.

    Before, it is asked once uncounted: its image and prompt are then in the engine's caches for both ways.
    """
    found: tuple[list[Asked], list[Asked]] = ([], [])
    for number, query in enumerate(queries):
        await ask(held, query)
        sides = [(free, found[0]), (held, found[1])]
        for brain, answers in sides if number % 2 else reversed(sides):
            answers.append(await ask(brain, query))
    return found


def compare_both(name: str, free: Sequence[Asked], held: Sequence[Asked], measured: Measured) -> None:
    """Lines for the first token and for each further one; a section with the shares of answers in form."""
    p50 = quantile(0.5)
    measured.lines += [
        compare(f"{name}: first token, p50", _each(held, "first_token"), _each(free, "first_token"), p50, "ms", scale=1e3),
        compare(f"{name}: each further token, p50", _each(held, "per_token"), _each(free, "per_token"), p50, "ms", scale=1e3),
    ]
    shares = " and ".join(
        f"{sum(asked.valid for asked in answers)} of {len(answers)} {way}" for way, answers in (("free", free), ("held", held))
    )
    tokens = f"{median(_each(free, 'tokens')):.0f} and {median(_each(held, 'tokens')):.0f}"
    measured.sections.append(f"{name}: answers in form: {shares}; tokens of an answer, median: {tokens}.")
    measured.samples[name] = {"free": [vars(asked) for asked in free], "held": [vars(asked) for asked in held]}


def _each(answers: Sequence[Asked], name: str) -> list[float]:
    return [getattr(asked, name) for asked in answers]


def demo_plans(number: int) -> Iterator[Query]:
    """Tasks for the tabletop's arm, each about a scene of its own."""
    for seed in range(number):
        scene = make_scene(seed, SIZE)
        dice = random.Random(seed)
        question = at_first(scene, dice).question(PlanMode.NEW, dice)
        yield Query(Task.PLAN, question.text, [scene.image], plan=question.plan, timeout=TIMEOUT)


def demo_trajectories(number: int) -> Iterator[Query]:
    """Trajectories on the tabletop, each in a scene of its own."""
    for seed in range(number):
        scene = make_scene(seed, SIZE)
        question = ask_about(scene, "reach", random.Random(seed))
        yield Query(Task.TRAJECTORY, question.text, [scene.image], timeout=TIMEOUT)


async def measure_plans(brains: tuple[Brain, Brain], options: argparse.Namespace, measured: Measured) -> None:
    """The demo model's plans, free and held to their form."""
    free, held = await ask_both(*brains, list(demo_plans(options.rounds)))
    compare_both("plans of the demo model", free, held, measured)


async def measure_waypoint(brains: tuple[Brain, Brain], options: argparse.Namespace, measured: Measured) -> None:
    """When the first waypoint is known to who listens, and when to who waits for the answer."""
    answers = [await ask(brains[1], query) for query in demo_trajectories(options.rounds + 1)]
    answers = [asked for asked in answers[1:] if asked.first_part]
    streamed, waited = _each(answers, "first_part"), _each(answers, "total")
    measured.lines.append(
        compare("first waypoint streamed, against the whole trajectory, p50", streamed, waited, quantile(0.5), "ms", scale=1e3)
    )
    measured.samples["waypoint"] = [vars(asked) for asked in answers]


def skills(number: int, variant: int) -> tuple[Skill, ...]:
    """Skills with arguments of their own each, no two variants alike."""
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
    """A task for a robot of so many skills."""
    request = PlanRequest((Robot("arm", skills=skills(number, variant)),), max_steps=2)
    image: RgbImage = np.full((112, 112, 3), 90, np.uint8)
    return Query(Task.PLAN, f"Tidy up, variant {variant}.", [image], plan=request, timeout=TIMEOUT)


async def measure_vocabulary(brains: tuple[Brain, Brain], options: argparse.Namespace, measured: Measured) -> None:
    """Noise over a large vocabulary, free and held to a form."""
    # Noise writes as much as it may: of a small context, that is little.
    narrow = [Brain(brain.engine, brain.profile, info=replace(brain.info, max_model_len=NARROW)) for brain in brains]
    free, held = await ask_both(narrow[0], narrow[1], [skill_query(10, 0)] * max(options.rounds // 4, 3))
    compare_both("plans of random weights", free, held, measured)


async def measure_schemas(brains: tuple[Brain, Brain], options: argparse.Namespace, measured: Measured) -> None:
    """What a form costs before the first token: making the schema, and the engine's reading of one that it has never seen."""
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
            # The first one has the prompt read: what the second finds in the cache must be there for both.
            constraint = Constraint(json_schema=form.text)
            prompt = brain.profile.plan_prompt(query.text, query.plan)
            await first_token(brain.engine, prompt, None)
            new.append(await first_token(brain.engine, prompt, constraint))
            again.append(await first_token(brain.engine, prompt, constraint))
        read = [fresh - known for fresh, known in zip(new, again, strict=True)]
        columns = (median(made), median(new), median(again), median(read), max(a + b for a, b in zip(made, read, strict=True)))
        rows.append((str(number), f"{size / 1e3:.1f}", *(f"{seconds * 1e3:.1f}" for seconds in columns)))
        measured.samples[f"schemas {number}"] = {"made": made, "new": new, "again": again}
    measured.sections.append(f"Forms by the number of skills, medians of {options.variants}:\n\n{plain_table(rows)}")


async def first_token(engine: Engine, prompt: str, constraint: Constraint | None) -> float:
    """Seconds until it."""
    generation = Generation(f"structured-{next(_numbers)}", prompt, [], 1, constraint=constraint)
    began = perf_counter()
    async with aclosing(engine.generate(generation)) as stream:
        async for _ in stream:
            return perf_counter() - began
    raise RuntimeError("The engine has written nothing.")


async def measure_cancel(brains: tuple[Brain, Brain], options: argparse.Namespace, measured: Measured) -> None:
    """How many steps the engine takes from a cancel until the seat is another's.

    One request is written throughout; one token of it is one step of the engine. Beside it, one is cancelled while another waits
    for its seat: counted are the tokens of the first from the cancel to the first token of the one that waited, which needs one
    step itself.
    """
    engine = brains[0].engine
    steps = []
    for _ in range(options.cancels):
        steps.append(await steps_to_next(engine))
    counts = ", ".join(f"{steps.count(number)} x {number}" for number in sorted(set(steps)))
    measured.sections.append(
        f"Steps of the engine from a cancel to the first token of the request that waited for the seat: {counts} "
        f"(median {median(steps):.0f}, most {max(steps)}, n {len(steps)})."
    )
    measured.samples["cancel"] = steps


async def steps_to_next(engine: Engine) -> int:
    """Of one cancel, in an engine of two seats."""
    witness = Witness(endless(engine, 2000))
    try:
        await witness.write(1)
        victim = endless(engine, 2000)
        await until_first(victim)
        waits = endless(engine, 4)
        waiting = asyncio.create_task(until_first(waits))
        await witness.write(5)
        assert not waiting.done(), "there is a third seat"
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
        """Wait until so many more are written."""
        end = self.written + tokens
        while self.written < end:
            self._more.clear()
            await asyncio.wait_for(self._more.wait(), 60.0)

    async def close(self) -> None:
        """End it."""
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)


def endless(engine: Engine, tokens: int) -> AsyncGenerator[TextDelta, None]:
    """A stream of so many tokens: the grammar does not let it end before."""
    constraint = Constraint(regex=f"[a-z]{{{tokens * 40}}}")
    return engine.generate(Generation(f"structured-{next(_numbers)}", "go on", [], tokens, constraint=constraint))


async def until_first(stream: AsyncGenerator[TextDelta, None]) -> None:
    """Wait for its first token."""
    async for delta in stream:
        if delta.tokens:
            return


def texts(most: int) -> Iterator[str]:
    """Texts of which a vocabulary can be learned: what of Python's own sources lies on this machine, ``most`` bytes of it."""
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
        brains = Brain(Unbound(engine), profile, info=info), Brain(engine, profile, info=info)
        for part in parts:
            figures.tell(f"{part.__name__} ...")
            await part(brains, arguments, measured)


async def measure(arguments: argparse.Namespace, folder: Path) -> Measured:
    """All parts that are asked for."""
    measured = Measured()
    with_demo = {"plans": measure_plans, "waypoint": measure_waypoint}
    with_noise = {"vocabulary": measure_vocabulary, "schemas": measure_schemas, "cancel": measure_cancel}
    demo_parts = [part for name, part in with_demo.items() if name in arguments.only]
    noise_parts = [part for name, part in with_noise.items() if name in arguments.only]
    await with_brains(EngineOptions.of(model=arguments.model), demo_parts, arguments, measured)
    if noise_parts:
        figures.tell(f"Learning a vocabulary of {arguments.vocabulary} tokens ...")
        make_random_checkpoint(folder, texts=texts(40_000_000), vocabulary=arguments.vocabulary)
        await with_brains(EngineOptions.of(model=str(folder), max_num_seqs=2), noise_parts, arguments, measured)
    return measured


def main() -> None:
    """Measure, print, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", default=str(DEMO_MODEL), help="checkpoint that plans: a folder, or a name on the hub")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    parser.add_argument("--rounds", type=int, default=40, help="pairs of answers; of random weights a quarter")
    parser.add_argument("--variants", type=int, default=5, help="different schemas of each number of skills")
    parser.add_argument("--cancels", type=int, default=30, help="cancelled requests")
    parser.add_argument("--vocabulary", type=int, default=151_000, help="tokens of the random checkpoint")
    parser.add_argument("--output", type=Path, default=Path("log/structured.json"), help="where the JSON goes")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="robobrain_ros-bench-") as folder:
        measured = asyncio.run(measure(arguments, Path(folder)))
    if measured.lines:
        print(figures.table(measured.lines, ("held", "free or whole")))
    for section in measured.sections:
        print(f"\n{section}")
    figures.write(arguments.output, measured.lines, measured.samples, {"command": " ".join(sys.argv), "model": arguments.model})
    figures.tell(f"All measurements are in {arguments.output}.")


if __name__ == "__main__":
    main()
