"""Measure the skinny matrix product on a GPU, and write the table that ``flagos_table`` reads; needs no ROS, vLLM or weights.

    PYTHONPATH=. python benchmark/skinny_matmul.py                     # all parts; about 15 minutes
    PYTHONPATH=. python benchmark/skinny_matmul.py --only step --models 7b

The parts:

- ``search`` times launch configurations and PyTorch's operator for each matrix of the models, in CUDA graphs. The weights are
  not in the GPU's cache.
- ``confirm`` times the selected launches alternately with PyTorch's operator, and writes the faster ones to the table.
- ``numerics`` compares the results of both operators with float64.
- ``check`` runs the check of the engine's start, first with an empty cache of compiled kernels and then with a filled one.
- ``step`` times whole decoding steps, alternately with native operators and with the table.
- ``overhead`` times calls outside of CUDA graphs, which look for an entry of the table.

The raw numbers are written to ``--folder``, and the table to ``--table``.
"""

import argparse
import itertools
import json
import multiprocessing
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import figures

from robobrain_ros.engine.flagos.by_shape import table as flagos_table
from robobrain_ros.engine.flagos.by_shape.launches import candidates, known_launches
from robobrain_ros.engine.flagos.by_shape.table import ROWS, Launch, ShapeClass, ShapeEntry, ShapeTable
from robobrain_ros.engine.presets import ARCHITECTURES, Architecture

if TYPE_CHECKING:
    from robobrain_ros.engine.flagos.by_shape.search import Trial

MODELS = {"7b": "qwen2.5-vl-7b", "32b": "qwen2.5-vl-32b", "3b": "qwen2.5-vl-3b", "8b": "qwen3-vl-8b", "4b": "qwen3-vl-4b"}
"""Architectures of RoboBrain by size, in the order of measurement. The 4B and the 8B are RoboBrain 2.5."""
PARTS = ("search", "confirm", "numerics", "check", "step", "overhead")
PARALLEL = (1, 2)
"""Numbers of GPUs with tensor parallelism."""
POOL_WEIGHTS = 820_000_000
"""Number of random weights from which all matrices are taken: enough for the largest one, and more than the GPU caches."""
_VOCABULARY_PADDING = 64
"""vLLM pads the vocabulary to a multiple of this."""


@dataclass(frozen=True)
class Product:
    """A matrix product of a decoding step.

    :param name: name of the model and of the layer's part.
    :param residual: whether the bias of ``addmm`` is a matrix. Inductor adds a residual in this way.
    """

    operator: str
    k: int
    n: int
    name: str
    residual: bool = False


