"""What both directions of separable_conv share: places of a tile, the depthwise convolution.

A tile is BLOCK neighbours in (B, H, W'), of one series or of several; tensors of it are
[channels, BLOCK].
"""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from tsgen.kernels._math import half_turn
from tsgen.kernels.snake import channel_values, snake
from tsgen.ops.separable_conv import KINDS
from tsgen.ops.snake import SMALLEST_A

FEW = 16  # channels: tl.dot takes no fewer
MOST_O = 32  # channels out of a program
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}


@triton.jit
def places(tile, n, H, W, BLOCK: tl.constexpr):
    """The first series of a tile; series after it, row and column of its positions [1, BLOCK], and
    which of them there are."""
    first = tile * BLOCK
    i = tl.arange(0, BLOCK)[None, :]
    # a division of 64 bits for the tile, those of its positions have 32
    b = first // (H * W)
    p = (first - b * (H * W)).to(tl.int32) + i
    return b, p // (H * W), p // W % H, p % W, first + i < n


@triton.jit
def activated(x, a, inverse, gain, shift, ACT: tl.constexpr):
    y = x
    if ACT:
        y = x * gain + shift
        sine, _ = half_turn(a * y)
        y += sine * (sine * inverse)
    return y


@triton.jit
def out_width(W, KIND: tl.constexpr):
    return W // 2 if KIND == "halve" else 2 * W if KIND == "twice" else W


@triton.jit
def depthwise(
    x,  # (B, C, H, W), from a tile's first series on
    a,  # (C,)
    gain,
    shift,
    taps,  # (C, ROWS, COLUMNS)
    tap_bias,  # (C,)
    c,  # [BLOCK_C, 1]
    b,  # [1, BLOCK], as h and w, the output's, and there
    h,
    w,
    there,
    C,
    H,
    W,
    KIND: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ACT: tl.constexpr,
    NORM: tl.constexpr,
    SMALLEST: tl.constexpr,
):
    """D(s(x)) of channels c at a tile's places: float32 [BLOCK_C, BLOCK]."""
    inside = c < C
    a_C, inverse_C, gain_C, shift_C = a, a, gain, shift
    if ACT:
        a_C, gain_C, shift_C = channel_values(a, gain, shift, c, inside, NORM, SMALLEST)
        inverse_C = 1.0 / a_C
    at = b * (C * H * W) + c * (H * W)
    if KIND == "none":
        z = tl.load(x + (at + h * W + w), mask=inside & there, other=0.0).to(tl.float32)
        z = activated(z, a_C, inverse_C, gain_C, shift_C, ACT)
    else:
        taps += c * (ROWS * COLUMNS)
        z = tl.load(tap_bias + c, mask=inside, other=0.0).to(tl.float32)
        for i in tl.static_range(ROWS):
            row = h + (ROWS // 2 - i if KIND == "twice" else i - ROWS // 2)
            if KIND == "halve":
                row = tl.minimum(tl.maximum(row, 0), H - 1)
            seen_row = inside & there & (row >= 0) & (row < H)
            # a transpose has two taps a row and output: odd ones if its column is even
            for j in tl.static_range(2 if KIND == "twice" else COLUMNS):
                if KIND == "twice":
                    column = (w + 1) // 2 - j
                    even = tl.load(taps + (i * COLUMNS + 2 * j + 1), mask=inside, other=0.0)
                    odd = tl.load(taps + (i * COLUMNS + 2 * j), mask=inside, other=0.0)
                    tap = tl.where(w % 2 == 0, even, odd)
                else:
                    column = (2 * w if KIND == "halve" else w) + (j - 1)
                    tap = tl.load(taps + (i * COLUMNS + j), mask=inside, other=0.0)
                if KIND == "halve":
                    column = tl.minimum(tl.maximum(column, 0), W - 1)
                seen = seen_row & (column >= 0) & (column < W)
                s = tl.load(x + (at + row * W + column), mask=seen, other=0.0).to(tl.float32)
                s = activated(s, a_C, inverse_C, gain_C, shift_C, ACT)
                if NORM:
                    s = tl.where(seen, s, 0.0)  # 0 outside, not what becomes of 0
                z += tap.to(tl.float32) * s
    return z


def constants(
    a_C: Tensor | None, gain_C: Tensor | None, taps: Tensor | None, kind: str
) -> dict[str, Any]:
    rows = 1 if taps is None else taps.shape[2]
    return wanted(kind, rows, a_C is not None, gain_C is not None)


def wanted(kind: str, rows: int, act: bool, norm: bool) -> dict[str, Any]:
    how = {"KIND": kind, "ROWS": rows, "COLUMNS": KINDS[kind]}
    return how | {"ACT": act, "NORM": norm, "SMALLEST": SMALLEST_A}


def dense(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if t is None else t.contiguous() for t in tensors]


def activated_first(
    x: Tensor, activation: list[Tensor | None], taps: Tensor | None, O: int
) -> tuple[Tensor, list[Tensor | None]]:
    """x activated in a pass of its own, and no activation any more, where that is cheaper.

    To activate a number takes some 25 instructions, and a GPU has time for two of those while it
    writes the number and reads it again. So three taps are better activated at once, but not nine,
    and not again for every tile of outputs.
    """
    a_C, gain_C, shift_C = activation
    one_tile = tiles(x.shape[1], O, x.itemsize)["BLOCK_O"] >= O
    if a_C is None or (one_tile and (taps is None or taps.shape[2] == 1)):
        return x, activation
    return snake(x, a_C, gain_C, shift_C), [None, None, None]


def block(n: int, most: int, least: int = FEW) -> int:
    return min(most, triton.next_power_of_2(max(n, least)))


def tiles(C: int, O: int, itemsize: int) -> dict[str, int]:
    """Sizes of a program. Not those of the batch: no series' bits depend on it."""
    if C < FEW:
        block_o = block(O, MOST_O, 1)
        return {"BLOCK_C": 1, "BLOCK_O": block_o, "BLOCK": max(128, min(256, 4096 // block_o))}
    # without tensor cores a thread keeps the rows that it multiplies
    most = MOST_O if itemsize == 4 else 2 * MOST_O
    return {"BLOCK_C": FEW, "BLOCK_O": block(O, most), "BLOCK": 64}


# For tests/test_triton_compile.py: types of arguments ({} is x's).
INPUTS = {"x": "*{}"} | dict.fromkeys(("a", "gain", "shift", "taps", "tap_bias"), "*fp32")
SIZES = dict.fromkeys(("n", "C", "O", "H", "W"), "i32")
