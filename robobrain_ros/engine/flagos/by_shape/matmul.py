"""The matrix product for at most 16 rows: check tensors, and launch the kernels. Imports PyTorch and Triton."""

from typing import Any

import torch
import triton

from robobrain_ros.engine.flagos.by_shape import kernels as flagos_kernels
from robobrain_ros.engine.flagos.by_shape.table import MOST_ROWS, Launch

DTYPES = (torch.bfloat16, torch.float16)

_REDUCE_BLOCK = 512
_INT32 = 2**31
"""Kernels index elements with 32 bits, except those of the weights."""


def obstacle(x: Any, weight: Any, bias: Any = None, out: Any = None) -> str:
    """Return why `multiply` does not support these tensors, or an empty string if it supports them.

    :param x: (m, k), with contiguous rows and any stride between rows.
    :param weight: (k, n), the transposed view of a row-major matrix, as ``linear`` and Inductor pass it.
    :param bias: (n,), or (m, n) with contiguous rows and any stride between rows: 0 after ``expand``, n for a residual.
    :param out: (m, n), with contiguous rows, not in the memory of x.
    """
    if x.dim() != 2 or weight.dim() != 2 or x.shape[1] != weight.shape[0]:
        return "not a product of two matrices"
    m, k = x.shape
    n = weight.shape[1]
    if not (0 < m <= MOST_ROWS and k > 0 and n > 0):
        return f"sizes {m}, {k}, {n}"
    if x.dtype not in DTYPES or weight.dtype is not x.dtype or weight.device != x.device:
        return "types or devices"
    if (k > 1 and (x.stride(1) != 1 or weight.stride(0) != 1)) or (m > 1 and x.stride(0) < k) or (n > 1 and weight.stride(1) < k):
        return "strides"
    if m * max(x.stride(0), n) >= _INT32 or max(k, n, weight.stride(1)) >= _INT32:
        return "too large"
    return _obstacle_of_bias(x, n, bias) or _obstacle_of_out(x, n, out)


def _obstacle_of_bias(x: Any, n: int, bias: Any) -> str:
    if bias is None:
        return ""
    if bias.dtype is not x.dtype or bias.device != x.device or bias.shape[-1:] != (n,) or (n > 1 and bias.stride(-1) != 1):
        return "bias"
    if bias.dim() == 1 or (bias.dim() == 2 and bias.shape[0] == 1):
        return ""
    fits = bias.dim() == 2 and bias.shape[0] == x.shape[0] and 0 <= bias.stride(0) < _INT32 // MOST_ROWS
    return "" if fits else "bias"


def _obstacle_of_out(x: Any, n: int, out: Any) -> str:
    if out is None:
        return ""
    if out.dtype is not x.dtype or out.device != x.device or tuple(out.shape) != (x.shape[0], n):
        return "out"
    dense = (n == 1 or out.stride(1) == 1) and (x.shape[0] == 1 or n <= out.stride(0) < _INT32 // MOST_ROWS)
    apart = out.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()
    return "" if dense and apart else "out"


def multiply(launch: Launch, x: Any, weight: Any, bias: Any = None, out: Any = None) -> Any:
    """Compute ``x @ weight + bias``. The tensors must have no `obstacle`, and not more rows than ``launch.most_rows``."""
    m, k = x.shape
    n = weight.shape[1]
    if out is None:
        out = x.new_empty((m, n))
    split = launch.split_k > 1
    target = x.new_empty((launch.split_k, m, n), dtype=torch.float32) if split else out
    # Without a bias the kernels never read the pointer.
    pointer = x if bias is None else bias
    bias_stride = bias.stride(0) if bias is not None and bias.dim() == 2 and bias.shape[0] > 1 else 0
    grid = (triton.cdiv(n, launch.block_n), launch.split_k)
    constants = {
        "BIAS": bias is not None and not split,
        "EXACT": k % (launch.block_k * launch.split_k) == 0,
        "SPLIT_K": launch.split_k,
        "BLOCK_N": launch.block_n,
        "BLOCK_K": launch.block_k,
        "num_warps": launch.warps,
    }
    if launch.kernel == "vector":
        flagos_kernels.vector[grid](x, weight, pointer, target, k, n, weight.stride(1), **constants, STAGES=launch.stages)
    else:
        strides = (x.stride(0), weight.stride(1), bias_stride, n if split else out.stride(0), m * n)
        flagos_kernels.tile[grid](
            x, weight, pointer, target, m, k, n, *strides, **constants, BLOCK_M=launch.block_m, num_stages=launch.stages
        )
    if split:
        flagos_kernels.reduce[(triton.cdiv(n, _REDUCE_BLOCK), m)](
            target, pointer, out, m, n, bias_stride, out.stride(0), BIAS=bias is not None, SPLIT_K=launch.split_k,
            BLOCK=_REDUCE_BLOCK,
        )  # fmt: skip
    return out
