"""Gradients of attention, Triton: everything is computed again, and nothing is added atomically.

    dv = pᵀ g    ds = p (g vᵀ - mean of it under p)    dq̂ = ds k̂ / √D    dk̂ = dsᵀ q̂ / √D

A program has a tile of keys and meets all queries. Where that tile is all keys there are, it knows
each query's softmax and has the gradients of queries too. Otherwise another kernel goes before,
a tile of queries a program, that leaves two numbers of every query for it.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tsgen.kernels._attention import (
    INPUTS,
    PACKED,
    STRIDES,
    across,
    block,
    constants,
    dense,
    down,
    floats,
    integers,
    keys_in_use,
    load_keys,
    load_rows,
    normalised,
    place,
    strides,
    there,
    wanted,
)
from tsgen.ops.attention import dense_rows


@triton.jit
def through_norm(dy, x, scale, d, D: tl.constexpr, NORM: tl.constexpr, SMALLEST: tl.constexpr):
    """The gradients by x and, row by row, by scale from that by y = scale * x/|x|."""
    dx, dscale = dy, dy
    if NORM:
        x = x.to(tl.float32)
        square = tl.sum(x * x, axis=-1, keep_dims=True)
        inverse = tl.rsqrt(tl.maximum(square, SMALLEST))
        x *= inverse
        dscale = dy * x
        dx = dy * tl.load(scale + d, mask=d < D, other=0.0).to(tl.float32)
        along = tl.sum(dx * x, axis=-1, keep_dims=True)
        # below the smallest norm it is a constant
        dx = (dx - x * tl.where(square > SMALLEST, along, 0.0)) * inverse
    return dx, dscale


@triton.jit
def attention_queries_kernel(
    grad,  # (B, H, M, D)
    q,
    k,  # (B, H, N, D)
    v,
    null_kv,  # (2, H, D)
    q_scale,  # (D,)
    k_scale,
    lengths,  # (B,)
    dq,  # (B, M, H, D)
    log_total,  # (B, H, M): log2 of a query's sum of exponentials
    mean,  # (B, H, M): of its gradients by the weights
    q_scale_sums,  # (programs, D): gradients of q_scale
    grad_stride_b,
    grad_stride_h,
    grad_stride_m,
    q_stride_b,
    q_stride_h,
    q_stride_m,
    k_stride_b,
    k_stride_h,
    k_stride_n,
    v_stride_b,
    v_stride_h,
    v_stride_n,
    H,
    M,
    N,
    n_tiles,
    keys,  # N, and the null key
    D: tl.constexpr,
    DIM: tl.constexpr,
    SMALLEST: tl.constexpr,
    NULL: tl.constexpr,
    NORM: tl.constexpr,
    LENGTHS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK: tl.constexpr,
):
    element: tl.constexpr = q.dtype.element_ty
    to_log2: tl.constexpr = 1.4426950408889634 * D**-0.5
    b, h, tile = place(n_tiles, H, 1)
    d = across(DIM, 1)
    i = tile * BLOCK_M + down(BLOCK_M, 1)
    row = i < M
    q += b * q_stride_b + h * q_stride_h + i * q_stride_m + d
    grad += b * grad_stride_b + h * grad_stride_h + i * grad_stride_m + d
    k += b * k_stride_b + h * k_stride_h + d
    v += b * v_stride_b + h * v_stride_h + d
    null_k = null_kv + h * D if NULL else null_kv
    null_v = null_kv + (H + h) * D if NULL else null_kv
    used = keys_in_use(lengths, b, 1, N, 1, LENGTHS)
    x = normalised(load_rows(q, row, d, D, DIM), q_scale, d, D, NORM, SMALLEST)
    g = load_rows(grad, row, d, D, DIM)

    most = tl.full([BLOCK_M, 1], -1e30, tl.float32)
    sum_p = tl.zeros([BLOCK_M, 1], tl.float32)
    sum_dp = tl.zeros([BLOCK_M, 1], tl.float32)
    for j0 in tl.range(0, keys, BLOCK, num_stages=1):
        j = j0 + down(BLOCK, 1)
        y = load_keys(k, k_stride_n, null_k, j, N, j < used, d, D, DIM, NULL)
        y = normalised(y, k_scale, d, D, NORM, SMALLEST)
        z = load_keys(v, v_stride_n, null_v, j, N, j < used, d, D, DIM, NULL)
        j = j0 + across(BLOCK, 1)
        s = tl.dot(x, tl.trans(y), input_precision="ieee") * to_log2
        s = tl.where((j < used) | (j == N) if NULL else j < used, s, float("-inf"))
        dp = tl.dot(g, tl.trans(z), input_precision="ieee")
        higher = tl.maximum(most, tl.max(s, axis=1, keep_dims=True))
        p = tl.exp2(s - higher)
        shrink = tl.exp2(most - higher)
        most = higher
        sum_p = sum_p * shrink + tl.sum(p, axis=1, keep_dims=True)
        sum_dp = sum_dp * shrink + tl.sum(p * dp, axis=1, keep_dims=True)
    # without a key every weight is exp2(-inf) = 0
    bound = tl.where(sum_p == 0, float("inf"), most + tl.log2(sum_p))
    average = sum_dp / tl.where(sum_p == 0, 1.0, sum_p)
    tl.store(log_total + (b * H + h) * M + i, bound, mask=row)
    tl.store(mean + (b * H + h) * M + i, average, mask=row)

    dx = tl.zeros([BLOCK_M, DIM], tl.float32)
    for j0 in tl.range(0, keys, BLOCK, num_stages=1):
        j = j0 + down(BLOCK, 1)
        y = load_keys(k, k_stride_n, null_k, j, N, j < used, d, D, DIM, NULL)
        y = normalised(y, k_scale, d, D, NORM, SMALLEST)
        z = load_keys(v, v_stride_n, null_v, j, N, j < used, d, D, DIM, NULL)
        j = j0 + across(BLOCK, 1)
        s = tl.dot(x, tl.trans(y), input_precision="ieee") * to_log2
        s = tl.where((j < used) | (j == N) if NULL else j < used, s, float("-inf"))
        dp = tl.dot(g, tl.trans(z), input_precision="ieee")
        ds = tl.exp2(s - bound) * (dp - average) * D**-0.5
        dx = tl.dot(ds.to(element), y, dx, input_precision="ieee")
    dx, dscale = through_norm(dx, load_rows(q, row, d, D, DIM), q_scale, d, D, NORM, SMALLEST)
    to = dq + ((b * M + i) * H + h) * D + d
    tl.store(to, dx.to(element), mask=row if D == DIM else row & (d < D))
    if NORM:
        e = tl.arange(0, DIM)
        program = tl.program_id(0).to(tl.int64)
        tl.store(q_scale_sums + program * D + e, tl.sum(dscale, axis=0), mask=e < D)


@triton.jit
def attention_keys_kernel(
    grad,  # (B, H, M, D)
    q,
    k,  # (B, H, N, D)
    v,
    null_kv,  # (2, H, D)
    q_scale,  # (D,)
    k_scale,
    lengths,  # (B,)
    dq,  # (B, M, H, D), if WHOLE
    dk,  # (B, N, H, D)
    dv,
    log_total,  # (B, H, M), unless WHOLE
    mean,
    null_sums,  # (B, H, 2, D): gradients of the null key and value
    q_scale_sums,  # (programs, sequences of a program, D), if WHOLE
    k_scale_sums,
    grad_stride_b,
    grad_stride_h,
    grad_stride_m,
    q_stride_b,
    q_stride_h,
    q_stride_m,
    k_stride_b,
    k_stride_h,
    k_stride_n,
    v_stride_b,
    v_stride_h,
    v_stride_n,
    B,
    H,
    M,
    N,
    n_tiles,
    D: tl.constexpr,
    DIM: tl.constexpr,
    SMALLEST: tl.constexpr,
    NULL: tl.constexpr,
    NORM: tl.constexpr,
    LENGTHS: tl.constexpr,
    WHOLE: tl.constexpr,
    PAIRS: tl.constexpr,
    KEYS: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    element: tl.constexpr = q.dtype.element_ty
    to_log2: tl.constexpr = 1.4426950408889634 * D**-0.5
    b, h, tile = place(n_tiles, H, PAIRS)
    d = across(DIM, PAIRS)
    j = tile * KEYS + down(KEYS, PAIRS)
    n = tile * KEYS + across(KEYS, PAIRS)
    q += b * q_stride_b + h * q_stride_h + d
    grad += b * grad_stride_b + h * grad_stride_h + d
    k += b * k_stride_b + h * k_stride_h + d
    v += b * v_stride_b + h * v_stride_h + d
    null_k = null_kv + h * D if NULL else null_kv
    null_v = null_kv + (H + h) * D if NULL else null_kv
    used = keys_in_use(lengths, b, B, N, PAIRS, LENGTHS)
    key = there(j < used, b, B, PAIRS)
    y = load_keys(k, k_stride_n, null_k, j, N, key, d, D, DIM, NULL)
    y = normalised(y, k_scale, d, D, NORM, SMALLEST)
    z = load_keys(v, v_stride_n, null_v, j, N, key, d, D, DIM, NULL)
    dy = tl.zeros(y.shape, tl.float32)
    dz = tl.zeros(y.shape, tl.float32)
    q_scale_sum = tl.sum(dy, axis=-2, keep_dims=True)

    for i0 in tl.range(0, BLOCK_M if PAIRS > 1 else M, BLOCK_M, num_stages=1):
        i = i0 + down(BLOCK_M, PAIRS)
        row = there(i < M, b, B, PAIRS)
        x = load_rows(q + i * q_stride_m, row, d, D, DIM)
        x = normalised(x, q_scale, d, D, NORM, SMALLEST)
        g = load_rows(grad + i * grad_stride_m, row, d, D, DIM)
        if not WHOLE:  # again: registers are full
            y = load_keys(k, k_stride_n, null_k, j, N, key, d, D, DIM, NULL)
            y = normalised(y, k_scale, d, D, NORM, SMALLEST)
            z = load_keys(v, v_stride_n, null_v, j, N, key, d, D, DIM, NULL)
        s = tl.dot(x, tl.trans(y), input_precision="ieee") * to_log2
        s = tl.where((n < used) | (n == N) if NULL else n < used, s, float("-inf"))
        dp = tl.dot(g, tl.trans(z), input_precision="ieee")
        if WHOLE:
            # a finite bound, so that a row without a key is 0
            p = tl.exp2(s - tl.maximum(tl.max(s, axis=-1, keep_dims=True), -1e30))
            sum_p = tl.sum(p, axis=-1, keep_dims=True)
            p /= tl.where(sum_p == 0, 1.0, sum_p)
            average = tl.sum(p * dp, axis=-1, keep_dims=True)
        else:
            at = (b * H + h) * M + i
            p = tl.exp2(s - tl.load(log_total + at, mask=row, other=float("inf")))
            average = tl.load(mean + at, mask=row, other=0.0)
        ds = (p * (dp - average) * D**-0.5).to(element)
        dz = tl.dot(tl.trans(p.to(element)), g, dz, input_precision="ieee")
        dy = tl.dot(tl.trans(ds), x, dy, input_precision="ieee")
        if WHOLE:
            dx = tl.dot(ds, y, input_precision="ieee")
            x = load_rows(q + i * q_stride_m, row, d, D, DIM)
            dx, dscale = through_norm(dx, x, q_scale, d, D, NORM, SMALLEST)
            to = dq + ((b * M + i) * H + h) * D + d
            tl.store(to, dx.to(element), mask=row if D == DIM else row & (d < D))
            if NORM:
                q_scale_sum += tl.sum(dscale, axis=-2, keep_dims=True)

    at = ((b * N + j) * H + h) * D + d
    stored = there(j < N, b, B, PAIRS) & (d < D)
    null = there(j == N, b, B, PAIRS) & (d < D)
    tl.store(dv + at, dz.to(element), mask=stored)
    if NULL:
        to = null_sums + (b * H + h) * 2 * D + d + tl.zeros_like(j)
        tl.store(to + D, dz, mask=null)
    y = load_keys(k, k_stride_n, null_k, j, N, key, d, D, DIM, NULL)
    dy, dscale = through_norm(dy, y, k_scale, d, D, NORM, SMALLEST)
    tl.store(dk + at, dy.to(element), mask=stored)
    if NULL:
        tl.store(to, dy, mask=null)
    if NORM:
        at = tl.program_id(0).to(tl.int64) * PAIRS * D + d
        if PAIRS > 1:
            at += tl.arange(0, PAIRS)[:, None, None] * D
        tl.store(k_scale_sums + at, tl.sum(dscale, axis=-2, keep_dims=True), mask=d < D)
        if WHOLE:
            tl.store(q_scale_sums + at, q_scale_sum, mask=d < D)


def tiles(M: int, keys: int, D: int, itemsize: int) -> dict[str, int]:
    """Sizes of a program of keys: all of them, if the registers hold their gradients."""
    exact = itemsize == 4  # as in attention.py
    whole = keys <= (16 if exact else 64)
    return {
        "WHOLE": whole,
        "PAIRS": PACKED if max(M, keys) <= 16 and not exact else 1,
        "KEYS": block(keys, 64 if whole else 16 if exact else 32),
        "BLOCK_M": block(M, 16 if whole or (exact and D <= 32) else 32),
    }


def query_tiles(M: int, itemsize: int) -> dict[str, int]:
    """Sizes of a program of queries."""
    most, keys = (32, 16) if itemsize == 4 else (64, 32)
    return {"BLOCK_M": block(M, most), "BLOCK": keys}


def attention_backward(
    grad_BHMD: Tensor,
    q_BHMD: Tensor,
    k_BHND: Tensor,
    v_BHND: Tensor,
    null_kv_2HD: Tensor | None,
    q_scale_D: Tensor | None,
    k_scale_D: Tensor | None,
    lengths_B: Tensor | None,
    options: dict[str, Any],
) -> tuple[Tensor, ...]:
    rows = [dense_rows(t) for t in (grad_BHMD, q_BHMD, k_BHND, v_BHND)]
    q, ((B, H, M, D), N) = rows[1], (q_BHMD.shape, k_BHND.shape[2])
    keys = N + (null_kv_2HD is not None)
    inputs = [*rows, *dense(null_kv_2HD, q_scale_D, k_scale_D, lengths_B)]
    how = constants(D, null_kv_2HD, q_scale_D, lengths_B) | options
    dq, dk, dv = (q.new_empty(B, n, H, D) for n in (M, N, N))
    size = tiles(M, keys, D, q.itemsize)
    n_tiles, groups = triton.cdiv(keys, size["KEYS"]), triton.cdiv(B, size["PAIRS"])
    null_sums = q.new_empty(B, H, 2, D, dtype=torch.float32)
    k_scale_sums = q.new_empty(groups * H * n_tiles * size["PAIRS"], D, dtype=torch.float32)
    q_scale_sums, log_total, mean = torch.empty_like(k_scale_sums), None, None
    if not size["WHOLE"] and dq.numel():
        query_size = query_tiles(M, q.itemsize)
        n_query_tiles = triton.cdiv(M, query_size["BLOCK_M"])
        log_total, mean = q.new_empty(2, B, H, M, dtype=torch.float32)
        q_scale_sums = q.new_empty(B * H * n_query_tiles, D, dtype=torch.float32)
        sizes = *strides(*rows), H, M, N, n_query_tiles, keys
        outs = dq, log_total, mean, q_scale_sums
        grid = (B * H * n_query_tiles,)
        attention_queries_kernel[grid](*inputs, *outs, *sizes, **how, **query_size)
    if k_scale_sums.numel():
        outs = dq, dk, dv, log_total, mean, null_sums, q_scale_sums, k_scale_sums
        sizes = *strides(*rows), B, H, M, N, n_tiles
        attention_keys_kernel[groups * H * n_tiles,](*inputs, *outs, *sizes, **how, **size)
    elif dq.numel():
        dq.zero_()  # there is no key
    sums = null_sums.sum(0).transpose(0, 1), q_scale_sums.sum(0), k_scale_sums.sum(0)
    given = zip(sums, (null_kv_2HD, q_scale_D, k_scale_D), strict=True)
    # an op cannot return None
    back = [q.new_empty(0) if t is None else g.to(t.dtype) for g, t in given]
    return *(t.transpose(1, 2) for t in (dq, dk, dv)), *back


# For attention.py, as SHIPPED there.
GRADIENTS = {"grad": "*{}"} | INPUTS | {"dq": "*{}"}
GRADIENT_STRIDES = [f"grad_stride_{dim}" for dim in "bhm"] + STRIDES
SHIPPED = [
    (
        attention_keys_kernel,
        GRADIENTS
        | {"dk": "*{}", "dv": "*{}"}
        | floats("log_total", "mean", "null_sums", "q_scale_sums", "k_scale_sums")
        | integers(*GRADIENT_STRIDES, "B", "H", "M", "N", "n_tiles"),
        wanted(D, null, norm, lengths) | tiles(M, M + null, D, itemsize),
        dtype,
    )
    for dtype, itemsize in (("fp32", 4), ("bf16", 2))
    for D, M, null, norm, lengths in (
        (64, 9, True, True, False),
        (64, 17, True, True, True),
        (32, 33, True, True, False),
        (64, 33, True, True, False),
        (64, 64, False, False, False),
        (64, 65, True, True, False),
        (64, 257, True, True, True),
    )
] + [
    (
        attention_queries_kernel,
        GRADIENTS
        | floats("log_total", "mean", "q_scale_sums")
        | integers(*GRADIENT_STRIDES, "H", "M", "N", "n_tiles", "keys"),
        wanted(64, norm, norm, norm) | query_tiles(257, itemsize),
        dtype,
    )
    for dtype, itemsize in (("fp32", 4), ("bf16", 2))
    for norm in (True, False)
]
