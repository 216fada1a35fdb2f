"""Two uniform numbers a place, Triton: Philox in registers, one draw a thread."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from tsgen.kernels.philox import philox_at

BLOCK = 256
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}


@triton.jit
def uniform(high, low):
    """52 of their bits as a number in (0, 1)."""
    bits = (high.to(tl.uint64) << 20) | (low >> 12).to(tl.uint64)
    return (bits.to(tl.float64) + 0.5) * 2.0**-52


@triton.jit(do_not_specialize=["stride_b", "n", "M", "step", "band"])
def draw_uniforms_kernel(
    seed,  # (B,) int64
    sample,  # (B,) int64
    places,  # (B, M) int64
    u,  # (B, M) float64
    v,
    stride_b,  # of places, 0 where they are the same for all
    n,  # B M
    M,
    step,
    band,
    BLOCK: tl.constexpr,
):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    b = i // M
    place = tl.load(places + b * stride_b + i % M, mask=i < n, other=0).to(tl.uint32)
    key = tl.load(seed + b, mask=i < n, other=0)
    index = tl.load(sample + b, mask=i < n, other=0)
    w0, w1, w2, w3 = philox_at(key, index, place, 0, step, band)
    tl.store(u + i, uniform(w0, w1), mask=i < n)
    tl.store(v + i, uniform(w2, w3), mask=i < n)


def draw_uniforms(
    seed_B: Tensor, sample_B: Tensor, places_BM: Tensor, step: int, band: int
) -> tuple[Tensor, Tensor]:
    B, M = places_BM.shape
    u_BM = torch.empty(B, M, dtype=torch.float64, device=places_BM.device)
    v_BM = torch.empty_like(u_BM)
    if u_BM.numel():  # an empty grid is an error
        if M > 1 and places_BM.stride(1) != 1:
            places_BM = places_BM.contiguous()
        inputs = seed_B.contiguous(), sample_B.contiguous(), places_BM, u_BM, v_BM
        sizes = places_BM.stride(0), B * M, M, step, band
        draw_uniforms_kernel[triton.cdiv(B * M, BLOCK),](*inputs, *sizes, BLOCK=BLOCK, **OPTIONS)
    return u_BM, v_BM


# Read by tests/test_triton_compile.py: kernel, argument types, constants.
SHIPPED = [
    (
        draw_uniforms_kernel,
        {"seed": "*i64", "sample": "*i64", "places": "*i64", "u": "*fp64", "v": "*fp64"}
        | dict.fromkeys(("stride_b", "n", "M", "step", "band"), "i32"),
        {"BLOCK": BLOCK},
    )
]
