"""Replace PyTorch's matrix products by those of a table through torch.library. Shapes without an entry stay native.

`ShapeOperators` registers a function for ``mm``, ``mm.out``, ``addmm`` and ``addmm.out``. The function looks for an entry of
the shape, and calls the entry's implementation. Without an entry, it calls PyTorch's kernel, which it took from the dispatcher
before the registration. CUDA graphs record only the kernels, so the lookup takes time only outside of CUDA graphs. Importing this
module imports PyTorch.
"""

import logging
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch

from robobrain_ros.engine.flagos.by_shape.table import MOST_ROWS, OPERATORS, ROWS, Launch, ShapeEntry

_log = logging.getLogger(__name__)


class Implementation(Protocol):
    """An implementation of matrix products, such as the module `matmul`."""

    def obstacle(self, x: Any, weight: Any, bias: Any = None, out: Any = None) -> str:
        """Return why these tensors are unsupported, or an empty string if they are supported."""

    def multiply(self, launch: Launch, x: Any, weight: Any, bias: Any = None, out: Any = None) -> Any:
        """Compute ``x @ weight + bias``."""


class ShapeOperators:
    """Operators that use a table's entries. They are registered from `install` until `remove`.

    :param entries: entries to use, at most one for each shape class.
    :param implementations: implementations by the name in ``ShapeEntry.implementation``.
    :param key: dispatch key of the device. PyTorch uses CUDA also for AMD's GPUs.
    """

    def __init__(self, entries: Iterable[ShapeEntry], implementations: Mapping[str, Implementation], key: str = "CUDA") -> None:
        self.entries = tuple(entries)
        self.called: set[ShapeEntry] = set()
        """Entries that have computed a product. Replays of CUDA graphs are not recorded."""
        self.failed: dict[ShapeEntry, str] = {}
        """Entries whose implementation raised an exception, and the exception. Afterwards, PyTorch computes their shapes."""
        self.refused: dict[ShapeEntry, str] = {}
        """Entries whose implementation does not support the tensors of a call, and the reason of the last such call."""
        self.on_failure: Callable[[], None] = lambda: None
        """Called after an entry was added to `failed`."""
        self._implementations = dict(implementations)
        self._key = key
        self._library: Any = None
        self._by_weights: dict[str, dict[tuple[Any, int, int], list[ShapeEntry | None]]] = {name: {} for name in OPERATORS}
        for entry in self.entries:
            self._add(entry)

    def _add(self, entry: ShapeEntry) -> None:
        weights = (getattr(torch, entry.dtype), entry.k, entry.n)
        by_rows = self._by_weights[entry.operator].setdefault(weights, [None] * (MOST_ROWS + 1))
        below = max((rows for rows in ROWS if rows < entry.rows), default=0)
        by_rows[below + 1 : entry.rows + 1] = [entry] * (entry.rows - below)

    def install(self) -> None:
        """Register the operators that have entries. Further calls do nothing.

        :raises RuntimeError: this PyTorch has no ``torch.library.get_kernel`` (new in 2.9), or no kernel for the device.
        """
        if self._library is not None:
            return
        if not hasattr(torch.library, "get_kernel"):
            raise RuntimeError(f"PyTorch {torch.__version__} has no torch.library.get_kernel")
        library = torch.library.Library("aten", "IMPL")
        forms = {"mm": (self._mm, self._mm_out), "addmm": (self._addmm, self._addmm_out)}
        for operator in self._replaced:
            for name, make in zip((operator, f"{operator}.out"), forms[operator], strict=True):
                native = torch.library.get_kernel(f"aten::{name}", self._key).call_boxed
                with warnings.catch_warnings():
                    # PyTorch warns about replacing a kernel, which is intended here.
                    warnings.filterwarnings("ignore", "Warning only once for all operators", UserWarning)
                    library.impl(name, make(native), self._key, with_keyset=True)
        self._library = library

    @property
    def _replaced(self) -> tuple[str, ...]:
        """The operators that `install` registers."""
        return tuple(name for name in OPERATORS if self._by_weights[name])

    def remove(self) -> None:
        """Register PyTorch's own operators again. Recorded CUDA graphs do not change."""
        if self._library is not None:
            self._library._destroy()
            self._library = None

    @property
    def summary(self) -> str:
        """The entries that have computed a product, as text: "mm bfloat16 3584x4608: 1, 2 rows; ..."."""
        rows: dict[str, list[int]] = {}
        for entry in self.called:
            if entry not in self.failed:
                rows.setdefault(f"{entry.operator} {entry.dtype} {entry.k}x{entry.n}", []).append(entry.rows)
        return "; ".join(f"{name}: {', '.join(map(str, sorted(found)))} rows" for name, found in sorted(rows.items()))

    def _mm(self, native: Callable[..., Any]) -> Callable[..., Any]:
        def mm(keys: Any, x: Any, weight: Any) -> Any:
            result = self.compute("mm", x, weight)
            return native(keys, x, weight) if result is None else result

        return mm

    def _mm_out(self, native: Callable[..., Any]) -> Callable[..., Any]:
        def mm_out(keys: Any, x: Any, weight: Any, *, out: Any) -> Any:
            result = self.compute("mm", x, weight, out=out)
            return native(keys, x, weight, out=out) if result is None else result

        return mm_out

    def _addmm(self, native: Callable[..., Any]) -> Callable[..., Any]:
        def addmm(keys: Any, bias: Any, x: Any, weight: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
            result = self.compute("addmm", x, weight, bias) if beta == 1 and alpha == 1 else None
            return native(keys, bias, x, weight, beta=beta, alpha=alpha) if result is None else result

        return addmm

    def _addmm_out(self, native: Callable[..., Any]) -> Callable[..., Any]:
        def addmm_out(keys: Any, bias: Any, x: Any, weight: Any, *, beta: Any = 1, alpha: Any = 1, out: Any) -> Any:
            result = self.compute("addmm", x, weight, bias, out) if beta == 1 and alpha == 1 else None
            return native(keys, bias, x, weight, beta=beta, alpha=alpha, out=out) if result is None else result

        return addmm_out

    def compute(self, operator: str, x: Any, weight: Any, bias: Any = None, out: Any = None) -> Any:
        """Compute a product with the entry for its shape, or None if PyTorch's operator must compute it."""
        entry = self.find(operator, x, weight)
        if entry is None:
            return None
        implementation = self._implementations[entry.implementation]
        if why := implementation.obstacle(x, weight, bias, out):
            self.refused[entry] = why
            return None
        try:
            result = implementation.multiply(entry.launch, x, weight, bias, out)
        except torch.OutOfMemoryError as error:  # The shape is not the cause, so the entry stays in use.
            self.refused[entry] = f"out of memory: {error}"
            return None
        except Exception as error:
            self._drop(entry, error)
            return None
        self.called.add(entry)
        return result

    def find(self, operator: str, x: Any, weight: Any) -> ShapeEntry | None:
        """Return the entry for a product, or None if there is none."""
        if x.dim() != 2 or weight.dim() != 2 or not 0 < x.shape[0] <= MOST_ROWS:
            return None
        by_rows = self._by_weights[operator].get((x.dtype, x.shape[1], weight.shape[1]))
        return by_rows[x.shape[0]] if by_rows is not None else None

    def _drop(self, entry: ShapeEntry, error: Exception) -> None:
        how = f"{type(error).__name__}: {error}"[:300]
        _log.warning("The %s kernel failed for %s (%s). PyTorch's operator computes this shape from now on.",
                     entry.implementation, entry.name, how)  # fmt: skip
        self.failed[entry] = how
        by_rows = self._by_weights[entry.operator][getattr(torch, entry.dtype), entry.k, entry.n]
        by_rows[:] = [None if known is entry else known for known in by_rows]
        self.on_failure()
