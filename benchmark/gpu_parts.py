"""Measurements of gpu.py in one process with one engine. Each function appends lines of JSON to the file of results.

gpu.py starts it: ``python gpu_parts.py KIND MODEL ...``.
"""

import argparse
import asyncio
import multiprocessing
import os
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import gpu_shapes
import numpy as np
from gpu import HELD, TOGETHER, add

from robobrain_ros.cli.operator_tuner import Settings
from robobrain_ros.cli.operator_verdicts import OperatorVerdict, table
from robobrain_ros.cli.tune_flagos import tune
from robobrain_ros.core import Brain, Query, Task, profile_for
from robobrain_ros.core.imaging import PixelBudget, fit_image
from robobrain_ros.core.query import Defaults, Report
from robobrain_ros.engine.base import DEFAULT_MAX_PIXELS, EngineInfo, Generation, LoadProgress, ProgressCallback, TextDelta
from robobrain_ros.engine.embedded.engine import EmbeddedEngine
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.errors import UnparsableAnswerError

QUESTION = "the red mug"
AT_ONCE = 8
HD, VGA = (1280, 720), (640, 480)
_FITTED_CELLS = (23, 17)
"""Size of an image in visual tokens. `EmbeddedEngine.measure` does not resize images."""
_ANSWERS = 24
"""Number of compared answers, one at a time, and again eight at a time."""
KINDS: dict[str, dict[str, Any]] = {
    "native": {},
    "eager": {"enforce_eager": True},
    "flagos-on": {"flagos_mode": "on"},
    "flagos-eager": {"flagos_mode": "on", "enforce_eager": True},
    "flagos-auto": {"flagos_mode": "auto"},
    "native-held": {"load_format": "auto"},
    "auto-held": {"flagos_mode": "auto", "load_format": "auto"},
    "tensor": {"tensor_parallel_size": 2},
    "pipeline": {"pipeline_parallel_size": 2},
    "data": {"data_parallel_size": 2},
    "fp8": {"quantization": "fp8_per_tensor"},
    "w8a16": {},
    "tune": {"flagos_mode": "on", "load_format": "auto"},
}
"""Options of the engines in addition to the common options. tune_flagos needs weights."""


T = TypeVar("T")


class FixedLengthEngine(EmbeddedEngine):
    """An engine that writes exactly ``max_tokens`` tokens. With random weights, the end of an answer is random."""

    async def start(self, progress: ProgressCallback) -> EngineInfo:
        """See `EmbeddedEngine.start`. Afterwards, the sampling parameters of each request are changed before vLLM gets them."""
        info = await super().start(progress)
        generate = self._vllm.generate

        def generate_all(prompt: Any, parameters: Any, *arguments: Any, **named: Any) -> Any:
            parameters.ignore_eos, parameters.min_tokens = True, parameters.max_tokens
            parameters.stop, parameters.output_text_buffer_length = [], 0
            return generate(prompt, parameters, *arguments, **named)

        self._vllm.generate = generate_all
        return info

    async def generate(self, generation: Generation) -> AsyncGenerator[TextDelta, None]:
        """See `Engine`. Each piece of text is replaced by a full stop. The brain would repeat a request with an empty text."""
        async for delta in super().generate(generation):
            yield replace(delta, text=".")


def noise(generator: np.random.Generator, size: tuple[int, int]) -> Any:
    """Return an image of noise with size (width, height), uint8 of shape (height, width, 3)."""
    return generator.integers(0, 255, (size[1], size[0], 3), np.uint8)


