"""Gradients of separable_conv, Triton: those of the mixing, then the taps' transpose of them.

An input gathers from all outputs that a tap brought it to; its own activation, computed again,
gives the gradients of these taps and of the activation. A program has one channel and takes its
tiles of positions in turn, so that sums are parts of a bounded number of programs, added in order.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tsgen.kernels import _separable_conv_mix
from tsgen.kernels._math import half_turn
from tsgen.kernels._separable_conv import (
    OPTIONS,
    activated_first,
    constants,
    dense,
    out_width,
    places,
    wanted,
)
from tsgen.kernels._separable_conv_mix import MOST_PARTS, mix_backward
from tsgen.kernels.snake import channel_values, snake_backward

BLOCK = 256  # positions of a tile


@triton.jit
def seen_by(
    grad_z,  # (B, C, H, W'), from a tile's first series on
    at,  # [1, BLOCK], where a channel's plane is; h and w the places of inputs
    i: tl.constexpr,
    j,  # [4, 1]
    h,
    w,
    there,
    H,
    W,
    KIND: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Gradients of the outputs that tap (i, j) brought an input to, summed: float32 [4, BLOCK]."""
    W_out = out_width(W, KIND)
    row = h + (i - ROWS // 2 if KIND == "twice" else ROWS // 2 - i)
    if KIND == "twice":
        column = 2 * w + (j - 1)
        seen = there & (column >= 0)
    elif KIND == "same":
        column = w + (1 - j)
        seen = there & (column >= 0) & (j < COLUMNS)
    else:
        # at an edge the outermost tap saw its repetition, in the column behind it
        behind = tl.where((j == 3) & (w == W - 1) & (W % 2 == 0), W, w)
        twice = tl.where((j == 0) & (w == 0), -1, behind) + (1 - j)
        column = twice // 2
        seen = there & (twice >= 0) & (twice % 2 == 0)
    seen = seen & (column < W_out)
    within = seen & (row >= 0) & (row < H)
    g = tl.load(grad_z + (at + row * W_out + column), mask=within, other=0.0).to(tl.float32)
    if KIND == "halve" and i != ROWS // 2:  # and so did the outer rows of taps
        edge = 0 if i == 0 else H - 1
        repeated = seen & (h == edge)
        g += tl.load(grad_z + (at + edge * W_out + column), mask=repeated, other=0.0).to(tl.float32)
    return g


@triton.jit
def row_of_taps(taps, i: tl.constexpr, j, COLUMNS: tl.constexpr):
    return tl.load(taps + (i * COLUMNS + j), mask=j < COLUMNS, other=0.0).to(tl.float32)


@triton.jit
def separable_conv_taps_kernel(
    grad_z,  # (B, C, H, W')
    x,  # (B, C, H, W)
    a,  # (C,)
    gain,
    shift,
    taps,  # (C, ROWS, COLUMNS)
    grad_x,  # as x
    parts,  # (n_parts, C, 16): gradients of taps, 4 a row, of their bias, of a, gain and shift
    n_parts,
    n,  # B H W
    C,
    H,
    W,
    KIND: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ACT: tl.constexpr,
    NORM: tl.constexpr,
    SMALLEST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    middle: tl.constexpr = ROWS // 2
    part, c = (tl.program_id(0) // C).to(tl.int64), tl.program_id(0) % C
    W_out = out_width(W, KIND)
    j = tl.arange(0, 4)[:, None]
    taps += c * (ROWS * COLUMNS)
    if ACT:
        one = tl.arange(0, 1)[:, None] + c
        a_1, gain_1, shift_1 = channel_values(a, gain, shift, one, one < C, NORM, SMALLEST)
    first_sums = tl.zeros([4, BLOCK], tl.float32)
    middle_sums = tl.zeros([4, BLOCK], tl.float32)
    last_sums = tl.zeros([4, BLOCK], tl.float32)
    bias_sums = tl.zeros([4, BLOCK], tl.float32)
    sum_a = tl.zeros([1, BLOCK], tl.float32)
    sum_gain = tl.zeros([1, BLOCK], tl.float32)
    sum_shift = tl.zeros([1, BLOCK], tl.float32)
    for tile in tl.range(part, tl.cdiv(n, BLOCK), n_parts, num_stages=1):
        first, b, h, w, there = places(tile, n, H, W, BLOCK)
        at = b * (C * H * W) + c * (H * W) + h * W + w
        series = first * (C * H)
        x_1 = tl.load(x + series * W + at, mask=there, other=0.0).to(tl.float32)
        s = x_1
        if ACT:
            y = x_1 * gain_1 + shift_1
            sine, cosine = half_turn(a_1 * y)
            s = y + sine * (sine / a_1)

        z = grad_z + series * W_out
        at_z = b * (C * H * W_out) + c * (H * W_out)
        g = seen_by(z, at_z, middle, j, h, w, there, H, W, KIND, ROWS, COLUMNS)
        d = tl.sum(row_of_taps(taps, middle, j, COLUMNS) * g, axis=0, keep_dims=True)
        middle_sums += g * s
        bias_sums += g
        if ROWS == 3:
            g = seen_by(z, at_z, 0, j, h, w, there, H, W, KIND, ROWS, COLUMNS)
            d += tl.sum(row_of_taps(taps, 0, j, COLUMNS) * g, axis=0, keep_dims=True)
            first_sums += g * s
            g = seen_by(z, at_z, 2, j, h, w, there, H, W, KIND, ROWS, COLUMNS)
            d += tl.sum(row_of_taps(taps, 2, j, COLUMNS) * g, axis=0, keep_dims=True)
            last_sums += g * s
        if ACT:
            twice = 2 * sine * cosine  # sin(2 a y)
            sum_a += d * (y * twice - sine * (sine / a_1))
            d *= 1 + twice
            sum_gain += d * x_1
            sum_shift += d
            d *= gain_1
        tl.store(grad_x + series * W + at, d.to(grad_x.dtype.element_ty), mask=there)

    to = parts + (part * C + c) * 16
    if ROWS == 3:
        tl.store(to + j, tl.sum(first_sums, axis=1, keep_dims=True))
        tl.store(to + 8 + j, tl.sum(last_sums, axis=1, keep_dims=True))
    tl.store(to + 4 * middle + j, tl.sum(middle_sums, axis=1, keep_dims=True))
    # every output has been seen through one of these taps
    all_once = (j == 1) | (j == 2) if KIND == "twice" else j == 1
    tl.store(to + 12, tl.sum(tl.where(all_once, bias_sums, 0.0)))
    if ACT:
        tl.store(to + 13, tl.sum(sum_a) / tl.sum(a_1))
        tl.store(to + 14, tl.sum(sum_gain))
        tl.store(to + 15, tl.sum(sum_shift))


def taps_backward(
    grad_z: Tensor, x: Tensor, activation: list[Tensor | None], taps: Tensor, kind: str
) -> tuple[Tensor, ...]:
    """Gradients of x, a, gain, shift, taps and their bias; there is a position."""
    (B, C, H, W), (rows, columns) = x.shape, taps.shape[2:]
    grad_x, n = torch.empty_like(x), B * H * W
    n_parts = min(triton.cdiv(n, BLOCK), max(1, MOST_PARTS // C))
    parts = x.new_empty(n_parts, C, 16, dtype=torch.float32)
    how = constants(*activation[:2], taps, kind) | {"BLOCK": BLOCK} | OPTIONS
    inputs = grad_z, x, *activation, taps
    separable_conv_taps_kernel[C * n_parts,](*inputs, grad_x, parts, n_parts, n, C, H, W, **how)
    sums = parts.sum(0)
    grad_taps = sums[:, : 4 * rows].view(C, 1, rows, 4)[..., :columns]
    return grad_x, *sums[:, 13:].unbind(1), grad_taps, sums[:, 12]


def separable_conv_backward(
    grad: Tensor,
    grad_mean_O: Tensor,
    grad_var_O: Tensor,
    y: Tensor,
    mean_O: Tensor,
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
) -> list[Tensor]:
    inputs = x, a_C, gain_C, shift_C, taps, tap_bias_C, weight, bias_O
    if not grad.numel():
        return [x.new_empty(0) if t is None else torch.zeros_like(t) for t in inputs]
    given = dense(grad, y, mean_O, grad_mean_O, grad_var_O)
    x, *activation, taps, tap_bias_C, weight = dense(*inputs[:7])
    once = activated_first(x, activation, taps, len(weight))
    grad_z, *of_mixing = mix_backward(given, *once, [taps, tap_bias_C], weight, kind, stats)
    grad_x, *between = grad_z, *[None] * 5
    if taps is not None:
        grad_x, *between = taps_backward(grad_z, x, activation, taps, kind)
    elif a_C is not None:
        grad_x, *between = *snake_backward(grad_z, x, *activation), None, None
    pairs = zip((grad_x, *between, *of_mixing), inputs, strict=True)
    # an op cannot return None
    return [
        x.new_empty(0) if t is None else g.reshape(t.shape).to(t.dtype).contiguous()
        for g, t in pairs
    ]


# For separable_conv.py, as SHIPPED there.
SHIPPED: list[Any] = _separable_conv_mix.SHIPPED + [
    (
        separable_conv_taps_kernel,
        {"grad_z": "*{}", "x": "*{}"}
        | dict.fromkeys(("a", "gain", "shift", "taps"), "*fp32")
        | {"grad_x": "*{}", "parts": "*fp32"}
        | dict.fromkeys(("n_parts", "n", "C", "H", "W"), "i32"),
        wanted(kind, rows, act, act) | {"BLOCK": BLOCK},
    )
    for kind, rows, act in (
        ("same", 3, True),
        ("halve", 3, False),
        ("twice", 3, False),
    )
]
