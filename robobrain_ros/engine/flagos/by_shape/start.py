"""Prepare matrix products by shape in a worker before it captures CUDA graphs: find the table, and check it on this GPU.

`start` raises no exception. If the table cannot be used, PyTorch's operators stay in use, and the reason is reported.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robobrain_ros.engine.flagos.by_shape import own_table, table
from robobrain_ros.errors import EngineConfigError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Device:
    """The device of this process.

    :param name: name of the GPU in PyTorch, or empty for no GPU.
    :param place: PyTorch's device for the tensors of the check.
    :param key: dispatch key of operators on this device.
    :param torch: full version of PyTorch.
    :param triton: full version of Triton, or empty if not installed.
    :param implementations: implementations by their name in the table.
    :param timer: measures the time of calls, or None if the check does not measure times.
    """

    name: str
    place: str
    key: str
    torch: str
    triton: str
    implementations: Mapping[str, Any]
    timer: Callable[..., float] | None


@dataclass(frozen=True)
class StartResult:
    """The result of `start`.

    :param operators: the checked `operators.ShapeOperators`, or None if all matrix products are native.
    :param why: a sentence about the reason, for /diagnostics and the log.
    """

    operators: Any
    why: str

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Register the table's operators inside the ``with`` block. CUDA graphs that are captured there contain the kernels.

        Outside of CUDA graphs, the call of Python in each product takes longer than the kernels save.
        """
        if self.operators is None:
            yield
            return
        self.operators.install()
        try:
            yield
        finally:
            self.operators.remove()

    @property
    def names(self) -> tuple[str, ...]:
        """The operators of which entries have computed a product."""
        return () if self.operators is None else tuple(sorted({entry.operator for entry in self.operators.called}))

    def details(self) -> dict[str, str]:
        """Return keys and values for /diagnostics: the reason, the shapes in use, and the shapes that failed."""
        found = {"flagos_shapes": self.why}
        if self.operators is not None:
            found["flagos_shapes_in_use"] = self.operators.summary
            found["flagos_shapes_failed"] = "; ".join(f"{entry.name}: {how}" for entry, how in self.operators.failed.items())
        return {name: value for name, value in found.items() if value}


def start(
    weights: Iterable[tuple[int, int]],
    dtype: str,
    find_device: Callable[[], Device] | None = None,
    folder: Path = table.FOLDER,
    own: Path | None = None,
) -> StartResult:
    """Find and check the table for a model on this GPU. Afterwards, capture CUDA graphs within `StartResult.installed`.

    :param weights: sizes (k, n) of the model's weight matrices.
    :param dtype: dtype of the weights, such as "bfloat16".
    :param own: folder with the tables of tune_flagos. None: the folder in the environment of this worker.
    """
    try:
        started = _start(set(weights), dtype, (find_device or this_gpu)(), folder, own or own_table.folder_of_environment())
    except EngineConfigError as error:
        started = StartResult(None, f"Native matrix products: {error.message}")
    except Exception as error:  # The engine must start even if the table fails.
        started = StartResult(None, f"Native matrix products: {type(error).__name__}: {error}")
    _log.info("%s", started.why)
    return started


def this_gpu() -> Device:
    """Return the current GPU.

    :raises EngineConfigError: there is no GPU, or no Triton.
    """
    import torch

    if not torch.cuda.is_available():
        raise EngineConfigError("this process has no GPU.")
    try:
        import triton

        from robobrain_ros.engine.flagos.by_shape import check as flagos_check
        from robobrain_ros.engine.flagos.by_shape import matmul as flagos_matmul
        from robobrain_ros.engine.flagos.by_shape.flaggems_products import FlagGemsProducts
    except ImportError as error:
        raise EngineConfigError(f"Triton cannot be imported ({error}).") from error
    name = str(torch.cuda.get_device_name())
    # PyTorch's version is a subclass of str, which vLLM's calls to workers cannot return.
    versions = str(torch.__version__), str(triton.__version__)
    implementations = {"skinny": flagos_matmul, "flag_gems": FlagGemsProducts()}
    return Device(name, "cuda", "CUDA", *versions, implementations, flagos_check.graph_timer)


def _start(weights: set[tuple[int, int]], dtype: str, device: Device, folder: Path, own: Path | None) -> StartResult:
    from robobrain_ros.engine.flagos.by_shape import check as flagos_check
    from robobrain_ros.engine.flagos.by_shape.operators import ShapeOperators

    found = own_table.entries_for(device.name, (device.torch, device.triton), dtype, weights, own, folder)
    entries = found.entries
    verdict = flagos_check.check(entries, device.implementations, device.place, device.timer)
    if verdict.obstacle:
        raise EngineConfigError(f"the check at the start found the table's kernels {verdict.obstacle}.")
    operators = ShapeOperators(entries, device.implementations, device.key)
    ratios = ", ".join(f"{ratio:.2f}" for ratio in verdict.ratios.values())
    why = f"{len(entries)} shape classes of matrix products use {found.source}; checked in {verdict.seconds:.1f} s"
    why += f", {ratios} of the native speed." if ratios else "."
    return StartResult(operators, f"{why} {found.note}".strip())