class Bench:
    """An engine, new images for it, and the file of results."""

    def __init__(self, engine: EmbeddedEngine, brain: Brain, options: argparse.Namespace) -> None:
        self.engine = engine
        self.brain = brain
        self.options = options
        self.noise = np.random.default_rng(options.seed)
        self.images = 0

    def image(self, size: tuple[int, int]) -> Any:
        """Return noise of size (width, height). Each image is new for every cache."""
        self.images += 1
        return noise(self.noise, size)

    async def ask(self, image: Any, *, think: bool = False, tokens: int = 0, text: str = QUESTION, name: str = "") -> Report:
        """Send one question. Return its report."""
        tokens = tokens or self.options.answer_tokens
        query = Query(
            Task.POINT, text, [image], image_ids=[name or f"new {self.images} {time.monotonic_ns()}"], think=think,
            max_tokens=tokens, timeout=600.0,
        )  # fmt: skip
        try:
            report = (await self.brain.run(query)).report
        except UnparsableAnswerError as error:
            if error.report is None:
                raise
            report = error.report
        wanted = tokens, self.options.think_tokens if think else 0
        if (report.answer_tokens, report.thinking_tokens) != wanted:
            came = report.answer_tokens, report.thinking_tokens
            raise RuntimeError(
                f"The model wrote {came} tokens of answer and thinking instead of {wanted}. Times cannot be compared."
            )
        return report

    async def at_once(self, count: int) -> float:
        """Return the seconds until this number of questions about different images are answered."""
        images = [self.image(HD) for _ in range(count)]
        began = time.perf_counter()
        await asyncio.gather(*(self.ask(image) for image in images))
        return time.perf_counter() - began

    async def step_at_once(self, count: int, tokens: int) -> float:
        """Return the seconds of one decoding step of this number of requests, measured from the last first token to the end."""
        images = [self.image(HD) for _ in range(count)]
        reports = await asyncio.gather(*(self.ask(image, tokens=tokens) for image in images))
        return _step(max(reports, key=lambda report: report.first_token_time), tokens)


def write(options: argparse.Namespace, what: str, values: Sequence[float], **more: Any) -> None:
    """Append a line to the file of results."""
    line = {"kind": options.kind, "model": options.model, "what": what, "values": list(values), "turn": options.turn, **more}
    add(options.output, line)
    print(f"{options.model} {options.kind}: {what}, {len(line['values'])} values", flush=True)


def dummy_options(folder: Path, **changes: Any) -> EngineOptions:
    """Return the common options of all engines, with changes: random weights, and no FlagGems."""
    # The longest request has a 1280x720 image, thinking and an answer.
    shared: dict[str, Any] = {"max_model_len": 4096, "max_images": 1, "max_num_seqs": AT_ONCE}
    return EngineOptions.of(model=str(folder), **({"load_format": "dummy", "flagos_mode": "off"} | shared | changes))


def engine_options(options: argparse.Namespace, folder: Path, share: float = 1.0) -> EngineOptions:
    """Return the options of a measured engine.

    :param share: share of the GPU memory that an engine uses by default.
    """
    return dummy_options(
        folder, gpu_memory_utilization=0.9 * share, start_timeout=max(options.limit, 10.0),
        flagos_tune_file=str(options.folder / "flagos.json"),
        flagos_exclude=tuple(options.exclude), **KINDS[options.kind],
    )  # fmt: skip


async def measure_engines(options: argparse.Namespace, kinds: Sequence[str]) -> None:
    """Measure the sets of ``--sets``, alternately with several engines that share the GPU. Usually there is one engine."""
    folder = prepare_checkpoint(kinds[0], options)
    async with AsyncExitStack() as stack:
        benches = [await _started(kind, options, folder, 1.0 / len(kinds), stack) for kind in kinds]
        if "speed" in options.sets:
            await measure_speed(benches)
        for bench in benches:
            write(bench.options, "called", [], operators=bench.engine.health().flagos_operators)
            if "grid" in options.sets:
                await measure_grid(bench)
            if "answers" in options.sets:
                await measure_answers(bench)


async def _started(kind: str, options: argparse.Namespace, folder: Path, share: float, stack: AsyncExitStack) -> Bench:
    """Start an engine and warm it up. The stack closes it."""
    options = argparse.Namespace(**vars(options) | {"kind": kind})
    engine = FixedLengthEngine(engine_options(options, folder, share))
    stack.push_async_callback(engine.close)
    began = time.perf_counter()
    info = await engine.start(lambda progress: _tell(progress))
    seconds, (weights, *_) = time.perf_counter() - began, await engine.vllm.collective_rpc(_weights_gib)
    write(options, "start", [seconds], engine=info.engine, flagos_active=info.flagos_active, weights_gib=weights,
          warning=engine.health().warning, details=info.details)  # fmt: skip
    brain = Brain(engine, profile_for(info.model_type), info=info, defaults=Defaults(think_tokens=options.think_tokens))
    bench = Bench(engine, brain, options)
    for count in (1, AT_ONCE, 1):
        await bench.at_once(count)  # Warm up.
    return bench


