"""Sums of products of tokens and taps, GELU and its statistics, Triton: a tile of places a program.

Backward, the same tiles write the gradients of the sums; then every token gathers them from the
places where it stands, which a kernel before has listed: nothing is added atomically.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tsgen.kernels import _moments
from tsgen.kernels._moments import merged, moments, store_part

TILE = {"ROWS": 8, "FEATURES": 128}  # places of a program
PLACES = 512  # that are looked through at a time
MOST_PROGRAMS = 1024  # that add up something over places
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}


@triton.jit
def summed(
    products,  # (B, M, T, F)
    source,  # (N,)
    bias,  # (F,)
    tile,  # int64
    f,  # [1, FEATURES]
    n,  # B N
    M,
    T,
    F,
    N,
    ROWS: tl.constexpr,
    FEATURES: tl.constexpr,
):
    """Bias and what a tile's places see, float32 [ROWS, FEATURES], and which places there are."""
    first = tile * ROWS
    b = first // N
    i = tl.arange(0, ROWS)[:, None]
    there = first + i < n
    # a division of 64 bits for the tile, those of its places have 32
    row = (first - b * N).to(tl.int32) + i
    place = row % N
    products += b * (M * T * F) + (row // N) * (M * T * F) + f
    y = tl.zeros([ROWS, FEATURES], tl.float32)
    y += tl.load(bias + f, mask=f < F, other=0.0).to(tl.float32)
    for t in range(0, T):
        at = place + (t - T // 2)
        m = tl.load(source + at, mask=there & (at >= 0) & (at < N), other=-1).to(tl.int32)
        seen = (m >= 0) & (m < M) & (f < F)
        y += tl.load(products + (m * T + t) * F, mask=seen, other=0.0).to(tl.float32)
    return y, there


@triton.jit
def below(y):
    """Φ(y), the normal distribution function."""
    return 0.5 + 0.5 * tl.erf(y * 0.7071067811865476)


@triton.jit(do_not_specialize=["n_parts", "n"])
def sum_taps_kernel(
    products,  # (B, M, T, F)
    source,  # (N,) int64
    bias,  # (F,)
    h,  # (B, N, F)
    parts,  # (n_parts, 3, F)
    n_parts,
    n,  # B N
    M,
    T,
    F,
    N,
    ROWS: tl.constexpr,
    FEATURES: tl.constexpr,
):
    groups = tl.cdiv(F, FEATURES)
    part, group = (tl.program_id(0) // groups).to(tl.int64), tl.program_id(0) % groups
    f = group * FEATURES + tl.arange(0, FEATURES)[None, :]
    at = tl.arange(0, ROWS)[:, None] * F + f
    total = tl.zeros([1, FEATURES], tl.float32)
    mean = tl.zeros([1, FEATURES], tl.float32)
    squares = tl.zeros([1, FEATURES], tl.float32)
    for tile in range(part, tl.cdiv(n, ROWS), n_parts):
        y, there = summed(products, source, bias, tile, f, n, M, T, F, N, ROWS, FEATURES)
        out = (y * below(y)).to(h.dtype.element_ty)
        tl.store(h + tile * ROWS * F + at, out, mask=there & (f < F))
        count = tl.sum(there.to(tl.float32), axis=0, keep_dims=True)
        tile_mean, tile_squares = moments(out.to(tl.float32), there, count, 0)
        away = tile_mean - mean
        share = count / (total + count)
        squares += tile_squares + away * away * (total * share)
        mean += away * share
        total += count
    store_part(parts, part, total, mean, squares, f, F)


@triton.jit
def sum_taps_places_kernel(
    source,  # (N,) int64
    places,  # (M, 1 + N): at how many places a token stands, and these
    N,
    BLOCK: tl.constexpr,
):
    m = tl.program_id(0)
    to = places + m.to(tl.int64) * (1 + N)
    found = 0
    for n0 in range(0, N, BLOCK):
        n = n0 + tl.arange(0, BLOCK)
        here = (tl.load(source + n, mask=n < N, other=-1) == m).to(tl.int32)
        tl.store(to + found + tl.cumsum(here, axis=0), n, mask=here == 1)
        found += tl.sum(here, axis=0)
    tl.store(to, found)


@triton.jit
def sum_taps_gradient_kernel(
    grad,  # (B, N, F)
    grad_mean,  # (F,)
    grad_var,
    mean,
    products,  # (B, M, T, F)
    source,  # (N,) int64
    bias,  # (F,)
    grad_y,  # (B, N, F)
    parts,  # (n_parts, F), gradients of the bias
    share,  # 1 / n
    n_parts,
    n,  # B N
    M,
    T,
    F,
    N,
    ROWS: tl.constexpr,
    FEATURES: tl.constexpr,
):
    groups = tl.cdiv(F, FEATURES)
    part, group = (tl.program_id(0) // groups).to(tl.int64), tl.program_id(0) % groups
    f = group * FEATURES + tl.arange(0, FEATURES)[None, :]
    middle = tl.load(mean + f, mask=f < F, other=0.0)
    of_mean = tl.load(grad_mean + f, mask=f < F, other=0.0) * share
    of_var = tl.load(grad_var + f, mask=f < F, other=0.0) * (2 * share)
    at = tl.arange(0, ROWS)[:, None] * F + f
    sums = tl.zeros([1, FEATURES], tl.float32)
    for tile in range(part, tl.cdiv(n, ROWS), n_parts):
        y, there = summed(products, source, bias, tile, f, n, M, T, F, N, ROWS, FEATURES)
        mask = there & (f < F)
        g = tl.load(grad + tile * ROWS * F + at, mask=mask, other=0.0).to(tl.float32)
        p = below(y)
        g += of_mean + of_var * (y * p - middle)
        g *= p + y * (0.3989422804014327 * tl.exp(-0.5 * y * y))
        tl.store(grad_y + tile * ROWS * F + at, g.to(grad_y.dtype.element_ty), mask=mask)
        sums += tl.sum(tl.where(mask, g, 0.0), axis=0, keep_dims=True)
    tl.store(parts + part * F + f, sums, mask=f < F)


@triton.jit
def sum_taps_gather_kernel(
    grad_y,  # (B, N, F)
    places,  # (M, 1 + N)
    grad_products,  # (B, M, T, F)
    M,
    T,
    F,
    N,
    TAPS: tl.constexpr,
    FEATURES: tl.constexpr,
):
    groups = tl.cdiv(F, FEATURES)
    token, group = tl.program_id(0) // groups, tl.program_id(0) % groups
    b, m = (token // M).to(tl.int64), token % M
    f = group * FEATURES + tl.arange(0, FEATURES)[None, :]
    t = tl.arange(0, TAPS)[:, None]
    known = (t < T) & (f < F)
    grad_y += b * N * F
    places += m.to(tl.int64) * (1 + N)
    sums = tl.zeros([TAPS, FEATURES], tl.float32)
    for k in range(0, tl.load(places)):
        n = tl.load(places + 1 + k) + (T // 2 - t)  # the place that sees it by tap t
        mask = known & (n >= 0) & (n < N)
        sums += tl.load(grad_y + (n * F + f), mask=mask, other=0.0).to(tl.float32)
    to = grad_products + token.to(tl.int64) * T * F + (t * F + f)
    tl.store(to, sums.to(grad_products.dtype.element_ty), mask=known)


def split(n: int, F: int) -> tuple[int, int]:
    """Parts that n places are added up in, and the programs of one."""
    groups = triton.cdiv(F, TILE["FEATURES"])
    return min(triton.cdiv(n, TILE["ROWS"]), max(1, MOST_PROGRAMS // groups)), groups


def sum_taps(
    products_BMTF: Tensor, source_N: Tensor, bias_F: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    (B, M, T, F), N = products_BMTF.shape, len(source_N)
    h_BNF, n = products_BMTF.new_empty(B, N, F), B * N
    n_parts, groups = split(n, F)
    parts = h_BNF.new_empty(n_parts, 3, F, dtype=torch.float32)
    inputs = [t.contiguous() for t in (products_BMTF, source_N, bias_F)]
    sizes = n_parts, n, M, T, F, N
    sum_taps_kernel[n_parts * groups,](*inputs, h_BNF, parts, *sizes, **TILE, **OPTIONS)
    return h_BNF, *merged(parts)


def sum_taps_backward(
    grad: Tensor,
    grad_mean_F: Tensor,
    grad_var_F: Tensor,
    mean_F: Tensor,
    products_BMTF: Tensor,
    source_N: Tensor,
    bias_F: Tensor,
) -> tuple[Tensor, Tensor]:
    (B, M, T, F), N = products_BMTF.shape, len(source_N)
    given = [t.contiguous() for t in (grad, grad_mean_F, grad_var_F, mean_F)]
    inputs = [t.contiguous() for t in (products_BMTF, source_N, bias_F)]
    places = source_N.new_empty(M, 1 + N, dtype=torch.int32)
    sum_taps_places_kernel[M,](inputs[1], places, N, BLOCK=PLACES, **OPTIONS)

    n_parts, groups = split(B * N, F)
    grad_y, parts = grad.new_empty(B, N, F), grad.new_empty(n_parts, F, dtype=torch.float32)
    sizes = 1 / (B * N), n_parts, B * N, M, T, F, N
    grid = (n_parts * groups,)
    sum_taps_gradient_kernel[grid](*given, *inputs, grad_y, parts, *sizes, **TILE, **OPTIONS)

    grad_products = products_BMTF.new_empty(B, M, T, F)
    size = {"TAPS": triton.next_power_of_2(T), "FEATURES": TILE["FEATURES"]}
    grid = (B * M * groups,)
    sum_taps_gather_kernel[grid](grad_y, places, grad_products, M, T, F, N, **size, **OPTIONS)
    return grad_products, parts.sum(0).to(bias_F.dtype)


# Read by tests/test_triton_compile.py: kernel, argument types ({} is that of products), constants.
INPUTS = {"products": "*{}", "source": "*i64", "bias": "*fp32"}
SIZES = dict.fromkeys(("M", "T", "F", "N"), "i32")
SHIPPED: list[Any] = [
    (
        sum_taps_kernel,
        INPUTS | {"h": "*{}", "parts": "*fp32", "n_parts": "i32", "n": "i32"} | SIZES,
        TILE,
    ),
    (
        sum_taps_places_kernel,
        {"source": "*i64", "places": "*i32", "N": "i32"},
        {"BLOCK": PLACES},
        "fp32",
    ),
    (
        sum_taps_gradient_kernel,
        {"grad": "*{}", "grad_mean": "*fp32", "grad_var": "*fp32", "mean": "*fp32"}
        | INPUTS
        | {"grad_y": "*{}", "parts": "*fp32", "share": "fp32", "n_parts": "i32", "n": "i32"}
        | SIZES,
        TILE,
    ),
    (
        sum_taps_gather_kernel,
        {"grad_y": "*{}", "places": "*i32", "grad_products": "*{}"} | SIZES,
        {"TAPS": 8, "FEATURES": TILE["FEATURES"]},
    ),
    *_moments.SHIPPED,
]
