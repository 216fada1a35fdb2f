"""Gradients of separable_conv's mixing of channels, y = W z + b, Triton.

    g = dy + (dmean + 2 (y - mean) dvar) / n        dz = Wᵀ g        dW = Σ g zᵀ        db = Σ g

z, the depthwise convolution, is computed again. Sums over positions are parts of a bounded number
of programs, which take their tiles in turn; they are added up in order.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tsgen.kernels._separable_conv import (
    FEW,
    INPUTS,
    MOST_O,
    OPTIONS,
    SIZES,
    block,
    constants,
    depthwise,
    out_width,
    places,
    tiles,
    wanted,
)

MOST_PARTS = 1024  # programs that add something up


@triton.jit
def gradient_of_y(
    grad,  # (B, O, H, W'), from a tile's first series on
    y,
    mean,  # (O,)
    grad_mean,
    grad_var,
    share,  # 1 / n
    o,  # [BLOCK_O, 1]
    at,  # [1, BLOCK], where their channel 0 is
    there,
    O,
    plane,  # H W'
    STATS: tl.constexpr,
):
    """What y is given, by way of its statistics too: float32 [BLOCK_O, BLOCK]."""
    mask = (o < O) & there
    at += o * plane
    g = tl.load(grad + at, mask=mask, other=0.0).to(tl.float32)
    if STATS:
        of_mean = tl.load(grad_mean + o, mask=o < O, other=0.0)
        of_var = tl.load(grad_var + o, mask=o < O, other=0.0)
        away = tl.load(y + at, mask=mask, other=0.0).to(tl.float32)
        away -= tl.load(mean + o, mask=o < O, other=0.0)
        g += tl.where(mask, (of_mean + 2 * away * of_var) * share, 0.0)
    return g


@triton.jit
def separable_conv_mix_kernel(
    grad,  # (B, O, H, W'), as y
    y,
    mean,  # (O,)
    grad_mean,
    grad_var,
    weight,  # (O, C)
    grad_z,  # (B, C, H, W')
    share,  # 1 / n
    n,  # B H W'
    C,
    O,
    H,
    W_out,
    STATS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK: tl.constexpr,
):
    element: tl.constexpr = grad.dtype.element_ty
    groups = tl.cdiv(C, BLOCK_C)
    tile, group = (tl.program_id(0) // groups).to(tl.int64), tl.program_id(0) % groups
    plane = H * W_out
    first, b, h, w, there = places(tile, n, H, W_out, BLOCK)
    at = b * (O * plane) + h * W_out + w
    grad += first * (O * plane)
    y += first * (O * plane)
    c = group * BLOCK_C + tl.arange(0, BLOCK_C)[:, None]
    sums = tl.zeros([BLOCK_C, BLOCK], tl.float32)
    for o0 in tl.range(0, O, BLOCK_O, num_stages=1):
        o = o0 + tl.arange(0, BLOCK_O)
        mask = (c < C) & (o[None, :] < O)
        mix = tl.load(weight + (o[None, :] * C + c), mask=mask, other=0.0)
        g = gradient_of_y(
            grad, y, mean, grad_mean, grad_var, share, o[:, None], at, there, O, plane, STATS
        )
        if BLOCK_O == 1:
            sums += mix.to(tl.float32) * g
        else:
            sums = tl.dot(mix.to(element), g.to(element), sums, input_precision="ieee")
    to = b * (C * plane) + c * plane + h * W_out + w
    tl.store(grad_z + first * (C * plane) + to, sums.to(element), mask=(c < C) & there)


@triton.jit
def separable_conv_weight_kernel(
    grad,  # (B, O, H, W'), as y
    y,
    mean,  # (O,)
    grad_mean,
    grad_var,
    x,  # (B, C, H, W)
    a,  # (C,)
    gain,
    shift,
    taps,  # (C, ROWS, COLUMNS)
    tap_bias,  # (C,)
    parts,  # (n_parts, O, C + 1): gradients of weight, and behind each row that of its bias
    share,  # 1 / n
    n_parts,
    n,  # B H W'
    C,
    O,
    H,
    W,
    STATS: tl.constexpr,
    KIND: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ACT: tl.constexpr,
    NORM: tl.constexpr,
    SMALLEST: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK: tl.constexpr,
):
    element: tl.constexpr = x.dtype.element_ty
    groups_c, groups = tl.cdiv(C, BLOCK_C), tl.cdiv(C, BLOCK_C) * tl.cdiv(O, BLOCK_O)
    part, group = (tl.program_id(0) // groups).to(tl.int64), tl.program_id(0) % groups
    c = group % groups_c * BLOCK_C + tl.arange(0, BLOCK_C)
    o = group // groups_c * BLOCK_O + tl.arange(0, BLOCK_O)[:, None]
    W_out = out_width(W, KIND)
    plane = H * W_out
    sums = tl.zeros([BLOCK_O, BLOCK_C], tl.float32)
    bias_sums = tl.zeros([BLOCK_O, 1], tl.float32)
    for tile in tl.range(part, tl.cdiv(n, BLOCK), n_parts, num_stages=1, disable_licm=True):
        first, b, h, w, there = places(tile, n, H, W_out, BLOCK)
        at = b * (O * plane) + h * W_out + w
        here = first * (O * plane)
        g = gradient_of_y(
            grad + here, y + here, mean, grad_mean, grad_var, share, o, at, there, O, plane, STATS
        )
        bias_sums += tl.sum(g, axis=1, keep_dims=True)
        z = depthwise(
            x + first * (C * H * W),
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
        sums = tl.dot(g.to(element), tl.trans(z.to(element)), sums, input_precision="ieee")
    to = parts + (part * O + o) * (C + 1)
    tl.store(to + c[None, :], sums, mask=(o < O) & (c[None, :] < C))
    mine = tl.where(group % groups_c == 0, O, 0)  # one program of an output says its bias's
    tl.store(to + C, bias_sums, mask=o < mine)


def mix_tiles(C: int, O: int, itemsize: int) -> dict[str, int]:
    """As those of the forward direction, O and C having changed places."""
    forward = tiles(O, C, itemsize)
    return {"BLOCK_O": forward["BLOCK_C"], "BLOCK_C": forward["BLOCK_O"], "BLOCK": forward["BLOCK"]}


def weight_tiles(O: int, itemsize: int) -> dict[str, int]:
    """Sizes of a program of weights: as those of y."""
    most = MOST_O if itemsize == 4 else 2 * MOST_O
    return {"BLOCK_C": FEW, "BLOCK_O": block(O, most), "BLOCK": 32}


def mix_backward(
    given: list[Tensor],  # grad, y, mean, grad_mean, grad_var
    x: Tensor,
    activation: list[Tensor | None],
    taps: list[Tensor | None],  # and their bias
    weight: Tensor,
    kind: str,
    stats: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of z, weight and bias; there is a position."""
    grad, (B, C, H, W), O = given[0], x.shape, len(weight)
    W_out = grad.shape[3]
    n = B * H * W_out
    grad_z = x.new_empty(B, C, H, W_out)
    size = mix_tiles(C, O, x.itemsize)
    grid = (triton.cdiv(n, size["BLOCK"]) * triton.cdiv(C, size["BLOCK_C"]),)
    separable_conv_mix_kernel[grid](
        *given, weight, grad_z, 1 / n, n, C, O, H, W_out, STATS=stats, **size, **OPTIONS
    )

    size = weight_tiles(O, x.itemsize)
    groups = triton.cdiv(C, size["BLOCK_C"]) * triton.cdiv(O, size["BLOCK_O"])
    n_parts = min(triton.cdiv(n, size["BLOCK"]), max(1, MOST_PARTS // groups))
    parts = x.new_empty(n_parts, O, C + 1, dtype=torch.float32)
    how = constants(*activation[:2], taps[0], kind) | {"STATS": stats} | size | OPTIONS
    inputs = *given, x, *activation, *taps
    sizes = 1 / n, n_parts, n, C, O, H, W
    separable_conv_weight_kernel[groups * n_parts,](*inputs, parts, *sizes, **how)
    sums = parts.sum(0)
    return grad_z, sums[:, :C], sums[:, C]


# For separable_conv.py, as SHIPPED there.
GRADIENTS = {"grad": "*{}", "y": "*{}"} | dict.fromkeys(("mean", "grad_mean", "grad_var"), "*fp32")
SHIPPED: list[Any] = [
    (
        separable_conv_mix_kernel,
        GRADIENTS
        | {"weight": "*fp32", "grad_z": "*{}", "share": "fp32"}
        | dict.fromkeys(("n", "C", "O", "H", "W_out"), "i32"),
        {"STATS": stats} | mix_tiles(C, O, itemsize),
        dtype,
    )
    for dtype, itemsize in (("fp32", 4), ("bf16", 2))
    for C, O, stats in ((4, 8, True), (128, 32, True))
] + [
    (
        separable_conv_weight_kernel,
        GRADIENTS | INPUTS | {"parts": "*fp32", "share": "fp32", "n_parts": "i32"} | SIZES,
        {"STATS": stats} | wanted(kind, rows, act, act) | weight_tiles(O, itemsize),
        dtype,
    )
    for dtype, itemsize in (("fp32", 4), ("bf16", 2))
    for C, O, kind, rows, act, stats in (
        (8, 16, "same", 1, True, True),
        (32, 64, "twice", 3, False, True),
    )
]
