"""What is measured in one process with one engine: each function writes lines of JSON as results come.

Started by gpu.py: ``python gpu_parts.py KIND MODEL ...``.
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
_FITTED = (644, 476)
"""An image whose sides are multiples of a token's 28 pixels: `EmbeddedEngine.measure` does not fit images."""
_ANSWERS = 24
"""Answers that are compared, one at a time, and as many eight at once."""
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
"""Engines that are compared: options besides those that all have; and tune_flagos', whose results need weights."""


T = TypeVar("T")


class FixedLengthEngine(EmbeddedEngine):
    """Writes exactly ``max_tokens`` tokens, whatever they are: random weights do not end by themselves, or end anywhere."""

    async def start(self, progress: ProgressCallback) -> EngineInfo:
        """As `EmbeddedEngine.start`; then each request's sampling parameters are changed on their way into vLLM."""
        info = await super().start(progress)
        generate = self._vllm.generate

        def generate_all(prompt: Any, parameters: Any, *arguments: Any, **named: Any) -> Any:
            parameters.ignore_eos, parameters.min_tokens = True, parameters.max_tokens
            parameters.stop, parameters.output_text_buffer_length = [], 0
            return generate(prompt, parameters, *arguments, **named)

        self._vllm.generate = generate_all
        return info

    async def generate(self, generation: Generation) -> AsyncGenerator[TextDelta, None]:
        """The text is noise, or empty, which would be asked for again: a full stop stands for each piece."""
        async for delta in super().generate(generation):
            yield replace(delta, text=".")


def noise(generator: np.random.Generator, size: tuple[int, int]) -> Any:
    """An image of (width, height), uint8 of shape (height, width, 3)."""
    return generator.integers(0, 255, (size[1], size[0], 3), np.uint8)


class Bench:
    """An engine, images that it has never seen, and the file that results go to."""

    def __init__(self, engine: EmbeddedEngine, brain: Brain, options: argparse.Namespace) -> None:
        self.engine = engine
        self.brain = brain
        self.options = options
        self.noise = np.random.default_rng(options.seed)
        self.images = 0

    def image(self, size: tuple[int, int]) -> Any:
        """Noise of (width, height): each image is new to every cache."""
        self.images += 1
        return noise(self.noise, size)

    async def ask(self, image: Any, *, think: bool = False, tokens: int = 0, text: str = QUESTION, name: str = "") -> Report:
        """One question; how it went."""
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
            raise RuntimeError(f"{came} tokens of answer and thought came instead of {wanted}: times cannot be compared.")
        return report

    async def at_once(self, count: int) -> float:
        """Seconds until so many questions about different images are answered."""
        images = [self.image(HD) for _ in range(count)]
        began = time.perf_counter()
        await asyncio.gather(*(self.ask(image) for image in images))
        return time.perf_counter() - began

    async def step_at_once(self, count: int, tokens: int) -> float:
        """Seconds of one decoding step of so many requests, from the first token of the last one to its end."""
        images = [self.image(HD) for _ in range(count)]
        reports = await asyncio.gather(*(self.ask(image, tokens=tokens) for image in images))
        return _step(max(reports, key=lambda report: report.first_token_time), tokens)


def write(options: argparse.Namespace, what: str, values: Sequence[float], **more: Any) -> None:
    """Add a line to the file."""
    line = {"kind": options.kind, "model": options.model, "what": what, "values": list(values), "turn": options.turn, **more}
    add(options.output, line)
    print(f"{options.model} {options.kind}: {what}, {len(line['values'])} values", flush=True)


def dummy_options(folder: Path, **changes: Any) -> EngineOptions:
    """The options that all engines have, but for changes: random weights, and no FlagGems."""
    # The longest question is a 1280x720 image, a thought and an answer.
    shared: dict[str, Any] = {"max_model_len": 4096, "max_images": 1, "max_num_seqs": AT_ONCE}
    return EngineOptions.of(model=str(folder), **({"load_format": "dummy", "flagos_mode": "off"} | shared | changes))


def engine_options(options: argparse.Namespace, folder: Path, share: float = 1.0) -> EngineOptions:
    """The options of an engine that is measured, and that gets so much of the GPU's usual part."""
    return dummy_options(
        folder, gpu_memory_utilization=0.9 * share, start_timeout=max(options.limit, 10.0),
        flagos_tune_file=str(options.folder / "flagos.json"),
        flagos_exclude=tuple(options.exclude), **KINDS[options.kind],
    )  # fmt: skip


async def measure_engines(options: argparse.Namespace, kinds: Sequence[str]) -> None:
    """What ``--sets`` says, with engines that share the GPU and are measured alternately; mostly it is one engine."""
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
    """An engine that is ready and warm, which the stack closes."""
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
    """Measure each engine so many times, in turn: A B, B A, A B. A machine that becomes slower does so for all alike.

    :returns: for each engine, what was measured.
    """
    measured: dict[int, list[T]] = {index: [] for index in range(len(benches))}
    for turn in range(times):
        order = measured if turn % 2 == 0 else reversed(measured)
        for index in order:
            measured[index].append(await measure(benches[index]))
    return list(measured.values())


async def measure_speed(benches: Sequence[Bench]) -> None:
    """One at a time, eight at once, and how fast tokens follow each other."""
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
              patches=_patches(reports[0]))  # fmt: skip
        write(to, "at 8", seconds, tokens=options.answer_tokens)
        write(to, "decode step", [_step(report, tokens) for report in answers], context=context)
        write(to, "decode step at 8", steps, context=context)


