"""Linear map, activation, norm and residual, Triton: a tile of whole rows of the result each.

The wider a row, the fewer make a tile: 64 sums a thread in any case.
"""

import triton
import triton.language as tl
from torch import Tensor

from tsgen.kernels._rows import centred, gelu, matrix, power_of_2, scaled, vector
from tsgen.ops.attention import dense_rows

SUMS = 16384  # of a program in 16 bits
OPTIONS = {"num_warps": 8, "enable_fp_fusion": True}


@triton.jit(do_not_specialize=["R"])
def linear_norm_kernel(
    x,  # (R, E), this stride
    weight,  # (D, E), likewise
    gain,  # (D,)
    shift,  # (D,)
    bias,  # (D,)
    residual,  # (S, D), this stride
    rows,  # (R,) int64
    out,  # (R, D)
    R,
    x_stride_r,
    weight_stride_d,
    residual_stride_s,
    eps,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    TAKEN: tl.constexpr,
    GELU: tl.constexpr,
    E: tl.constexpr,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    DIMS: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    d, there = tl.arange(0, DIMS), r < R
    x_at, weight_at = x + r * x_stride_r, weight + d * weight_stride_d
    y = tl.zeros([ROWS, DIMS], tl.float32)
    for e0 in range(0, E, BLOCK_E):
        e = e0 + tl.arange(0, BLOCK_E)
        inside = (d[None, :] < D) & (e[:, None] < E)
        w = tl.load(weight_at[None, :] + e[:, None], mask=inside, other=0.0)
        y = tl.dot(matrix(x_at, there, e, E), w, y, input_precision="ieee")
    if BIAS:
        y += vector(bias, d, D)[None, :]
    if GELU:
        y = gelu(y)
    y = centred(y, tl.sum(y, axis=1) / D, d, D)  # it is 0 behind the last column
    rstd = tl.rsqrt(tl.sum(y * y, axis=1) / D + eps)
    y = scaled(y, rstd, gain, shift, d, D)
    if RESIDUAL:
        s = tl.load(rows + r, mask=there, other=0) if TAKEN else r
        y += matrix(residual + s * residual_stride_s, there, d, D).to(tl.float32)
    at = out + r[:, None] * D + d[None, :]
    tl.store(at, y.to(out.dtype.element_ty), mask=there[:, None] & (d[None, :] < D))


def tile(D: int, itemsize: int) -> dict[str, int]:
    """Rows and columns of a tile, and how much of E is multiplied at once."""
    dims = power_of_2(D)
    if itemsize == 4:  # products without tensor cores need registers
        return {"ROWS": 32 if dims <= 128 else 16, "DIMS": dims, "BLOCK_E": 16}
    # up to 32 kB of the weight at a time
    block = max(16, min(64, 16384 // dims))
    return {"ROWS": max(16, min(128, SUMS // dims)), "DIMS": dims, "BLOCK_E": block}


def linear_norm(
    x_RE: Tensor,
    weight_DE: Tensor,
    gain_D: Tensor,
    shift_D: Tensor,
    bias_D: Tensor | None,
    residual_SD: Tensor | None,
    rows_R: Tensor | None,
    gelu: bool,
    eps: float,
) -> Tensor:
    x_RE, weight_DE = dense_rows(x_RE), dense_rows(weight_DE)
    residual_SD = None if residual_SD is None else dense_rows(residual_SD)
    R, (D, E) = len(x_RE), weight_DE.shape
    out_RD = x_RE.new_empty(R, D)
    if R:  # an empty grid is an error
        size = tile(D, x_RE.itemsize)
        given = (bias_D is not None, residual_SD is not None, rows_R is not None)
        step = 0 if residual_SD is None else residual_SD.stride(0)
        linear_norm_kernel[(triton.cdiv(R, size["ROWS"]),)](
            *(x_RE, weight_DE, gain_D.contiguous(), shift_D.contiguous()),
            None if bias_D is None else bias_D.contiguous(),
            residual_SD,
            None if rows_R is None else rows_R.contiguous(),
            *(out_RD, R, x_RE.stride(0), weight_DE.stride(0), step, eps),
            **constants(*given, gelu, E, D),
            **size,
            **OPTIONS,
        )
    return out_RD


def constants(
    bias: bool, residual: bool, taken: bool, gelu: bool, E: int, D: int
) -> dict[str, int]:
    how = {"BIAS": bias, "RESIDUAL": residual, "TAKEN": taken, "GELU": gelu}
    return how | {"E": E, "D": D}


# Read by tests/test_triton_compile.py: kernel, argument types ({} is x's), constants, and the only
# dtype of x.
TYPES = {"x": "*{}", "weight": "*{}", "gain": "*fp32", "shift": "*fp32", "bias": "*fp32"}
TYPES |= {"residual": "*{}", "rows": "*i64", "out": "*{}", "R": "i32"}
TYPES |= dict.fromkeys(("x_stride_r", "weight_stride_d", "residual_stride_s"), "i32")
TYPES |= {"eps": "fp32"}
SHIPPED = [
    (linear_norm_kernel, TYPES, constants(*how, E, D) | tile(D, itemsize), dtype)
    for dtype, itemsize, E, D, how in (
        ("fp32", 4, 128, 128, (True, True, True, True)),
        ("bf16", 2, 128, 128, (False, True, False, False)),
        ("bf16", 2, 128, 128, (False, True, True, False)),
        ("bf16", 2, 128, 128, (True, False, False, True)),
        ("bf16", 2, 256, 512, (True, False, False, True)),
        ("bf16", 2, 256, 1024, (False, True, False, False)),
    )
]
