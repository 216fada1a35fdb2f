"""Mean and variance of each channel from those of its parts, Triton (Chan et al. 1979).

A part is (3, O): how many numbers, their mean, their biased variance; one launch merges up to
PARTS neighbours into one, always the same ones.
"""

import triton
import triton.language as tl
from torch import Tensor

PARTS = 256
CHANNELS = 16  # of a program
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}


@triton.jit
def moments(x, mask, count, AXIS: tl.constexpr):
    """Mean along AXIS, and the sum of squares around it, of the `count` numbers where mask is."""
    mean = tl.sum(tl.where(mask, x, 0.0), axis=AXIS, keep_dims=True) / count
    away = tl.where(mask, x - mean, 0.0)
    return mean, tl.sum(away * away, axis=AXIS, keep_dims=True)


@triton.jit
def store_part(parts, part, count, mean, squares, o, O):
    to = parts + part * 3 * O + o
    tl.store(to, tl.zeros_like(mean) + count, mask=o < O)
    tl.store(to + O, mean, mask=o < O)
    tl.store(to + 2 * O, squares / count, mask=o < O)


@triton.jit
def merge_kernel(
    parts,  # (n_parts, 3, O)
    merged,  # (n_parts / PARTS, 3, O)
    n_parts,
    O,
    PARTS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    groups = tl.cdiv(O, CHANNELS)
    program = tl.program_id(0).to(tl.int64)
    o = program % groups * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    n = program // groups * PARTS + tl.arange(0, PARTS)[:, None]
    at = parts + n * 3 * O + o
    mask = (n < n_parts) & (o < O)
    count = tl.load(at, mask=mask, other=0.0)  # [PARTS, CHANNELS]
    mean = tl.load(at + O, mask=mask, other=0.0)
    var = tl.load(at + 2 * O, mask=mask, other=0.0)
    total = tl.sum(count, axis=0, keep_dims=True)
    share = count / tl.maximum(total, 1.0)  # there is no channel behind the last one
    average = tl.sum(share * mean, axis=0, keep_dims=True)
    away = mean - average
    to = merged + program // groups * 3 * O + o
    tl.store(to, total, mask=o < O)
    tl.store(to + O, average, mask=o < O)
    tl.store(to + 2 * O, tl.sum(share * (var + away * away), axis=0, keep_dims=True), mask=o < O)


def merged(parts: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (O,) of all parts (n, 3, O)."""
    n_parts, _, O = parts.shape
    while n_parts > 1:
        fewer = parts.new_empty(triton.cdiv(n_parts, PARTS), 3, O)
        grid = (len(fewer) * triton.cdiv(O, CHANNELS),)
        size = {"PARTS": PARTS, "CHANNELS": CHANNELS}
        merge_kernel[grid](parts, fewer, n_parts, O, **size, **OPTIONS)
        parts, n_parts = fewer, len(fewer)
    return parts[0, 1], parts[0, 2]


# For the SHIPPED of kernels that have statistics.
SHIPPED = [
    (
        merge_kernel,
        {"parts": "*fp32", "merged": "*fp32", "n_parts": "i32", "O": "i32"},
        {"PARTS": PARTS, "CHANNELS": CHANNELS},
        "fp32",
    )
]
