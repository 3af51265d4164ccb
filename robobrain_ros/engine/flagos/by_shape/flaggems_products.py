"""FlagGems' matrix products as an implementation of a table's entries. FlagGems is imported at the first product.

FlagGems measures its own launch configurations at the first call with a shape, and keeps them in a file.
"""

from typing import Any

from robobrain_ros.engine.flagos.by_shape import matmul
from robobrain_ros.engine.flagos.by_shape.table import Launch


class FlagGemsProducts:
    """An `operators.Implementation`. It supports the same tensors as the module `matmul`."""

    def obstacle(self, x: Any, weight: Any, bias: Any = None, out: Any = None) -> str:
        """See `operators.Implementation`."""
        return matmul.obstacle(x, weight, bias, out)

    def multiply(self, launch: Launch, x: Any, weight: Any, bias: Any = None, out: Any = None) -> Any:
        """Compute ``x @ weight + bias`` with FlagGems. The launch is ignored.

        :raises Exception: any exception of FlagGems, also of its import.
        """
        gems = _import_flaggems()
        if bias is None:
            return gems.mm(x, weight) if out is None else gems.mm_out(x, weight, out=out)
        return gems.addmm(bias, x, weight) if out is None else gems.addmm_out(bias, x, weight, out=out)


def _import_flaggems() -> Any:
    import vllm._custom_ops  # noqa: F401  # Before FlagGems: otherwise both define the same operators, and the process aborts.

    import flag_gems  # isort: skip

    return flag_gems
