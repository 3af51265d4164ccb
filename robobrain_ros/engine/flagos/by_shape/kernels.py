"""Triton kernels of matrix products with at most 16 rows, as in a decoding step. The module `matmul` launches them.

Such a product reads each weight once and computes little, so it takes as long as reading the weights. Each program multiplies all
rows by a few columns of the second matrix. `vector` multiplies one row, and needs no tensor cores. `tile` multiplies up to 16
rows. Both accumulate in float32 and add the bias. They round only once, to the output's type. The bias is a row, or a matrix of
the output's shape, because compilers pass a residual as the bias.

The sum of each element has a fixed order. With SPLIT_K above 1, the programs write partial sums in float32 to a buffer, and
`reduce` adds them by increasing index. No kernel uses atomic operations: the same inputs and launch give the same bits.

The kernels do not depend on the vendor of the GPU.
"""

import triton
import triton.language as tl


@triton.jit
def vector(x, weight, bias, out, k, n, weight_stride, BIAS: tl.constexpr, EXACT: tl.constexpr, SPLIT_K: tl.constexpr,
            BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr):  # fmt: skip
    """Multiply one row. ``out`` is the output, or with SPLIT_K above 1 the partial sums (SPLIT_K, n)."""
    split = tl.program_id(1)
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    steps = tl.cdiv(tl.cdiv(k, BLOCK_K), SPLIT_K)
    offsets = split * steps * BLOCK_K + tl.arange(0, BLOCK_K)
    # Columns past the end read the last column again, so that no mask is needed.
    rows_of_weight = weight + tl.minimum(columns, n - 1).to(tl.int64)[:, None] * weight_stride
    total = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    for _ in tl.range(0, steps, num_stages=STAGES):
        if EXACT:
            w = tl.load(rows_of_weight + offsets[None, :], eviction_policy="evict_first")
            row = tl.load(x + offsets)
        else:
            inside = offsets < k
            w = tl.load(rows_of_weight + offsets[None, :], mask=inside[None, :], other=0.0, eviction_policy="evict_first")
            row = tl.load(x + offsets, mask=inside, other=0.0)
        total += w.to(tl.float32) * row.to(tl.float32)[None, :]
        offsets += BLOCK_K
    result = tl.sum(total, 1)
    if BIAS:
        result += tl.load(bias + tl.minimum(columns, n - 1)).to(tl.float32)
    tl.store(out + split * n + columns, result.to(out.dtype.element_ty), mask=columns < n)


@triton.jit(do_not_specialize=["m"])
def tile(x, weight, bias, out, m, k, n, x_stride, weight_stride, bias_stride, out_stride, split_stride, BIAS: tl.constexpr,
         EXACT: tl.constexpr, SPLIT_K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
         BLOCK_K: tl.constexpr):  # fmt: skip
    """Multiply up to BLOCK_M rows. ``out`` is the output, or with SPLIT_K above 1 the partial sums (SPLIT_K, m, n)."""
    split = tl.program_id(1)
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    rows = tl.arange(0, BLOCK_M)
    steps = tl.cdiv(tl.cdiv(k, BLOCK_K), SPLIT_K)
    offsets = split * steps * BLOCK_K + tl.arange(0, BLOCK_K)
    # Columns and rows past the end read the last one again, so that no mask is needed.
    rows_of_weight = weight + tl.minimum(columns, n - 1).to(tl.int64)[:, None] * weight_stride
    rows_of_x = x + tl.minimum(rows, m - 1)[None, :] * x_stride
    total = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for _ in range(steps):
        if EXACT:
            w = tl.load(rows_of_weight + offsets[None, :], eviction_policy="evict_first")
            columns_of_x = tl.load(rows_of_x + offsets[:, None])
        else:
            inside = offsets < k
            w = tl.load(rows_of_weight + offsets[None, :], mask=inside[None, :], other=0.0, eviction_policy="evict_first")
            columns_of_x = tl.load(rows_of_x + offsets[:, None], mask=inside[:, None], other=0.0)
        total = tl.dot(w, columns_of_x, total)
        offsets += BLOCK_K
    if BIAS:
        sources = bias + tl.minimum(rows, m - 1)[None, :] * bias_stride + tl.minimum(columns, n - 1)[:, None]
        total += tl.load(sources).to(tl.float32)
    places = out + split * split_stride + rows[None, :] * out_stride + columns[:, None]
    tl.store(places, total.to(out.dtype.element_ty), mask=(columns < n)[:, None] & (rows < m)[None, :])


@triton.jit(do_not_specialize=["m"])
def reduce(partial, bias, out, m, n, bias_stride, out_stride, BIAS: tl.constexpr, SPLIT_K: tl.constexpr, BLOCK: tl.constexpr):
    """Add partial sums (SPLIT_K, m, n) by increasing index."""
    row = tl.program_id(1)
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < n
    total = tl.zeros((BLOCK,), tl.float32)
    for split in tl.static_range(SPLIT_K):
        total += tl.load(partial + (split * m + row) * n + columns, mask=inside, other=0.0)
    if BIAS:
        total += tl.load(bias + row * bias_stride + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * out_stride + columns, total.to(out.dtype.element_ty), mask=inside)
