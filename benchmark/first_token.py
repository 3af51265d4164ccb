"""Measure the parts of the time to the first token, with a model of real shape and random weights. Needs no ROS or weights.

    PYTHONPATH=. python benchmark/first_token.py 7b
    PYTHONPATH=. python benchmark/first_token.py 7b --prepared-images
    PYTHONPATH=. python benchmark/first_token.py 3b --largest-graph 1248
    PYTHONPATH=. python benchmark/first_token.py 3b --compare-preparation
    PYTHONPATH=. python benchmark/first_token.py 8b --extra '{"compilation_config": {"cudagraph_mm_encoder": true}}'

With ``--prepared-images``, transformers prepares the images in this process, and the image encoder runs without CUDA graphs.
``--largest-graph`` sets the longest prompt in tokens that has a CUDA graph, and compares prompts that are 8 tokens shorter with
prompts that are 8 tokens longer, alternately.

Each line contains medians. *fit* is resizing. *prepared* is the work of vLLM in this process (tokens, patches). *sent* is the
time from there until vLLM's process has scheduled the request. *computed* is the time of that process. *first* is the whole time
until the first token has arrived in this process. The last line is the hardware limit: the operations of the first token at the
rate of a large matrix product, measured on the same device afterwards.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

import gpu_shapes
import numpy as np
from gpu_parts import AT_ONCE, HD, dummy_options, noise

from robobrain_ros.core.imaging import PixelBudget, fit_image
from robobrain_ros.engine.base import DEFAULT_MAX_PIXELS, Generation
from robobrain_ros.engine.embedded import image_bytes
from robobrain_ros.engine.embedded.checkpoint import read_checkpoint
from robobrain_ros.engine.embedded.engine import EmbeddedEngine
from robobrain_ros.engine.embedded.prompt import Prompts
from robobrain_ros.engine.memory import keep_buffers

Times = dict[str, float]
"""Milliseconds of each part of the time."""
PREPARED_IMAGES = (
    '{"worker_cls": "vllm.v1.worker.gpu_worker.Worker", "compilation_config": {"cudagraph_mm_encoder": false, '
    '"compile_mm_encoder": true}}'
)
_WARM_UP = 2
_DECODING_SIZES = (1, 2, 4, 8, 16)
_TEXT_TOKENS = 30
"""Approximate number of tokens of the prompt without the image."""


class Asker:
    """Sends requests to an engine, and measures the times."""

    def __init__(self, engine: EmbeddedEngine, folder: Path, model: str) -> None:
        self._engine = engine
        self._prompts = Prompts.load(read_checkpoint(folder, local=True, weights_needed=False), trust_remote_code=False)
        self._generator = np.random.default_rng(0)
        self._cell = gpu_shapes.SHAPES[model].vision.cell
        self._budget = PixelBudget.within(DEFAULT_MAX_PIXELS, 0, 0, self._cell)
        self._asked = 0

    def image(self) -> Any:
        """Return an image of noise, which is new for every cache."""
        return noise(self._generator, HD)

    def patches(self) -> int:
        """Return the number of patches of an image."""
        return fit_image(self.image(), self._budget).image.size // (3 * self._cell**2) * 4

    def digits(self, count: int) -> str:
        """A text of twice as many tokens, about."""
        return " ".join(str(digit) for digit in self._generator.integers(0, 9, count))

    def text_for(self, tokens: int, image: Any) -> str:
        """A text with which a prompt has at least so many tokens, and at most a few more."""
        images = [] if image is None else [fit_image(image, self._budget).image]
        visual = len(images) * (self.patches() // 4 - 1)  # The placeholder of an image is one token.
        text = "red"
        while self._prompts.count_tokens(self._prompts.render(Generation("", text, images, 1))["prompt"]) + visual < tokens:
            text += f" {self._generator.integers(0, 9)}"
        return text

    async def ask(self, image: Any, text: str, name: str = "", tokens: int = 1) -> Times:
        """Send a request whose answer has exactly this number of tokens.

        :param name: name of the image. Empty: a new name.
        """
        self._asked += 1
        began = time.perf_counter()
        images = [] if image is None else [fit_image(image, self._budget).image]
        fit = time.perf_counter() - began
        names = [name or f"image {self._asked}"] * len(images)
        written = await self._engine.measure(Generation(f"request {self._asked}", text, images, tokens, image_ids=names))
        seconds = {
            "fit": fit,
            "prepared": written.prepared,
            "sent": written.sent,
            "computed": written.computed,
            "first": fit + written.prefill,
            "all": fit + written.total,
        }
        return {part: 1000 * spent for part, spent in seconds.items()}


def tell(title: str, times: list[Times]) -> None:
    """Print a line with medians."""
    said = ", ".join(f"{name} {median(each[name] for each in times):.4g}" for name in times[0])
    print(f"{title}: {said}", flush=True)


async def series(title: str, count: int, make: Callable[[int], Awaitable[Times]]) -> None:
    """Send this number of requests one after the other, after a few requests that are not measured."""
    tell(title, [await make(number) for number in range(count + _WARM_UP)][_WARM_UP:])


async def compare_preparation(asker: Asker, count: int) -> None:
    """Send new images with and without `image_bytes.prepared_alone`, alternately."""
    alone = image_bytes.prepared_alone
    ways: dict[str, Any] = {"prepared alone": alone, "prepared with a text": lambda *_: None}
    times: dict[str, list[Times]] = {name: [] for name in ways}
    for number in range(count + _WARM_UP):
        for name in ways if number % 2 else reversed(ways):
            image_bytes.prepared_alone = ways[name]
            times[name].append(await asker.ask(asker.image(), f"red mug {number}"))
    image_bytes.prepared_alone = alone
    for name, measured in times.items():
        tell(f"a new image {name}", measured[_WARM_UP:])


async def compare_graphs(asker: Asker, count: int, largest: int) -> None:
    """Send requests with and without a CUDA graph for the prompt, alternately."""
    for images, kind in ((1, "a new image"), (0, "a text")):
        times: dict[str, list[Times]] = {"with a graph": [], "without": []}
        for _ in range(count + _WARM_UP):
            for tokens, series_of in zip((largest - 8, largest + 8), times.values(), strict=True):
                image = asker.image() if images else None
                series_of.append(await asker.ask(image, asker.text_for(tokens, image)))
        for name, measured in times.items():
            tell(f"{kind}, prompt {name}", measured[_WARM_UP:])


def extra_arguments(options: argparse.Namespace) -> str:
    """Return the arguments of vLLM that the command line adds, as JSON."""
    if options.prepared_images:
        return PREPARED_IMAGES
    if options.largest_graph:
        sizes = [*_DECODING_SIZES, *range(64, options.largest_graph, 64), options.largest_graph]
        return json.dumps({"compilation_config": {"cudagraph_capture_sizes": sizes}})
    return str(options.extra)


async def measure(options: argparse.Namespace) -> None:
    """Measure all series with one engine."""
    folder = gpu_shapes.checkpoint_for("native", options.model, options.device, options.folder)
    extra = extra_arguments(options)
    engine = EmbeddedEngine(
        dummy_options(
            folder, flagos_mode=options.flagos, quantization=options.quantization, extra=extra,
            gpu_memory_utilization=options.share,
        )
    )  # fmt: skip
    began = time.perf_counter()
    await engine.start(lambda progress: None)
    print(f"ready after {time.perf_counter() - began:.0f} s; milliseconds, medians of {options.count}", flush=True)
    asker = Asker(engine, folder, options.model)
    try:
        if options.largest_graph:
            await compare_graphs(asker, options.count, options.largest_graph)
        if options.compare_preparation:
            await compare_preparation(asker, options.count)
        image, digits = asker.image(), asker.patches() // 8
        await series("a new image", options.count, lambda number: asker.ask(asker.image(), f"red mug {number}"))
        await series("the same image", options.count, lambda number: asker.ask(image, f"red mug {number}", "same"))
        await series("as long a text", options.count, lambda number: asker.ask(None, asker.digits(digits)))
        await series("a short text", options.count, lambda number: asker.ask(None, asker.digits(4)))
        for _ in range(3):
            began = time.perf_counter()
            asked = [asker.ask(asker.image(), f"mug {number}", tokens=64) for number in range(AT_ONCE)]
            times = await asyncio.gather(*asked)
            tell(f"{AT_ONCE} new images at once, 64 tokens each, {time.perf_counter() - began:.2f} s", times)
    finally:
        await engine.close()
    tell_limit(options, asker.patches())


def tell_limit(options: argparse.Namespace, patches: int) -> None:
    """Print the minimum time for the operations of the first token about a new image."""
    chip = gpu_shapes.measure_chip(options.device, small=options.device == "cpu")
    operations = gpu_shapes.prefill_flops(gpu_shapes.SHAPES[options.model], patches // 4 + _TEXT_TOKENS, patches)
    limit = 1000 * operations / chip["flops_per_s"]
    rate = chip["flops_per_s"] / 1e12
    print(f"hardware limit of a new image: {limit:.4g} ms ({operations / 1e12:.3g} TFLOP at {rate:.4g} TFLOP/s, {chip['chip']})")


def main() -> None:
    """Measure as the command line states."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=gpu_shapes.SHAPES)
    parser.add_argument("--extra", default="", help="value of engine.extra")
    parser.add_argument("--prepared-images", action="store_true", help="instead of --extra: as described above")
    parser.add_argument("--largest-graph", type=int, default=0, help="instead of --extra: tokens, as described above")
    parser.add_argument("--compare-preparation", action="store_true", help="compare ways of preparing new images")
    parser.add_argument("--share", type=float, default=0.9, help="engine.gpu_memory_utilization (0.9)")
    parser.add_argument("--flagos", default="off", choices=["off", "on", "auto"], help="value of flagos.mode (off)")
    parser.add_argument("--quantization", default="", help="value of engine.quantization")
    parser.add_argument("--count", type=int, default=10, help="requests of each kind (10)")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu: to try the program, with tiny")
    parser.add_argument("--folder", type=Path, default=Path("log/gpu_checkpoints"), help="folder for checkpoints")
    keep_buffers()  # The node does the same.
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