async def alternately(benches: Sequence[Bench], times: int, measure: Callable[[Bench], Awaitable[T]]) -> list[list[T]]:
    """Measure each engine this number of times, in alternating order: A B, B A, A B.

    A machine that becomes slower affects all engines equally.

    :returns: the results for each engine.
    """
    measured: dict[int, list[T]] = {index: [] for index in range(len(benches))}
    for turn in range(times):
        order = measured if turn % 2 == 0 else reversed(measured)
        for index in order:
            measured[index].append(await measure(benches[index]))
    return list(measured.values())


async def measure_speed(benches: Sequence[Bench]) -> None:
    """Measure one request at a time, eight requests at a time, and the time of a decoding step."""
    options = benches[0].options
    rounds, tokens = options.rounds, options.decode_tokens
    asked = await alternately(benches, rounds * AT_ONCE, lambda bench: bench.ask(bench.image(HD)))
    at_once = await alternately(benches, rounds, lambda bench: bench.at_once(AT_ONCE))
    long = await alternately(benches, rounds, lambda bench: bench.ask(bench.image(HD), tokens=tokens))
    steps_at_once = await alternately(benches, rounds, lambda bench: bench.step_at_once(AT_ONCE, tokens))
    for bench, reports, seconds, answers, steps in zip(benches, asked, at_once, long, steps_at_once, strict=True):
        to = bench.options
        context = answers[0].prompt_tokens + tokens // 2
        write(to, "at 1", [report.total_time for report in reports], tokens=options.answer_tokens)
        write(to, "first token", [report.first_token_time for report in reports], prompt_tokens=reports[0].prompt_tokens,
              patches=_patches(reports[0], to.model))  # fmt: skip
        write(to, "at 8", seconds, tokens=options.answer_tokens)
        write(to, "decode step", [_step(report, tokens) for report in answers], context=context)
        write(to, "decode step at 8", steps, context=context)


def _step(report: Report, tokens: int) -> float:
    """Return the seconds of one decoding step of an answer with this number of tokens."""
    return (report.total_time - report.first_token_time) / (tokens - 1)


