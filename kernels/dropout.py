"""Dropout and the addition after it, Triton: a program decides about whole groups of elements."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from tsgen.ops.dropout import ABREAST, gain, n_dropped

BLOCKS = 128  # of Philox a program, 8 elements each
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}


@triton.jit
def dropout_kernel(
    x,  # (n,)
    seed,  # (1,) int64
    residual,  # (n,), with ADD
    out,  # (n,)
    n,
    n_dropped,
    gain,
    ADD: tl.constexpr,
    ABREAST: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    block = tl.program_id(0).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
    low = (block & 0xFFFFFFFF).to(tl.uint32)
    high = (block >> 32).to(tl.uint32)
    zero = tl.zeros_like(low)
    words = tl.philox(tl.load(seed), low, high, zero, zero)
    first = block // ABREAST * (8 * ABREAST) + block % ABREAST
    for i in tl.static_range(8):
        draw = (words[i % 4] >> (16 * (i // 4))) & 0xFFFF
        at = first + i * ABREAST
        y = tl.load(x + at, mask=at < n, other=0.0).to(tl.float32)
        y = tl.where(draw.to(tl.int32) >= n_dropped, y * gain, 0.0)
        if ADD:
            # rounded before it is added, as in PyTorch
            y = y.to(out.dtype.element_ty).to(tl.float32)
            y += tl.load(residual + at, mask=at < n, other=0.0).to(tl.float32)
        tl.store(out + at, y.to(out.dtype.element_ty), mask=at < n)


def dropout(x: Tensor, p: float, seed: Tensor, residual: Tensor | None) -> Tensor:
    x, residual = x.contiguous(), None if residual is None else residual.contiguous()
    out, n = torch.empty_like(x), x.numel()
    if n:  # an empty grid is an error
        how = {"ADD": residual is not None, "ABREAST": ABREAST, "BLOCKS": BLOCKS} | OPTIONS
        grid = (triton.cdiv(n, 8 * BLOCKS),)
        dropout_kernel[grid](x, seed, residual, out, n, n_dropped(p), gain(p), **how)
    return out


# Read by tests/test_triton_compile.py: kernel, argument types ({} is x's), constants.
SHIPPED = [
    (
        dropout_kernel,
        {"x": "*{}", "seed": "*i64", "residual": "*{}", "out": "*{}"}
        | {"n": "i64", "n_dropped": "i32", "gain": "fp32"},
        {"ADD": True, "ABREAST": ABREAST, "BLOCKS": BLOCKS},
    )
]
