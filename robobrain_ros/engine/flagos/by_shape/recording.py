"""Record which matrix products with at most 16 rows a model calls. Importing this module imports PyTorch."""

from typing import Any

from robobrain_ros.engine.flagos.by_shape.operators import ShapeOperators
from robobrain_ros.engine.flagos.by_shape.table import DTYPES, MOST_ROWS, OPERATORS, ShapeClass, row_range


class Recorder(ShapeOperators):
    """Operators that record the shape class of each product. PyTorch's kernels compute all products.

    Recorded are the products that a kernel of this package could compute. The second matrix is the transposed view of a row-major
    matrix.
    """

    def __init__(self, key: str = "CUDA") -> None:
        super().__init__((), {}, key)
        self.classes: set[ShapeClass] = set()

    @property
    def _replaced(self) -> tuple[str, ...]:
        return OPERATORS

    def compute(self, operator: str, x: Any, weight: Any, bias: Any = None, out: Any = None) -> Any:
        """Record a product: x (rows, k), weight (k, n), bias (n,) or (rows, n). Return None, so that PyTorch computes it."""
        if x.dim() != 2 or weight.dim() != 2 or not 0 < x.shape[0] <= MOST_ROWS or 0 in weight.shape:
            return
        dtype = str(x.dtype).removeprefix("torch.")
        if dtype not in DTYPES or weight.dtype is not x.dtype or weight.stride(0) != 1:
            return
        k, n = weight.shape
        residual = bias is not None and bias.dim() == 2 and bias.stride(0) != 0
        recorded = ShapeClass(operator, dtype, row_range(x.shape[0]), k, n, residual)
        if residual:  # The form with a residual replaces the other one, because it is the usual one of these weights.
            self.classes.discard(recorded)
        self.classes.add(recorded)
