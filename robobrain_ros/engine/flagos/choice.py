"""The choice of operators for an engine: those of FlagGems, and this package's matrix products."""

from dataclasses import dataclass
from enum import Enum

WORKER_EXTENSION = "robobrain_ros.engine.flagos.worker.FlagosExtension"
"""Name of vLLM's worker extension that imports FlagGems. This process must not import it, because that would import FlagGems."""

TABLE_WORKER = "robobrain_ros.engine.flagos.by_shape.vllm_worker.TableWorker"
"""Name of vLLM's GPU worker with matrix products by shape. vLLM imports it in its workers."""

TUNING_WORKER = "robobrain_ros.engine.flagos.by_shape.tuning_worker.TuningWorker"
"""Name of vLLM's GPU worker that measures matrix products for tune_flagos."""

MATRIX_PRODUCTS = ("mm", "mm_out", "addmm", "addmm_out")
"""FlagGems' names of the operators that a table of matrix products replaces."""


class Operators(Enum):
    """The software that selects the operators for the model."""

    NATIVE = "native"
    """vLLM and PyTorch: FlagGems is not used."""
    OURS = "ours"
    """This package: it registers operators of FlagGems in the workers."""
    PLUGIN = "plugin"
    """vllm-plugin-FL: it registers operators of FlagGems by its own selection, except for ``include`` and ``exclude``."""


@dataclass(frozen=True)
class Choice:
    """The operators that an engine uses.

    :param why: the reason, a sentence.
    :param include: operators to use. None means all except ``exclude`` and the operators that are excluded by default.
    :param exclude: operators not to use.
    :param graphs: whether CUDA graphs may be used with these operators.
    :param late: whether the operators are registered after vLLM has captured its CUDA graphs. The graphs then contain native
        operators. Without CUDA graphs, operators are always registered after the model is loaded.
    :param warning: a sentence about a setting that could not be fulfilled, or empty if all settings were fulfilled.
    :param platform: name of vllm-plugin-FL's platform if it runs the model, or empty if vLLM's own platform runs it.
    :param by_shape: whether the workers look for a measured table of matrix products for their GPU.
    :param tunes: whether the workers record the model's matrix products, and can measure them.
    """

    operators: Operators
    why: str
    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    graphs: bool = False
    late: bool = False
    warning: str = ""
    platform: str = ""
    by_shape: bool = False
    tunes: bool = False

    @property
    def uses_flaggems(self) -> bool:
        """Whether the engine uses operators of FlagGems, selected by this package or by vllm-plugin-FL."""
        return self.operators is not Operators.NATIVE

    @property
    def native_graphs(self) -> bool:
        """Whether the CUDA graphs contain no operators of FlagGems."""
        return self.operators is Operators.NATIVE or self.late


NATIVE = Choice(Operators.NATIVE, "FlagGems is not requested.")
