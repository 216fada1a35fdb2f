"""The end of a decoding step, Triton: whole rows of a program, one launch.

The m-th masked position takes the m-th draw; who is masked again is found as in keep_confident.py.
"""

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from tsgen.kernels.keep_confident import TILE, least_confident

OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}


@triton.jit(do_not_specialize=["B", "M", "P", "step"])
def remask_tokens_kernel(
    ids,  # (B, N) int64
    drawn,  # (B, M) int64
    logp,  # (B, M)
    v,  # (B, M) float64
    n_masked,  # (B,) int64
    invalid,  # (B,) uint8
    new_ids,  # (B, N) int64
    places,  # (B, P) int64
    new_invalid,  # (B,) uint8
    B,
    N,
    M,
    P,
    mask_id,
    step,  # of n_masked, 0 where it is the same for all
    noise,  # float32
    more_noise,  # what float32 has not of it
    EACH: tl.constexpr,  # every position has a draw
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    n = tl.arange(0, BLOCK)[None, :]
    row, there = b < B, (b[:, None] < B) & (n < N)
    id = tl.load(ids + b[:, None] * N + n, mask=there, other=0)
    masked = there & (id == mask_id)
    m = n if EACH else tl.cumsum(masked.to(tl.int32), axis=1) - 1
    has_draw = masked & (m < M)
    at = b[:, None] * M + m
    lp = tl.load(logp + at, mask=has_draw, other=0.0).to(tl.float64)
    uniform = tl.load(v + at, mask=has_draw, other=0.5)
    exact = tl.full([1, 1], noise, tl.float64) + tl.full([1, 1], more_noise, tl.float64)
    confidence = lp - exact * tl.log(-tl.log(uniform))
    wanted = tl.load(n_masked + b * step, mask=row, other=0).to(tl.int32)
    again = least_confident(confidence, masked, wanted, 64)
    token = tl.load(drawn + at, mask=has_draw & ~again, other=0)
    tl.store(new_ids + b[:, None] * N + n, tl.where(has_draw & ~again, token, id), mask=there)

    place = tl.cumsum(again.to(tl.int32), axis=1) - 1
    to = places + b[:, None] * P
    tl.store(to + place, tl.broadcast_to(n, again.shape).to(tl.int64), mask=again & (place < P))
    left = tl.sum(again.to(tl.int32), axis=1)[:, None]
    tl.store(to + n, tl.zeros(again.shape, tl.int64), mask=row[:, None] & (n >= left) & (n < P))
    finite = (lp == lp) & (tl.abs(lp) < float("inf"))
    wrong = tl.max((has_draw & ~finite).to(tl.int32), axis=1)
    wrong |= tl.load(invalid + b, mask=row, other=0).to(tl.int32)
    tl.store(new_invalid + b, wrong.to(tl.uint8), mask=row)


def remask_tokens(
    ids_BN: Tensor,
    drawn_BM: Tensor,
    logp_BM: Tensor,
    v_BM: Tensor,
    n_masked_B: Tensor,
    invalid_B: Tensor,
    mask_id: int,
    noise: float,
    n_places: int,
) -> tuple[Tensor, Tensor, Tensor]:
    (B, N), M = ids_BN.shape, drawn_BM.shape[1]
    new_ids_BN = torch.empty(B, N, dtype=torch.int64, device=ids_BN.device)
    places_BP = new_ids_BN.new_empty(B, n_places)
    new_invalid_B = torch.empty(B, dtype=torch.bool, device=ids_BN.device)
    if new_ids_BN.numel():  # an empty grid is an error
        block = triton.next_power_of_2(max(N, 16))
        rows, high = max(1, TILE // block), float(np.float32(noise))
        given = [t.contiguous() for t in (ids_BN, drawn_BM, logp_BM, v_BM)]
        made = new_ids_BN, places_BP, new_invalid_B.view(torch.uint8)
        remask_tokens_kernel[triton.cdiv(B, rows),](
            *(*given, n_masked_B, invalid_B.contiguous().view(torch.uint8), *made),
            *(B, N, M, n_places, mask_id, n_masked_B.stride(0), high, noise - high),
            EACH=M == N,
            ROWS=rows,
            BLOCK=block,
            **OPTIONS,
        )
    return new_ids_BN, places_BP, new_invalid_B


# Read by tests/test_triton_compile.py: kernel, argument types, constants.
SHIPPED = [
    (
        remask_tokens_kernel,
        dict.fromkeys(("ids", "drawn", "n_masked", "new_ids", "places"), "*i64")
        | {"logp": "*fp32", "v": "*fp64", "invalid": "*u8", "new_invalid": "*u8"}
        | dict.fromkeys(("B", "N", "M", "P", "mask_id", "step"), "i32")
        | {"noise": "fp32", "more_noise": "fp32"},
        {"EACH": each, "ROWS": 16, "BLOCK": 64},
    )
    for each in (False, True)
]