def products(shape: Architecture, parallel: int = 1) -> list[Product]:
    """Return the products of a layer and of the output layer in vLLM. q, k and v are one product, and so are gate and up."""
    heads = (shape.heads // parallel + 2 * max(1, shape.kv_heads // parallel)) * shape.head_dim
    vocabulary = -(-shape.vocabulary // _VOCABULARY_PADDING) * _VOCABULARY_PADDING
    with_bias = shape.model_type == "qwen2_5_vl"
    return [
        Product("addmm" if with_bias else "mm", shape.hidden, heads, "qkv"),
        Product("mm", shape.heads * shape.head_dim // parallel, shape.hidden, "o"),
        Product("mm", shape.hidden, 2 * shape.intermediate // parallel, "gate_up"),
        Product("mm", shape.intermediate // parallel, shape.hidden, "down"),
        Product("mm", shape.hidden, vocabulary // parallel, "head"),
    ]


def all_products(models: Iterable[str], parallel: Iterable[int] = PARALLEL) -> list[Product]:
    """Return the products of these models without repetitions, in each form in which Inductor can call them.

    Inductor can compute a product without its bias and add the bias later. It can add the residual in the products ``o`` and
    ``down``.
    """
    found: dict[tuple[str, int, int], Product] = {}
    for size, model in itertools.product(parallel, models):
        for product in products(ARCHITECTURES[MODELS[model]], size):
            name = f"{model} {product.name}" + (f" tp{size}" if size > 1 else "")
            residual = product.name in ("o", "down")
            for operator in dict.fromkeys((product.operator, "mm", *(("addmm",) if residual else ()))):
                made = Product(operator, product.k, product.n, name, residual and operator == "addmm")
                found.setdefault((operator, product.k, product.n), made)
    return list(found.values())


def compile_all(jobs: Sequence[tuple[Launch, bool, bool]], processes: int) -> list[str]:
    """Compile launches in parallel into Triton's cache.

    :param jobs: for each kernel the launch, whether its steps divide k, and whether there is a bias.
    :returns: messages about launches that failed.
    """
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return [failure for failure in pool.imap_unordered(_compile, jobs, 2) if failure]


def _compile(job: tuple[Launch, bool, bool]) -> str:
    import torch

    from robobrain_ros.engine.flagos.by_shape.matmul import multiply

    launch, exact, with_bias = job
    k = launch.block_k * launch.split_k + (0 if exact else 16)
    n = max(16, launch.block_n)
    x, weight, bias = (torch.zeros(shape, device="cuda", dtype=torch.bfloat16) for shape in ((1, k), (n, k), (n,)))
    try:
        multiply(launch, x, weight.t(), bias if with_bias else None)
    except Exception as error:
        return f"{launch}: {type(error).__name__}: {error}"[:300]
    return ""


def is_exact(launch: Launch, k: int) -> bool:
    """Return whether the steps of a launch divide k."""
    return k % (launch.block_k * launch.split_k) == 0


class Bench:
    """Creates inputs on the GPU, and times products of them."""

    def __init__(self, dtype: str = "bfloat16") -> None:
        import torch

        from robobrain_ros.engine.flagos.by_shape import check as flagos_check
        from robobrain_ros.engine.flagos.by_shape import matmul as flagos_matmul
        from robobrain_ros.engine.flagos.by_shape import search as flagos_search

        self._torch, self._check, self._matmul, self._search = torch, flagos_check, flagos_matmul, flagos_search
        self.dtype = dtype
        self._type = getattr(torch, dtype)
        torch.manual_seed(0)
        self._pool = torch.empty(POOL_WEIGHTS, device="cuda", dtype=self._type).normal_(0.0, 0.02)

    def weights(self, product: Product) -> list[Any]:
        """Return matrices (k, n). Reading them in turn evicts each from the GPU's cache before it is read again."""
        size = product.k * product.n
        count = min(self._check.cold_copies(2 * size), POOL_WEIGHTS // size)
        return [self._pool[index * size : (index + 1) * size].view(product.n, product.k).t() for index in range(count)]

    def inputs(self, product: Product, rows: int) -> tuple[Any, Any]:
        """Return x, and the bias or None."""
        x = self._torch.randn(rows, product.k, device="cuda", dtype=self._type)
        size = (rows, product.n) if product.residual else (product.n,)
        bias = self._torch.randn(size, device="cuda", dtype=self._type) if product.operator == "addmm" else None
        return x, bias

    def trial(self, product: Product, rows: int) -> "Trial":
        """Return the measurement of a shape class."""
        shape = ShapeClass(product.operator, self.dtype, rows, product.k, product.n, product.residual)
        return self._search.Trial(shape, self.weights(product), {"skinny": self._matmul}, self._check.graph_timer)

    def errors(self, product: Product, rows: int, launch: Launch) -> dict[str, float]:
        """Return the root mean square and the maximum of both operators' differences from float64."""
        torch = self._torch
        x, bias = self.inputs(product, rows)
        weight = self.weights(product)[0]
        sides = self._check.native(x, weight, bias), self._matmul.multiply(launch, x, weight, bias)
        squares, most = [0.0, 0.0], [0.0, 0.0]
        for part in range(0, product.n, 16384):
            columns = slice(part, part + 16384)
            exact = x.double() @ weight[:, columns].double() + (0.0 if bias is None else bias[..., columns].double())
            for index, side in enumerate(sides):
                off = (side[:, columns].double() - exact).abs()
                squares[index] += float(off.square().sum())
                most[index] = max(most[index], float(off.max()))
        torch.cuda.synchronize()
        count = rows * product.n
        (native_rms, rms), (native_max, largest) = ((square / count) ** 0.5 for square in squares), most
        return {"native_rms": native_rms, "rms": rms, "native_max": native_max, "max": largest}


def search(options: argparse.Namespace) -> None:
    """Time candidates for every product, and write the selected launches to ``chosen.json``.

    A product with a residual uses the launch of the same product without it.
    """
    end = time.monotonic() + 60.0 * options.minutes
    wanted = [product for product in all_products(options.models) if not product.residual]
    known = known_launches(options.candidates)
    jobs = {
        (launch, is_exact(launch, product.k), product.operator == "addmm")
        for rows in ROWS for launch in candidates(rows, known) for product in wanted
    }  # fmt: skip
    failures = compile_all(sorted(jobs, key=str), options.processes)
    print(f"{len(jobs)} kernels compiled in {60 * options.minutes - (end - time.monotonic()):.0f} s, {len(failures)} failed: "
          f"{failures[:2]}", flush=True)  # fmt: skip
    bench = Bench()
    cells: dict[tuple[Product, int], dict[Launch, float]] = {}
    with (options.folder / "search.jsonl").open("w", encoding="utf-8") as file:
        for product, rows in itertools.product(wanted, ROWS):
            if time.monotonic() > end:
                print(f"no time was left for {product.name} {rows}", flush=True)
                break
            native, times = _times(bench, product, rows, candidates(rows, known))
            cells[product, rows] = times
            best = sorted(times, key=lambda launch: times[launch])[:5]
            line = {**asdict(product), "rows": rows, "native_us": round(native, 3), "tried": len(times)}
            line["best"] = [{**asdict(launch), "us": round(times[launch], 3)} for launch in best]
            file.write(json.dumps(line) + "\n")
            print(f"{product.name:16} {product.operator:5} {rows:2} {native:7.1f} {times[best[0]]:7.1f} us "
                  f"{native / times[best[0]]:.3f} {best[0]}", flush=True)  # fmt: skip
    chosen = choose(cells)
    print(f"{len(set(chosen.values()))} launches for {len(chosen)} shape classes", flush=True)
    lines = [[product.operator, product.k, product.n, rows, asdict(launch)] for (product, rows), launch in chosen.items()]
    text = "[\n" + ",\n".join(map(json.dumps, lines)) + "\n]\n"
    (options.folder / "chosen.json").write_text(text, encoding="utf-8")


def confirm_all(options: argparse.Namespace) -> ShapeTable:
    """Time each launch of ``chosen.json`` alternately with PyTorch's operator; return a table of the faster ones."""
    lines = json.loads((options.folder / "chosen.json").read_text(encoding="utf-8"))
    chosen = {(operator, k, n, rows): Launch(**launch) for operator, k, n, rows, launch in lines}
    entries = []
    with (options.folder / "confirm.jsonl").open("w", encoding="utf-8") as file:
        for dtype in flagos_table.DTYPES:
            bench = Bench(dtype)
            for product, rows in itertools.product(all_products(options.models), ROWS):
                launch = chosen.get(("mm" if product.residual else product.operator, product.k, product.n, rows))
                if launch is None:
                    continue
                entry, line = confirm(bench, product, rows, launch)
                file.write(json.dumps(line) + "\n")
                if entry is not None:
                    entries.append(entry)
            del bench
    return ShapeTable(*versions(), tuple(entries), about())


def _times(bench: Bench, product: Product, rows: int, launches: Sequence[Launch]) -> tuple[float, dict[Launch, float]]:
    """Return the times in µs of PyTorch's operator and of each launch with a correct result."""
    from robobrain_ros.engine.flagos.by_shape.search import Candidate, Timed

    trial, timed = bench.trial(product, rows), Timed()
    trial.time([Candidate("skinny", launch) for launch in launches], timed)
    for candidate, how in timed.faults.items():
        print(f"WRONG: {product} {rows} {candidate.launch}: {how}", flush=True)
    return trial.native_us(), {candidate.launch: us for candidate, us in timed.us.items()}


def choose(cells: dict[tuple[Product, int], dict[Launch, float]]) -> dict[tuple[Product, int], Launch]:
    """Select a launch for each cell, such that few different launches are used.

    The launch of a cell takes at most `search.NEAR` times as long as its fastest one.
    """
    from robobrain_ros.engine.flagos.by_shape.search import NEAR

    near = {}
    for cell, times in cells.items():
        most = NEAR * min(times.values(), default=0.0)
        near[cell] = {launch for launch, us in times.items() if us <= most}
    chosen: dict[tuple[Product, int], Launch] = {}
    while open_cells := [cell for cell in near if near[cell] and cell not in chosen]:
        counts: dict[Launch, int] = {}
        for cell in open_cells:
            for launch in near[cell]:
                counts[launch] = counts.get(launch, 0) + 1
        common = max(sorted(counts, key=str), key=lambda launch: counts[launch])
        chosen.update({cell: common for cell in open_cells if common in near[cell]})
    return chosen


def confirm(bench: Bench, product: Product, rows: int, launch: Launch) -> tuple[ShapeEntry | None, dict[str, Any]]:
    """Time the launch and PyTorch's operator alternately.

    :returns: an entry of the table, and the measured values. The entry is None unless the launch is surely faster.
    """
    from robobrain_ros.engine.flagos.by_shape.search import Candidate

    trial = bench.trial(product, rows)
    found = trial.confirm(Candidate("skinny", launch))
    line = {**asdict(product), "rows": rows, "dtype": bench.dtype, "launch": asdict(launch)}
    line |= {"native_us": round(found.native_us, 3), "us": round(found.us, 3)}
    line |= {name: round(getattr(found, name), 4) for name in ("ratio", "low", "high")}
    return found.entry(trial.shape) if found.faster else None, line


def numerics(options: argparse.Namespace) -> bool:
    """Compare the results of every entry and of PyTorch's operator with float64.

    :returns: whether no error exceeds 1.5 times that of PyTorch's operator.
    """
    table = flagos_table.read(options.table)
    bounds = 0.0
    with (options.folder / "numerics.jsonl").open("w", encoding="utf-8") as file:
        for dtype in flagos_table.DTYPES:
            bench = Bench(dtype)
            for entry in (entry for entry in table.entries if entry.dtype == dtype):
                product = Product(entry.operator, entry.k, entry.n, "", residual=entry.operator == "addmm")
                errors = bench.errors(product, entry.rows, entry.launch)
                ratio = max(errors["rms"] / errors["native_rms"], errors["max"] / errors["native_max"])
                bounds = max(bounds, ratio)
                shown = {name: float(f"{value:.4g}") for name, value in errors.items()}
                file.write(json.dumps({"entry": entry.name, **shown, "ratio": round(ratio, 4)}) + "\n")
            del bench
    print(f"numerics: {len(table.entries)} entries, largest error over native's: {bounds:.3f}", flush=True)
    return bounds <= 1.5


def versions() -> tuple[str, str, str]:
    """Return the GPU's name, and the major versions of PyTorch and Triton, for which a table is valid."""
    import torch
    import triton

    return torch.cuda.get_device_name(), flagos_table.major(torch.__version__), flagos_table.major(triton.__version__)


def about() -> dict[str, str]:
    """Return date, versions and command of the measurement."""
    import torch
    import triton

    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": str(torch.version.cuda or torch.version.hip),
        "python": sys.version.split()[0],
        "command": "PYTHONPATH=. python benchmark/skinny_matmul.py",
    }


def table_of(table: ShapeTable) -> str:
    """Return the speed-up for each model, row range and product as a text table."""
    known = {(entry.operator, entry.k, entry.n, entry.rows): entry for entry in table.entries if entry.dtype == "bfloat16"}
    lines = [("model", "rows", "qkv", "o", "gate_up", "down", "head")]
    for model, parallel, rows in itertools.product(MODELS, PARALLEL, ROWS):
        cells = []
        for product in products(ARCHITECTURES[MODELS[model]], parallel):
            entry = known.get((product.operator, product.k, product.n, rows))
            cells.append("native" if entry is None else f"{entry.native_us / entry.us:.2f}")
        lines.append((f"{model} tp{parallel}" if parallel > 1 else model, str(rows), *cells))  # type: ignore[arg-type]
    return figures.plain_table(lines)


def read_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run (default: all)")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="models by size (default: all)")
    parser.add_argument(
        "--rows", nargs="+", type=int, choices=ROWS, default=[1, 8], help="rows of the decoding steps (default: 1 8)"
    )
    parser.add_argument("--minutes", type=float, default=7.0, help="time limit of the search (default: 7)")
    parser.add_argument("--candidates", type=Path, help="search.jsonl of another GPU: try only its fastest launches")
    parser.add_argument(
        "--rounds", type=int, default=10, help="rounds of native, table, table, native for each decoding step (default: 10)"
    )
    parser.add_argument("--processes", type=int, default=14, help="number of processes that compile (default: 14)")
    parser.add_argument(
        "--folder", type=Path, default=Path("log/skinny_matmul"), help="folder for the raw numbers (default: %(default)s)"
    )
    parser.add_argument("--table", type=Path, default=None, help="file of the table (default: the package's file for this GPU)")
    return parser.parse_args(arguments)


def main() -> None:
    """Run the parts."""
    options = read_arguments()
    options.folder.mkdir(parents=True, exist_ok=True)
    options.table = options.table or flagos_table.table_file(versions()[0])
    print(versions(), about(), flush=True)
    if "search" in options.only:
        search(options)
    if "confirm" in options.only:
        found = confirm_all(options)
        flagos_table.write(options.table, found)
        print(table_of(found), flush=True)
    if "numerics" in options.only and not numerics(options):
        raise SystemExit("An entry's error exceeds 1.5 times that of PyTorch's operator.")
    if {"check", "step", "overhead"} & set(options.only):
        import skinny_step

        skinny_step.run(options)


if __name__ == "__main__":
    main()
