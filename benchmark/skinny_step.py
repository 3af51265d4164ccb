"""Measure whole decoding steps with the shapes of RoboBrain, natively and with the operators of a table. Part of
skinny_matmul.py.

A step computes all layers, with attention over a KV cache, and the output layer in one CUDA graph. torch.compile compiles the
layers as in vLLM. Therefore Inductor's code calls the products as in vLLM: ``mm.out`` and ``addmm.out``.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import figures
from skinny_matmul import MODELS, products, versions

from robobrain_ros.engine.flagos.by_shape import table as flagos_table
from robobrain_ros.engine.flagos.by_shape.table import ShapeTable
from robobrain_ros.engine.presets import ARCHITECTURES, Architecture

CONTEXT = 1400
"""Tokens in the cache of a request: an image of 1280x720 and a question."""
_REPLAYS = 10
_WARM_UP = 3
_OVERHEAD_CALLS = 2000
_OVERHEAD_ROUNDS = 7
_PREFILL_ROWS = 1312


class Step:
    """A model's weights, and its decoding step."""

    def __init__(self, shape: Architecture) -> None:
        import torch

        self._torch, self._shape = torch, shape
        torch.manual_seed(0)
        self._products = {product.name: product for product in products(shape)}
        self._layers = [
            {name: self._weight(name) for name in ("qkv", "o", "gate_up", "down")} for _ in range(shape.layers)
        ]  # fmt: skip
        self._head = self._weight("head")
        with_bias = self._products["qkv"].operator == "addmm"
        self._bias = self._make(self._products["qkv"].n) if with_bias else None
        self._norm = torch.ones(shape.hidden, device="cuda", dtype=torch.bfloat16)
        self._layer = torch.compile(self._layer_eager, dynamic=False)

    def _make(self, *size: int) -> Any:
        return self._torch.empty(size, device="cuda", dtype=self._torch.bfloat16).normal_(0.0, 0.02)

    def _weight(self, name: str) -> Any:
        return self._make(self._products[name].n, self._products[name].k)

    def _rms(self, x: Any, residual: Any) -> tuple[Any, Any]:
        residual = residual + x
        exact = residual.float()
        return (exact * self._torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * self._norm, residual

    def _layer_eager(self, x: Any, residual: Any, keys: Any, values: Any, turns: Any, weights: dict[str, Any]) -> tuple[Any, Any]:
        functional, shape, rows = self._torch.nn.functional, self._shape, x.shape[0]
        width, narrow = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        normed, residual = self._rms(x, residual)
        query, key, value = functional.linear(normed, weights["qkv"], self._bias).split([width, narrow, narrow], -1)
        query = _rotated(self._torch, query.view(rows, shape.heads, 1, shape.head_dim), *turns)
        key = _rotated(self._torch, key.view(rows, shape.kv_heads, 1, shape.head_dim), *turns)
        keys[:, :, -1:] = key
        values[:, :, -1:] = value.view(rows, shape.kv_heads, 1, shape.head_dim)
        mixed = functional.scaled_dot_product_attention(query, keys, values, enable_gqa=True)
        normed, residual = self._rms(functional.linear(mixed.reshape(rows, width), weights["o"]), residual)
        gate, up = functional.linear(normed, weights["gate_up"]).chunk(2, -1)
        return functional.linear(functional.silu(gate) * up, weights["down"]), residual

    def capture(self, rows: int) -> tuple[Callable[[], float], Any]:
        """Capture a step with the operators that are registered now.

        :returns: a function that replays the graph and returns its time in ms, and the logits that it writes.
        """
        torch, shape = self._torch, self._shape
        torch.manual_seed(rows)
        cache = (rows, shape.kv_heads, CONTEXT, shape.head_dim)
        keys, values, x = self._make(*cache), self._make(*cache), self._make(rows, shape.hidden) * 50.0
        turns = tuple(self._make(shape.head_dim // 2) for _ in range(2))

        def step() -> Any:
            state, residual = x, torch.zeros_like(x)
            for weights in self._layers:
                state, residual = self._layer(state, residual, keys, values, turns, weights)
            return torch.nn.functional.linear(self._rms(state, residual)[0], self._head)

        stream = torch.cuda.Stream()
        with torch.no_grad(), torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                step()
            stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                logits = step()

        def timed() -> float:
            from robobrain_ros.engine.flagos.by_shape.check import replayed

            with torch.cuda.stream(stream):
                return replayed(graph, stream, _REPLAYS) * 1e3

        timed()
        return timed, logits


def _rotated(torch: Any, x: Any, cosine: Any, sine: Any) -> Any:
    first, second = x.chunk(2, -1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1)


def measure(model: str, table: ShapeTable, rows_of_steps: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """Time the steps of a model: ``rounds`` times native, table, table, native."""
    from robobrain_ros.engine.flagos.by_shape import matmul as flagos_matmul
    from robobrain_ros.engine.flagos.by_shape.operators import ShapeOperators

    shape = ARCHITECTURES[MODELS[model]]
    step = Step(shape)
    sizes = {(product.k, product.n) for product in products(shape)}
    operators = ShapeOperators(table.for_weights(sizes), {"skinny": flagos_matmul})
    lines = []
    for rows in rows_of_steps:
        native, expected = step.capture(rows)
        operators.called.clear()
        operators.install()
        try:
            ours, logits = step.capture(rows)
        finally:
            operators.remove()
        samples: tuple[list[float], list[float]] = ([], [])
        for _ in range(rounds):
            for side in (0, 1, 1, 0):
                samples[side].append((native, ours)[side]())
        pairs = [[(side[index] + side[index + 1]) / 2 for index in range(0, 2 * rounds, 2)] for side in samples]
        compared = figures.compare(f"{model} {rows}", pairs[1], pairs[0], figures.quantile(0.5), "ms", per=1.0)
        same = float((expected.argmax(-1) == logits.argmax(-1)).float().mean())
        off = float((expected.float() - logits.float()).abs().max() / expected.float().std())
        line = {"model": model, "rows": rows, "native_ms": round(median(samples[0]), 4), "ms": round(median(samples[1]), 4)}
        line |= {"ratio": round(compared.ratio, 4), "low": round(compared.low, 4), "high": round(compared.high, 4)}
        line |= {"rounds": rounds, "same_token": same, "logits_off": round(off, 4), "failed": len(operators.failed)}
        line["refused"] = {entry.name: why for entry, why in operators.refused.items()}
        line["called"] = sorted(entry.name for entry in operators.called)
        line["native_samples"], line["samples"] = ([round(value, 4) for value in side] for side in samples)
        lines.append(line)
        print({name: value for name, value in line.items() if not name.endswith("samples")}, flush=True)
    return lines


def overhead(table: ShapeTable) -> list[dict[str, Any]]:
    """Return the time in µs on the host of calls outside of CUDA graphs, before and after the operators are registered."""
    import torch

    from robobrain_ros.engine.flagos.by_shape import matmul as flagos_matmul
    from robobrain_ros.engine.flagos.by_shape.operators import ShapeOperators

    operators = ShapeOperators(table.entries, {"skinny": flagos_matmul})
    cases = {
        "prefill": (_PREFILL_ROWS, 3584, 4608),
        "few rows, no entry": (8, 64, 64),
        "few rows, entry": (1, 3584, 3584),
    }
    lines = []
    for name, (rows, k, n) in cases.items():
        x = torch.randn(rows, k, device="cuda", dtype=torch.bfloat16)
        weight = torch.randn(n, k, device="cuda", dtype=torch.bfloat16).t()
        out = torch.empty(rows, n, device="cuda", dtype=torch.bfloat16)
        times: dict[str, list[float]] = {"native_us": [], "us": []}
        for _, side in itertools.product(range(_OVERHEAD_ROUNDS), times):
            if side == "us":
                operators.install()
            times[side].append(_host_time(torch, x, weight, out, 50 if rows > 16 else _OVERHEAD_CALLS))
            operators.remove()
        lines.append({"overhead": name, **{side: round(median(values), 2) for side, values in times.items()}})
        print(lines[-1], flush=True)
    return lines


def check(model: str, table: ShapeTable) -> list[dict[str, Any]]:
    """Run the check of an engine's start twice for a model's entries in bfloat16. The second run finds compiled kernels."""
    import torch

    from robobrain_ros.engine.flagos.by_shape import check as flagos_check
    from robobrain_ros.engine.flagos.by_shape import matmul as flagos_matmul

    sizes = {(product.k, product.n) for product in products(ARCHITECTURES[MODELS[model]])}
    entries = [entry for entry in table.for_weights(sizes) if entry.dtype == "bfloat16"]
    lines = []
    for _ in range(2):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        verdict = flagos_check.check(entries, {"skinny": flagos_matmul}, "cuda", flagos_check.graph_timer)
        ratios = {name: round(ratio, 3) for name, ratio in verdict.ratios.items()}
        line = {"check": model, "entries": len(entries), "seconds": round(verdict.seconds, 2), "obstacle": verdict.obstacle}
        line |= {"peak_mb": torch.cuda.max_memory_allocated() // 10**6, "left_mb": torch.cuda.memory_allocated() // 10**6}
        lines.append({**line, "ratios": ratios})
        print(lines[-1], flush=True)
    return lines


def _host_time(torch: Any, x: Any, weight: Any, out: Any, calls: int) -> float:
    """Return the time in µs until a call returns. Each batch is so small that the GPU's queue does not fill."""
    batches = max(1, calls // 50)
    total = 0.0
    for _ in range(batches):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(50):
            torch.mm(x, weight, out=out)
        total += time.perf_counter() - start
    torch.cuda.synchronize()
    return total / batches / 50 * 1e6


def run(options: argparse.Namespace) -> None:
    """Run the parts ``check``, ``step`` and ``overhead`` with the table in ``options.table``."""
    table = flagos_table.read(options.table)
    lines: list[dict[str, Any]] = []
    with (options.folder / "step.jsonl").open("a", encoding="utf-8") as file:
        if "check" in options.only:
            for model in options.models:
                lines += check(model, table)
        if "overhead" in options.only:
            lines += overhead(table)
        if "step" in options.only:
            for model in options.models:
                try:
                    lines += measure(model, table, options.rows, options.rounds)
                except Exception as error:  # Out of memory, for example. The other models are still measured.
                    print(f"{model}: {type(error).__name__}: {error}"[:300], flush=True)
                _free()
        for line in lines:
            file.write(json.dumps({"device": versions()[0], **line}) + "\n")


def _free() -> None:
    import gc

    import torch

    torch._dynamo.reset()
    gc.collect()
    torch.cuda.empty_cache()
