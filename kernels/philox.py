"""Philox4x32-10, Triton: one program makes the words of some positions of one sample."""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 256
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}


@triton.jit
def philox_at(key, sample, n, stream, step, band):
    """The four words of a draw; tsgen/ops/philox.py has the counter."""
    zero = tl.zeros_like(n)
    return tl.philox(
        key,
        zero + (sample & 0xFFFFFFFF).to(tl.uint32),
        zero + ((sample >> 32) & 0xFFFFFFFF).to(tl.uint32),
        n | (stream << 24),
        zero + (step | (band << 16)),
    )


@triton.jit
def philox_kernel(
    sample,  # (B,) int64
    words,  # (B, N, 4) int64
    key,
    N,
    stream,
    step,
    band,
    BLOCK: tl.constexpr,
):
    pieces = tl.cdiv(N, BLOCK)
    program = tl.program_id(0).to(tl.int64)
    b = program // pieces
    n = (program % pieces).to(tl.uint32) * BLOCK + tl.arange(0, BLOCK).to(tl.uint32)
    w0, w1, w2, w3 = philox_at(key, tl.load(sample + b), n, stream, step, band)
    at = words + (b * N + n) * 4
    tl.store(at, w0.to(tl.int64), mask=n < N)
    tl.store(at + 1, w1.to(tl.int64), mask=n < N)
    tl.store(at + 2, w2.to(tl.int64), mask=n < N)
    tl.store(at + 3, w3.to(tl.int64), mask=n < N)


def philox(
    sample_B: Tensor, key: int, n_positions: int, stream: int, step: int, band: int
) -> Tensor:
    B = len(sample_B)
    words_BN4 = torch.empty(B, n_positions, 4, dtype=torch.int64, device=sample_B.device)
    if words_BN4.numel():  # an empty grid is an error
        grid = (B * triton.cdiv(n_positions, BLOCK),)
        sizes = n_positions, stream, step, band
        philox_kernel[grid](sample_B.contiguous(), words_BN4, key, *sizes, BLOCK=BLOCK, **OPTIONS)
    return words_BN4


# Read by tests/test_triton_compile.py: kernel, argument types, constants.
SHIPPED = [
    (
        philox_kernel,
        {"sample": "*i64", "words": "*i64", "key": "i64"}
        | dict.fromkeys(("N", "stream", "step", "band"), "i32"),
        {"BLOCK": BLOCK},
    )
]
