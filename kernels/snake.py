"""Snake, Triton: a tile of whole rows, or of pieces of long ones, per program.

A row is one channel of one sample: S numbers with the same frequency, gain and shift.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from tsgen.kernels._math import half_turn
from tsgen.ops.snake import SMALLEST_A

TILE = 1024  # numbers of a program
MOST_PARTS = 64  # that the batch is split into for a channel's sums
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}


@triton.jit
def channel_values(a, gain, shift, c, inside, NORM: tl.constexpr, SMALLEST: tl.constexpr):
    """Frequency, gain and shift of channels c."""
    a = tl.load(a + c, mask=inside, other=1.0).to(tl.float32)
    a = tl.where(a == 0, SMALLEST, a)
    if NORM:
        gain = tl.load(gain + c, mask=inside, other=0.0).to(tl.float32)
        shift = tl.load(shift + c, mask=inside, other=0.0).to(tl.float32)
    else:
        gain = tl.full(c.shape, 1.0, tl.float32)
        shift = tl.full(c.shape, 0.0, tl.float32)
    return a, gain, shift


@triton.jit(do_not_specialize=["n_rows"])
def snake_kernel(
    x,  # (rows, S)
    a,  # (C,)
    gain,
    shift,
    out,  # as x
    n_rows,
    C,
    S,
    NORM: tl.constexpr,
    SMALLEST: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    pieces = tl.cdiv(S, BLOCK)
    program = tl.program_id(0).to(tl.int64)
    row = program // pieces * ROWS + tl.arange(0, ROWS)
    s = program % pieces * BLOCK + tl.arange(0, BLOCK)
    a_R, gain_R, shift_R = channel_values(a, gain, shift, row % C, row < n_rows, NORM, SMALLEST)
    mask = (row[:, None] < n_rows) & (s[None, :] < S)
    at = row[:, None] * S + s[None, :]
    y = tl.load(x + at, mask=mask, other=0.0).to(tl.float32) * gain_R[:, None] + shift_R[:, None]
    sine, _ = half_turn(a_R[:, None] * y)
    y += sine * (sine / a_R[:, None])
    tl.store(out + at, y.to(out.dtype.element_ty), mask=mask)


@triton.jit
def snake_backward_kernel(
    grad,  # (B, C, S)
    x,
    a,  # (C,)
    gain,
    shift,
    grad_x,  # as x
    parts,  # (n_parts, 3, C): sums of the gradients of a, gain and shift over some samples
    B,
    C,
    S,
    samples,  # of a part
    NORM: tl.constexpr,
    SMALLEST: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    c = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1).to(tl.int64)
    one = tl.arange(0, 1) + c
    a_1, gain_1, shift_1 = channel_values(a, gain, shift, one, one < C, NORM, SMALLEST)
    a_1, gain_1, shift_1 = a_1[:, None], gain_1[:, None], shift_1[:, None]
    sum_a = tl.zeros([ROWS, BLOCK], tl.float32)
    sum_gain = tl.zeros([ROWS, BLOCK], tl.float32)
    sum_shift = tl.zeros([ROWS, BLOCK], tl.float32)
    end = tl.minimum(B, (part + 1) * samples)
    for first in range(part * samples, end, ROWS):
        row = first + tl.arange(0, ROWS)
        for s0 in range(0, S, BLOCK):
            s = s0 + tl.arange(0, BLOCK)
            mask = (row[:, None] < end) & (s[None, :] < S)
            at = (row[:, None] * C + c) * S + s[None, :]
            x_RS = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
            # where nothing is, nothing is added
            g_RS = tl.load(grad + at, mask=mask, other=0.0).to(tl.float32)
            y = x_RS * gain_1 + shift_1
            sine, cosine = half_turn(a_1 * y)
            twice = 2 * sine * cosine  # sin(2 a y)
            g_y = g_RS * (1 + twice)
            sum_a += g_RS * (y * twice - sine * (sine / a_1))
            sum_gain += g_y * x_RS
            sum_shift += g_y
            tl.store(grad_x + at, (g_y * gain_1).to(grad_x.dtype.element_ty), mask=mask)
    to = parts + part * 3 * C + c
    tl.store(to, tl.sum(sum_a) / tl.sum(a_1))
    tl.store(to + C, tl.sum(sum_gain))
    tl.store(to + 2 * C, tl.sum(sum_shift))


def tile(S: int, n_rows: int) -> dict[str, int]:
    """Rows and numbers of each that make a tile."""
    block = min(TILE, triton.next_power_of_2(max(S, 16)))
    return {"ROWS": min(TILE // block, triton.next_power_of_2(max(1, n_rows))), "BLOCK": block}


def snake(x: Tensor, a_C: Tensor, gain_C: Tensor | None, shift_C: Tensor | None) -> Tensor:
    x = x.contiguous()
    out = torch.empty_like(x)
    if x.numel():  # an empty grid is an error
        C = x.shape[1]
        n_rows, S = x.shape[0] * C, x[0, 0].numel()
        size = tile(S, n_rows)
        grid = (triton.cdiv(n_rows, size["ROWS"]) * triton.cdiv(S, size["BLOCK"]),)
        channels = [None if t is None else t.contiguous() for t in (a_C, gain_C, shift_C)]
        how = {"NORM": gain_C is not None, "SMALLEST": SMALLEST_A} | size | OPTIONS
        snake_kernel[grid](x, *channels, out, n_rows, C, S, **how)
    return out


def snake_backward(
    grad: Tensor, x: Tensor, a_C: Tensor, gain_C: Tensor | None, shift_C: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, grad = x.contiguous(), grad.contiguous()
    B, C = x.shape[:2]
    grad_x = torch.empty_like(x)
    n_parts = max(1, min(MOST_PARTS, B // 4))
    parts = torch.zeros(n_parts, 3, C, device=x.device)
    if x.numel():
        S, samples = x[0, 0].numel(), triton.cdiv(B, n_parts)
        channels = [None if t is None else t.contiguous() for t in (a_C, gain_C, shift_C)]
        how = {"NORM": gain_C is not None, "SMALLEST": SMALLEST_A} | tile(S, samples) | OPTIONS
        snake_backward_kernel[(C, n_parts)](
            grad, x, *channels, grad_x, parts, B, C, S, samples, **how
        )
    grad_a, grad_gain, grad_shift = parts.sum(0).to(a_C.dtype)
    n = 0 if gain_C is None else C
    return grad_x, grad_a, grad_gain[:n], grad_shift[:n]


# Read by tests/test_triton_compile.py: kernel, argument types ({} is x's), constants.
POINTERS = {"x": "*{}", "a": "*fp32", "gain": "*fp32", "shift": "*fp32"}
SHIPPED = [
    (
        snake_kernel,
        POINTERS | {"out": "*{}", "n_rows": "i32", "C": "i32", "S": "i32"},
        {"NORM": True, "SMALLEST": SMALLEST_A, "ROWS": 16, "BLOCK": 64},
    ),
    (
        snake_backward_kernel,
        {"grad": "*{}"}
        | POINTERS
        | {"grad_x": "*{}", "parts": "*fp32", "B": "i32", "C": "i32", "S": "i32", "samples": "i32"},
        {"NORM": True, "SMALLEST": SMALLEST_A, "ROWS": 16, "BLOCK": 64},
    ),
]
