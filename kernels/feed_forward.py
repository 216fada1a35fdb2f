"""The feed-forward part of a block, Triton: a tile of rows against tiles of features.

Where one tile holds all features, they are normalised as they stand. Of more, a row's mean and
centred squares are merged tile by tile (Chan et al. 1979, eq. 2.1), the products of what is not
normalised yet are added up, and the mean's share in them is taken off at the end:

    W (gain (u - mean) rstd + shift) = rstd (W (gain u) - mean (W gain)) + W shift

The two vectors (D,) are the same for all rows: a small kernel before this one adds them up. Done
by every program, they were a fifth of the loop's instructions, and took registers that some GPUs
have not got. u is multiplied by the gain in float32, so it is rounded to 16 bits once, as without
a gain, and the weight stays as it is.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from tsgen.kernels._rows import (
    centred,
    gelu,
    matrix,
    power_of_2,
    product,
    rows_of,
    scaled,
    vector,
)
from tsgen.ops.attention import dense_rows

SUMS = 16384  # of a program in 16 bits: 64 a thread
OPTIONS = {"num_warps": 8, "enable_fp_fusion": True}


@triton.jit
def sums_kernel(
    down,  # (D, F), this stride
    mid_gain,  # (F,)
    mid_shift,  # (F,)
    sums,  # (2, D): of down's rows times the gain, and times the shift
    down_stride_d,
    D: tl.constexpr,
    F: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    d = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at = down + d.to(tl.int64) * down_stride_d
    of_gain = tl.zeros([ROWS, BLOCK], tl.float32)
    of_shift = tl.zeros([ROWS, BLOCK], tl.float32)
    for f0 in range(0, F, BLOCK):
        f = f0 + tl.arange(0, BLOCK)
        w = matrix(at, d < D, f, F).to(tl.float32)
        of_gain += w * vector(mid_gain, f, F)[None, :]
        of_shift += w * vector(mid_shift, f, F)[None, :]
    tl.store(sums + d, tl.sum(of_gain, axis=1), mask=d < D)
    tl.store(sums + D + d, tl.sum(of_shift, axis=1), mask=d < D)


@triton.jit
def columns(at, there, f, F: tl.constexpr, READABLE: tl.constexpr):
    """Numbers f of F from each of the addresses that are there, as columns; 0 elsewhere."""
    w = tl.load(at[None, :] + f[:, None], mask=(f[:, None] < READABLE) & there[None, :], other=0.0)
    return tl.where(f[:, None] < F, w, 0.0) if READABLE > F else w


@triton.jit(do_not_specialize=["R"])
def feed_forward_kernel(
    x,  # (R, D), this stride
    gain,  # (D,)
    shift,  # (D,)
    up,  # (F, D), this stride
    mid_gain,  # (F,)
    mid_shift,  # (F,)
    down,  # (D, F), this stride
    sums,  # (2, D), where there are several tiles of features
    out,  # (R, D)
    R,
    x_stride_r,
    up_stride_f,
    down_stride_d,
    eps,
    D: tl.constexpr,
    F: tl.constexpr,
    READABLE: tl.constexpr,  # columns of down: F of them, or some more that mean nothing
    ROWS: tl.constexpr,
    DIMS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    ONE: tl.constexpr = F <= BLOCK_F
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there, dims = r < R, tl.arange(0, DIMS)
    x_at = x + r * x_stride_r
    x_rows = rows_of(x_at, there, gain, shift, eps, True, D, BLOCK_D)
    y = tl.zeros([ROWS, DIMS], tl.float32)
    mean = tl.zeros([ROWS], tl.float32)
    squares = tl.zeros([ROWS], tl.float32)
    for f0 in range(0, F, BLOCK_F):
        f = f0 + tl.arange(0, BLOCK_F)
        down_at = down + dims.to(tl.int64) * down_stride_d
        if ONE:  # on its way while the other product is made; of more tiles it is anyway
            w = columns(down_at, dims < D, f, F, READABLE)
        up_at = up + f.to(tl.int64) * up_stride_f
        u = gelu(product(x_rows, up_at, f < F, True, D, BLOCK_D))  # [ROWS, BLOCK_F], 0 behind F
        if not ONE:
            w = columns(down_at, dims < D, f, F, READABLE)  # [BLOCK_F, DIMS]
        n = tl.minimum(F - f0, BLOCK_F)
        here = tl.sum(u, axis=1) / n
        c = centred(u, here, f, F)
        squares += tl.sum(c * c, axis=1)
        if ONE:
            u = scaled(c, tl.rsqrt(squares / F + eps), mid_gain, mid_shift, f, F)
        else:
            apart = here - mean
            mean += apart * n / (f0 + n)
            squares += apart * apart * f0 * n / (f0 + n)
            u *= vector(mid_gain, f, F)[None, :]
        y = tl.dot(u.to(w.dtype), w, y, input_precision="ieee")
    if not ONE:
        y -= mean[:, None] * vector(sums, dims, D)[None, :]
        y *= tl.rsqrt(squares / F + eps)[:, None]
        y += vector(sums + D, dims, D)[None, :]
    # Read again rather than kept in registers, and not as before, or both would become one.
    inside = there[:, None] & (dims[None, :] < D)
    last = tl.load(x_at[:, None] + dims[None, :], mask=inside, eviction_policy="evict_first")
    y += last.to(tl.float32)
    at = out + r[:, None] * D + dims[None, :]
    tl.store(at, y.to(out.dtype.element_ty), mask=inside)


def tile(D: int, n_features: int, itemsize: int) -> dict[str, int]:
    """Rows, columns and features of a tile, and how much of D is multiplied at once."""
    dims, features = power_of_2(D), power_of_2(n_features)
    if itemsize == 4:  # products without tensor cores need registers
        rows = 32 if dims <= 128 else 16
        return {"ROWS": rows, "DIMS": dims, "BLOCK_D": 16, "BLOCK_F": 16}
    rows = max(16, min(128, SUMS // dims))
    if features > 128 or features * dims > SUMS:  # two weights, three tiles ahead
        features = max(16, min(32, 8192 // dims))
    block_d = dims if dims <= 512 else 128
    return {"ROWS": rows, "DIMS": dims, "BLOCK_D": block_d, "BLOCK_F": features}


def summed(n_features: int) -> dict[str, int]:
    """Rows of down that a program sums, and how much of one at once."""
    return {"ROWS": 4, "BLOCK": min(1024, power_of_2(n_features))}


def readable(t: Tensor) -> int:
    """Columns that may be read, to load 16 bytes at once: those of t, or some of its padding."""
    n_rows, n = t.shape
    step, padded = t.stride(0), triton.cdiv(n, 16) * 16
    end = t.storage_offset() + n_rows * step
    fits = step >= padded and end * t.itemsize <= t.untyped_storage().nbytes()
    return padded if fits else n


def feed_forward(
    x_RD: Tensor,
    gain_D: Tensor,
    shift_D: Tensor,
    up_FD: Tensor,
    mid_gain_F: Tensor,
    mid_shift_F: Tensor,
    down_DF: Tensor,
    eps: float,
) -> Tensor:
    x_RD, up_FD, down_DF = dense_rows(x_RD), dense_rows(up_FD), dense_rows(down_DF)
    R, (D, n_features) = len(x_RD), down_DF.shape
    out_RD = x_RD.new_empty(R, D)
    if not R:  # an empty grid is an error
        return out_RD
    mid = (mid_gain_F.contiguous(), mid_shift_F.contiguous())
    size, sums = tile(D, n_features, x_RD.itemsize), None
    if n_features > size["BLOCK_F"]:
        sums = torch.empty(2, D, device=x_RD.device)
        how = summed(n_features) | OPTIONS
        grid = (triton.cdiv(D, how["ROWS"]),)
        sums_kernel[grid](down_DF, *mid, sums, down_DF.stride(0), D=D, F=n_features, **how)
    feed_forward_kernel[(triton.cdiv(R, size["ROWS"]),)](
        *(x_RD, gain_D.contiguous(), shift_D.contiguous(), up_FD, *mid, down_DF, sums, out_RD),
        *(R, x_RD.stride(0), up_FD.stride(0), down_DF.stride(0), eps),
        **{"D": D, "F": n_features, "READABLE": readable(down_DF)},
        **size,
        **OPTIONS,
    )
    return out_RD


# Read by tests/test_triton_compile.py: kernel, argument types ({} is x's), constants, and the only
# dtype of x.
TYPES = {"x": "*{}", "gain": "*fp32", "shift": "*fp32", "up": "*{}"}
TYPES |= {"mid_gain": "*fp32", "mid_shift": "*fp32", "down": "*{}", "sums": "*fp32"}
TYPES |= {"out": "*{}", "R": "i32"}
TYPES |= dict.fromkeys(("x_stride_r", "up_stride_f", "down_stride_d"), "i32") | {"eps": "fp32"}
SHIPPED = [
    (
        sums_kernel,
        {"down": "*{}", "mid_gain": "*fp32", "mid_shift": "*fp32", "sums": "*fp32"}
        | {"down_stride_d": "i32"},
        {"D": 256, "F": 682} | summed(682),
    ),
    *(
        (
            feed_forward_kernel,
            TYPES,
            {"D": D, "F": n_features, "READABLE": triton.cdiv(n_features, 16) * 16}
            | tile(D, n_features, itemsize),
            dtype,
        )
        for dtype, itemsize, D, n_features in (
            ("fp32", 4, 128, 85),
            ("bf16", 2, 128, 85),
            ("bf16", 2, 128, 341),
            ("bf16", 2, 256, 682),
            ("bf16", 2, 512, 1365),
            ("bf16", 2, 1024, 682),
        )
    ),
]