async def measure_answers(bench: Bench) -> None:
    """Record greedy answers, one at a time and eight at a time. The images are the same for each kind of engine."""
    options = bench.options
    cell = gpu_shapes.SHAPES[options.model].vision.cell
    fitted = cell * _FITTED_CELLS[0], cell * _FITTED_CELLS[1]
    for at_once in (1, AT_ONCE):
        tokens, probabilities = [], []
        for _ in range(_ANSWERS // at_once):
            asked = [
                Generation(f"held {time.monotonic_ns()} {each}", QUESTION, [bench.image(fitted)], options.answer_tokens)
                for each in range(at_once)
            ]
            for measured in await asyncio.gather(*(bench.engine.measure(each, probabilities=True) for each in asked)):
                tokens.append(measured.tokens)
                probabilities.append(measured.probabilities)
        write(options, "answers", [], at_once=at_once, tokens=tokens, probabilities=probabilities)


async def measure_grid(bench: Bench) -> None:
    """Measure image sizes and numbers of questions, with thinking if the model can think, and without."""
    options = bench.options
    thinking = (False, True) if bench.brain.profile.can_think else (False,)
    for size in (VGA, HD):
        for questions in (1, 3):
            for think in thinking:
                times = []
                for number in range(options.rounds + 1):
                    image, name = bench.image(size), f"frame {size} {questions} {think} {number}"
                    began = time.perf_counter()
                    asked = [bench.ask(image, think=think, text=f"{QUESTION} {each}", name=name) for each in range(questions)]
                    await asyncio.gather(*asked)
                    times.append(time.perf_counter() - began)
                # The first time contains the compilation for a new shape.
                write(options, "frame", times[1:], size=size, questions=questions, think=think)


def _weights_gib(worker: Any) -> float:
    """Return the GiB of the weights on the first GPU that vLLM's worker reports.

    0 on the CPU, because it reports nothing there.
    """
    return float(getattr(worker.model_runner, "model_memory_usage", 0)) / 2**30


def _patches(report: Report, model: str) -> int:
    ((width, height),), patch = report.model_image_sizes, gpu_shapes.SHAPES[model].vision.patch
    return (width // patch) * (height // patch)


def measure_official(options: argparse.Namespace, folder: Path) -> None:
    """Measure ``generate`` of transformers as in the official inference.py: one request after the other, even if eight wait.

    Prompt, image size and number of tokens are those of the engine. The temperature is 0.7 as in inference.py. The weights are
    random.
    """
    import torch
    from transformers import AutoProcessor

    model = gpu_shapes.new_model(folder, options.device)
    processor = AutoProcessor.from_pretrained(folder)
    profile = profile_for(model.config.model_type)
    generator = np.random.default_rng(options.seed)
    budget = PixelBudget.within(DEFAULT_MAX_PIXELS, 0, 0, profile.cell)

    def ask(tokens: int) -> float:
        image = noise(generator, HD)
        began = time.perf_counter()
        content = [{"type": "image"}, {"type": "text", "text": profile.prompt(Task.POINT, QUESTION)}]
        message = [{"role": "user", "content": content}]
        text = processor.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        text += profile.assistant_prefix(think=False)
        fitted = fit_image(image, budget).image
        inputs = processor(text=[text], images=[fitted], return_tensors="pt").to(options.device)
        with torch.inference_mode():
            made = model.generate(**inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=True, temperature=0.7)
        count = made.shape[1] - inputs["input_ids"].shape[1]
        if count != tokens:
            raise RuntimeError(f"The model wrote {count} tokens instead of {tokens}. Times cannot be compared.")
        return time.perf_counter() - began

    for _ in range(2):
        ask(options.answer_tokens)
    times = [ask(options.answer_tokens) for _ in range(options.rounds * AT_ONCE)]
    write(options, "at 1", times, tokens=options.answer_tokens)
    write(options, "at 8", [sum(times[first : first + AT_ONCE]) for first in range(0, len(times), AT_ONCE)])
    write(options, "first token", [ask(1) for _ in range(options.rounds * AT_ONCE)])


def measure_tuning(options: argparse.Namespace, folder: Path) -> None:
    """Run tune_flagos with the options of the other engines, so that ``flagos-auto`` finds its results."""
    write_weights_apart(folder, options.device)
    settings = Settings(options.tune_pairs, scenes=2, tokens=8, size=VGA)
    minutes = max(1.0, options.limit / 60.0 - 0.5)
    tuned = asyncio.run(tune(engine_options(options, folder), settings, lambda line: print(line, flush=True), minutes))
    verdicts = [OperatorVerdict(**{name: value for name, value in row.items() if name != "word"}) for row in tuned.table]
    write(options, "tuned", [], operators=tuned.operators, graphs=tuned.graphs, table=table(verdicts), shapes=tuned.shapes)


def prepare_checkpoint(kind: str, options: argparse.Namespace) -> Path:
    """Return the folder with the checkpoint for engines of this kind."""
    folder = gpu_shapes.checkpoint_for(kind, options.model, options.device, options.folder)
    if kind in HELD:
        write_weights_apart(folder, options.device)
    return folder


def write_weights_apart(folder: Path, device: str) -> None:
    """Write weights in a separate process, so that its GPU memory is free afterwards."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as writer:
        writer.submit(gpu_shapes.write_weights, folder, device).result()


def _tell(progress: LoadProgress) -> None:
    print(progress.message, file=sys.stderr, flush=True)


def main() -> None:
    """Measure as the command line states."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["chip", "official", *KINDS, *TOGETHER])
    parser.add_argument("model", choices=gpu_shapes.SHAPES)
    parser.add_argument("--sets", nargs="*", default=["speed"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--limit", type=float, default=300.0)
    parser.add_argument("--turn", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--answer-tokens", type=int, default=64)
    parser.add_argument("--think-tokens", type=int, default=256)
    parser.add_argument("--decode-tokens", type=int, default=256)
    parser.add_argument("--tune-pairs", type=int, default=10)
    parser.add_argument("--exclude", nargs="*", default=[])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.kind == "chip":
        measured = gpu_shapes.measure_chip(options.device, small=options.model.startswith("tiny"))
        write(options, "chip", [], **measured)
        return
    os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # The benchmark calls its own function in the worker.
    if options.kind == "official":
        measure_official(options, prepare_checkpoint(options.kind, options))
    elif options.kind == "tune":
        measure_tuning(options, prepare_checkpoint(options.kind, options))
    else:
        asyncio.run(measure_engines(options, TOGETHER.get(options.kind, (options.kind,))))


if __name__ == "__main__":
    main()
