"""The least confident positions, Triton: whole rows of a program, no sort.

Confidences become integers of the same order; the largest of which at most n_masked are smaller is
found bit by bit, for several rows at once. Of those equal to it the last positions are taken.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 1024  # positions of a program, at least
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}


@triton.jit
def least_confident(x, mask, wanted, BITS: tl.constexpr):
    """Which `wanted` positions of each row are lowest, among those of the mask: [ROWS, BLOCK]."""
    x = tl.where(x == x, x, float("-inf")) + 0.0  # -0 is 0
    signed: tl.constexpr = tl.int64 if BITS == 64 else tl.int32
    unsigned: tl.constexpr = tl.uint64 if BITS == 64 else tl.uint32
    key = x.to(unsigned, bitcast=True)
    sign = tl.full([1, 1], 1 << (BITS - 1), unsigned)
    # negative numbers: all bits turned round; others: the sign bit alone
    key = tl.where(x.to(signed, bitcast=True) < 0, ~key, key | sign)

    bound = tl.zeros([x.shape[0]], unsigned)
    bit = tl.full([x.shape[0]], 1 << (BITS - 1), unsigned)
    for _ in range(BITS):
        higher = bound | bit
        below = tl.sum(((key < higher[:, None]) & mask).to(tl.int32), axis=1)
        bound = tl.where(below <= wanted, higher, bound)
        bit >>= 1
    below = (key < bound[:, None]) & mask
    equal = ((key == bound[:, None]) & mask).to(tl.int32)
    missing = wanted - tl.sum(below.to(tl.int32), axis=1)
    behind = tl.sum(equal, axis=1)[:, None] - tl.cumsum(equal, axis=1)  # equal ones further on
    return below | ((equal == 1) & (behind < missing[:, None]))


@triton.jit(do_not_specialize=["B"])
def keep_confident_kernel(
    confidence,  # (B, N)
    n_masked,  # (B,)
    masked,  # (B, N) uint8
    B,
    N,
    BITS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    n = tl.arange(0, BLOCK)
    mask = (b[:, None] < B) & (n[None, :] < N)
    x = tl.load(confidence + b[:, None] * N + n[None, :], mask=mask, other=0.0)
    wanted = tl.load(n_masked + b, mask=b < B, other=0).to(tl.int32)
    out = least_confident(x, mask, wanted, BITS)
    tl.store(masked + b[:, None] * N + n[None, :], out.to(tl.uint8), mask=mask)


def keep_confident(confidence_BN: Tensor, n_masked_B: Tensor) -> Tensor:
    B, N = confidence_BN.shape
    masked_BN = torch.empty(B, N, dtype=torch.bool, device=confidence_BN.device)
    if masked_BN.numel():  # an empty grid is an error
        block = triton.next_power_of_2(max(N, 16))
        rows = max(1, TILE // block)
        size = {"BITS": 8 * confidence_BN.itemsize, "ROWS": rows, "BLOCK": block}
        keep_confident_kernel[(triton.cdiv(B, rows),)](
            confidence_BN.contiguous(),
            n_masked_B.contiguous(),
            masked_BN.view(torch.uint8),
            *(B, N),
            **size,
            **OPTIONS,
        )
    return masked_BN


# Read by tests/test_triton_compile.py: kernel, argument types, constants.
SHIPPED = [
    (
        keep_confident_kernel,
        {"confidence": kind, "n_masked": "*i64", "masked": "*u8", "B": "i32", "N": "i32"},
        {"BITS": bits, "ROWS": 16, "BLOCK": 64},
    )
    for kind, bits in (("*fp32", 32), ("*fp64", 64))
]
