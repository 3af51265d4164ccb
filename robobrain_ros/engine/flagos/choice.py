"""What an engine does with the operators of FlagGems."""

from dataclasses import dataclass
from enum import Enum

WORKER_EXTENSION = "robobrain_ros.engine.flagos.worker.FlagosExtension"
"""vLLM's worker extension that brings FlagGems into a worker. A name, because importing it brings FlagGems into this process."""


class Operators(Enum):
    """Who selects the operators that compute the model."""

    NATIVE = "native"
    """vLLM and PyTorch: FlagGems is not used."""
    OURS = "ours"
    """This package: it registers operators of FlagGems in the workers."""
    PLUGIN = "plugin"
    """vllm-plugin-FL: it registers operators of FlagGems by its own selection, except for ``include`` and ``exclude``."""


@dataclass(frozen=True)
class Choice:
    """What an engine does with FlagGems.

    :param why: the reason, a sentence.
    :param include: operators to use; None: all except ``exclude`` and the operators that are excluded by default.
    :param exclude: operators not to use.
    :param graphs: whether CUDA graphs may be used with these operators.
    :param warning: what does not work as requested; empty: everything does.
    :param platform: name of vllm-plugin-FL's platform if it runs the model; empty: vLLM's own platform runs it.
    """

    operators: Operators
    why: str
    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    graphs: bool = False
    warning: str = ""
    platform: str = ""

    @property
    def uses_flaggems(self) -> bool:
        """Whether operators of FlagGems compute the model, whoever selects them."""
        return self.operators is not Operators.NATIVE


NATIVE = Choice(Operators.NATIVE, "FlagGems is not requested.")
