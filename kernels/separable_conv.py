"""Depthwise-separable convolution, Triton: a tile of positions and of output channels a program.

Channels in come in turn: their neighbours are loaded, activated, multiplied by the taps and added
up in registers, then mixed. Few channels come one by one and the mixing is an outer product;
others by 16, for tl.dot.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tsgen.kernels import _moments, _separable_conv_backward
from tsgen.kernels._moments import merged, moments, store_part
from tsgen.kernels._separable_conv import (
    INPUTS,
    OPTIONS,
    SIZES,
    activated_first,
    constants,
    dense,
    depthwise,
    out_width,
    places,
    tiles,
    wanted,
)
from tsgen.ops.separable_conv import out_width as width_of


@triton.jit(do_not_specialize=["n"])
def separable_conv_kernel(
    x,  # (B, C, H, W)
    a,  # (C,)
    gain,
    shift,
    taps,  # (C, ROWS, COLUMNS)
    tap_bias,  # (C,)
    weight,  # (O, C)
    bias,  # (O,)
    y,  # (B, O, H, W')
    parts,  # (tiles, 3, O), with STATS
    n,  # B H W'
    C,
    O,
    H,
    W,
    KIND: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ACT: tl.constexpr,
    NORM: tl.constexpr,
    SMALLEST: tl.constexpr,
    STATS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK: tl.constexpr,
):
    element: tl.constexpr = x.dtype.element_ty
    groups = tl.cdiv(O, BLOCK_O)
    tile, group = (tl.program_id(0) // groups).to(tl.int64), tl.program_id(0) % groups
    W_out = out_width(W, KIND)
    first, b, h, w, there = places(tile, n, H, W_out, BLOCK)
    x += first * (C * H * W)
    o = group * BLOCK_O + tl.arange(0, BLOCK_O)[:, None]
    sums = tl.zeros([BLOCK_O, BLOCK], tl.float32)
    for c0 in tl.range(0, C, BLOCK_C, num_stages=1, disable_licm=True):
        c = c0 + tl.arange(0, BLOCK_C)
        at_weight = weight + (o * C + c[None, :])
        mix = tl.load(at_weight, mask=(o < O) & (c[None, :] < C), other=0.0)
        z = depthwise(
            x,
            a,
            gain,
            shift,
            taps,
            tap_bias,
            c[:, None],
            b,
            h,
            w,
            there,
            C,
            H,
            W,
            KIND,
            ROWS,
            COLUMNS,
            ACT,
            NORM,
            SMALLEST,
        )
        if BLOCK_C == 1:
            sums += mix.to(tl.float32) * z
        else:
            sums = tl.dot(mix.to(element), z.to(element), sums, input_precision="ieee")
    sums += tl.load(bias + o, mask=o < O, other=0.0).to(tl.float32)
    out = sums.to(element)
    to = b * (O * H * W_out) + o * (H * W_out) + h * W_out + w
    tl.store(y + first * (O * H * W_out) + to, out, mask=(o < O) & there)
    if STATS:
        count = tl.minimum(n - tile * BLOCK, BLOCK).to(tl.float32)
        mean, squares = moments(out.to(tl.float32), there, count, 1)
        store_part(parts, tile, count, mean, squares, o, O)


def separable_conv(
    x: Tensor,
    a_C: Tensor | None,
    gain_C: Tensor | None,
    shift_C: Tensor | None,
    taps: Tensor | None,
    tap_bias_C: Tensor | None,
    weight: Tensor,
    bias_O: Tensor,
    kind: str,
    stats: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    (B, C, H, W), O = x.shape, len(weight)
    x, activation = activated_first(x.contiguous(), dense(a_C, gain_C, shift_C), taps, O)
    y = x.new_empty(B, O, H, width_of(W, kind))
    size, n = tiles(C, O, x.itemsize), B * H * y.shape[3]
    n_tiles = triton.cdiv(n, size["BLOCK"])
    parts = x.new_empty(n_tiles if stats else 0, 3, O, dtype=torch.float32)
    if y.numel():  # an empty grid is an error
        inputs = [x, *activation, *dense(taps, tap_bias_C, weight, bias_O)]
        how = constants(*activation[:2], taps, kind) | {"STATS": stats} | size | OPTIONS
        grid = (n_tiles * triton.cdiv(O, size["BLOCK_O"]),)
        separable_conv_kernel[grid](*inputs, y, parts, n, C, O, H, W, **how)
    if len(parts):
        return y, *merged(parts)
    none = x.new_full((O if stats else 0,), torch.nan, dtype=torch.float32)
    return y, none, none.clone()


def separable_conv_backward(*args: Any) -> list[Tensor]:
    return _separable_conv_backward.separable_conv_backward(*args)


# Read by tests/test_triton_compile.py: kernel, argument types ({} is x's), constants, dtype.
SHIPPED: list[Any] = [
    (
        separable_conv_kernel,
        INPUTS | {"weight": "*fp32", "bias": "*fp32", "y": "*{}", "parts": "*fp32"} | SIZES,
        wanted(kind, rows, act, act) | {"STATS": stats} | tiles(C, O, itemsize),
        dtype,
    )
    for dtype, itemsize in (("fp32", 4), ("bf16", 2))
    for C, O, kind, rows, act, stats in (
        (8, 16, "same", 1, True, True),
        (4, 64, "halve", 3, False, True),
        (128, 8, "same", 3, False, True),
        (64, 32, "twice", 3, False, False),
    )
] + [*_moments.SHIPPED, *_separable_conv_backward.SHIPPED]