def _step(report: Report, tokens: int) -> float:
    """Seconds of one decoding step of an answer of so many tokens."""
    return (report.total_time - report.first_token_time) / (tokens - 1)


async def measure_answers(bench: Bench) -> None:
    """Greedy answers about the same images for each kind of engine, one at a time and eight at once."""
    options = bench.options
    for at_once in (1, AT_ONCE):
        tokens, probabilities = [], []
        for _ in range(_ANSWERS // at_once):
            asked = [
                Generation(f"held {time.monotonic_ns()} {each}", QUESTION, [bench.image(_FITTED)], options.answer_tokens)
                for each in range(at_once)
            ]
            for measured in await asyncio.gather(*(bench.engine.measure(each, probabilities=True) for each in asked)):
                tokens.append(measured.tokens)
                probabilities.append(measured.probabilities)
        write(options, "answers", [], at_once=at_once, tokens=tokens, probabilities=probabilities)


async def measure_grid(bench: Bench) -> None:
    """Sizes of images, questions about each, with and without thinking."""
    options = bench.options
    for size in (VGA, HD):
        for questions in (1, 3):
            for think in (False, True):
                times = []
                for number in range(options.rounds + 1):
                    image, name = bench.image(size), f"frame {size} {questions} {think} {number}"
                    began = time.perf_counter()
                    asked = [bench.ask(image, think=think, text=f"{QUESTION} {each}", name=name) for each in range(questions)]
                    await asyncio.gather(*asked)
                    times.append(time.perf_counter() - began)
                # The first one is for what is compiled at a new shape.
                write(options, "frame", times[1:], size=size, questions=questions, think=think)


def _weights_gib(worker: Any) -> float:
    """GiB of the weights on the first GPU, as vLLM's worker counted them; 0 on the CPU, where it does not count."""
    return float(getattr(worker.model_runner, "model_memory_usage", 0)) / 2**30


def _patches(report: Report) -> int:
    ((width, height),) = report.model_image_sizes
    return (width // 14) * (height // 14)


def measure_official(options: argparse.Namespace, folder: Path) -> None:
    """transformers' ``generate`` as the official inference.py has it: one request after the other, also where eight wait.

    The same prompt, the same fitted image, as many new tokens; sampling at 0.7 as there. Its weights are as random as ours.
    """
    import torch
    from transformers import AutoConfig, AutoProcessor, Qwen2_5_VLForConditionalGeneration

    dtype = torch.float32 if options.device == "cpu" else torch.bfloat16
    torch.set_default_dtype(dtype)
    with torch.device(options.device):
        model = Qwen2_5_VLForConditionalGeneration(AutoConfig.from_pretrained(folder)).eval()
    torch.set_default_dtype(torch.float32)
    processor = AutoProcessor.from_pretrained(folder)
    profile = profile_for("qwen2_5_vl")
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
            raise RuntimeError(f"{count} tokens instead of {tokens} came: times cannot be compared.")
        return time.perf_counter() - began

    for _ in range(2):
        ask(options.answer_tokens)
    times = [ask(options.answer_tokens) for _ in range(options.rounds * AT_ONCE)]
    write(options, "at 1", times, tokens=options.answer_tokens)
    write(options, "at 8", [sum(times[first : first + AT_ONCE]) for first in range(0, len(times), AT_ONCE)])
    write(options, "first token", [ask(1) for _ in range(options.rounds * AT_ONCE)])


def measure_tuning(options: argparse.Namespace, folder: Path) -> None:
    """tune_flagos, for the same options as the other engines have, so that ``flagos-auto`` finds what it has written."""
    write_weights_apart(folder, options.device)
    settings = Settings(options.tune_pairs, scenes=2, tokens=8, size=VGA)
    tuned = asyncio.run(tune(engine_options(options, folder), settings, lambda line: print(line, flush=True)))
    verdicts = [OperatorVerdict(**{name: value for name, value in row.items() if name != "word"}) for row in tuned.table]
    write(options, "tuned", [], operators=tuned.operators, graphs=tuned.graphs, table=table(verdicts))


def prepare_checkpoint(kind: str, options: argparse.Namespace) -> Path:
    """The folder with what engines of this kind load."""
    folder = gpu_shapes.checkpoint_for(kind, options.model, options.device, options.folder)
    if kind in HELD:
        write_weights_apart(folder, options.device)
    return folder


def write_weights_apart(folder: Path, device: str) -> None:
    """Write weights in a process of its own, whose memory on the chip is free again afterwards."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as writer:
        writer.submit(gpu_shapes.write_weights, folder, device).result()


def _tell(progress: LoadProgress) -> None:
    print(progress.message, file=sys.stderr, flush=True)


def main() -> None:
    """Measure what the command line says."""
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
        measured = gpu_shapes.measure_chip(options.device, small=options.model == "tiny")
        write(options, "chip", [], **measured)
        return
    os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # A function of ours is called in the worker.
    if options.kind == "official":
        measure_official(options, prepare_checkpoint(options.kind, options))
    elif options.kind == "tune":
        measure_tuning(options, prepare_checkpoint(options.kind, options))
    else:
        asyncio.run(measure_engines(options, TOGETHER.get(options.kind, (options.kind,))))


if __name__ == "__main__":
    main()
