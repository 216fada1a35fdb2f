"""Layer normalisation and linear map, Triton: a tile of rows against columns of the result.

The rows stay where they are, normalised, and the weight passes by. Where rows are few, their
columns are shared out among programs, which changes no bit of them.
"""

import triton
import triton.language as tl
from torch import Tensor

from tsgen.kernels._rows import power_of_2, product, rows_of, vector
from tsgen.ops.attention import dense_rows

PROGRAMS = 256  # that there are at least, if there is a tile for each: they fill a GPU
OPTIONS = {"num_warps": 8, "enable_fp_fusion": True}


@triton.jit(do_not_specialize=["M", "blocks"])
def norm_linear_kernel(
    x,  # (R, D), this stride
    weight,  # (E, D), likewise
    gain,  # (D,)
    shift,  # (D,)
    bias,  # (E,)
    rows,  # (M,) int64
    out,  # (M, E)
    M,
    blocks,  # of BLOCK_E columns, of a program
    x_stride_r,
    weight_stride_e,
    eps,
    NORM: tl.constexpr,
    BIAS: tl.constexpr,
    TAKEN: tl.constexpr,
    D: tl.constexpr,
    E: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    shares = tl.cdiv(E, blocks * BLOCK_E)
    m = (tl.program_id(0) // shares).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = m < M
    r = tl.load(rows + m, mask=there, other=0) if TAKEN else m
    x_rows = rows_of(x + r * x_stride_r, there, gain, shift, eps, NORM, D, BLOCK_D)
    first = tl.program_id(0) % shares * blocks
    for block in range(first, tl.minimum(first + blocks, tl.cdiv(E, BLOCK_E))):
        e = block * BLOCK_E + tl.arange(0, BLOCK_E)
        weight_at = weight + e.to(tl.int64) * weight_stride_e
        y = product(x_rows, weight_at, e < E, NORM, D, BLOCK_D)  # [ROWS, BLOCK_E]
        if BIAS:
            y += vector(bias, e, E)[None, :]
        at = out + m[:, None] * E + e[None, :]
        tl.store(at, y.to(out.dtype.element_ty), mask=there[:, None] & (e[None, :] < E))


def tile(D: int, itemsize: int) -> dict[str, int]:
    """Rows and columns of a tile, and how much of D is multiplied at once."""
    dims = power_of_2(D)
    if itemsize == 4:  # products without tensor cores need registers
        return {"ROWS": 32, "BLOCK_E": 64, "BLOCK_D": 16}
    if dims > 512:
        return {"ROWS": 64, "BLOCK_E": 64, "BLOCK_D": 64}
    # whole rows, up to 64 kB of them, and up to 32 kB of the weight at a time
    return {"ROWS": min(128, 32768 // dims), "BLOCK_E": min(64, 16384 // dims), "BLOCK_D": dims}


def norm_linear(
    x_RD: Tensor,
    weight_ED: Tensor,
    gain_D: Tensor | None,
    shift_D: Tensor | None,
    bias_E: Tensor | None,
    rows_M: Tensor | None,
    eps: float,
) -> Tensor:
    x_RD, weight_ED = dense_rows(x_RD), dense_rows(weight_ED)
    M, (E, D) = len(x_RD if rows_M is None else rows_M), weight_ED.shape
    out_ME = x_RD.new_empty(M, E)
    if out_ME.numel():  # an empty grid is an error
        size = tile(D, x_RD.itemsize)
        n_tiles, n_blocks = triton.cdiv(M, size["ROWS"]), triton.cdiv(E, size["BLOCK_E"])
        shares = min(n_blocks, triton.cdiv(PROGRAMS, n_tiles))
        blocks = triton.cdiv(n_blocks, shares)
        vectors = (gain_D, shift_D, bias_E, rows_M)
        norm_linear_kernel[(n_tiles * triton.cdiv(n_blocks, blocks),)](
            *(x_RD, weight_ED, *(None if t is None else t.contiguous() for t in vectors), out_ME),
            *(M, blocks, x_RD.stride(0), weight_ED.stride(0), eps),
            **constants(D, E, gain_D is not None, bias_E is not None, rows_M is not None),
            **size,
            **OPTIONS,
        )
    return out_ME


def constants(D: int, E: int, norm: bool, bias: bool, taken: bool) -> dict[str, int]:
    return {"NORM": norm, "BIAS": bias, "TAKEN": taken, "D": D, "E": E}


# Read by tests/test_triton_compile.py: kernel, argument types ({} is x's), constants, and the only
# dtype of x.
TYPES = {"x": "*{}", "weight": "*{}", "gain": "*fp32", "shift": "*fp32", "bias": "*fp32"}
TYPES |= {"rows": "*i64", "out": "*{}"}
TYPES |= dict.fromkeys(("M", "blocks", "x_stride_r", "weight_stride_e"), "i32") | {"eps": "fp32"}
SHIPPED = [
    (norm_linear_kernel, TYPES, constants(D, E, *how) | tile(D, itemsize), dtype)
    for dtype, itemsize, D, E, how in (
        ("fp32", 4, 128, 384, (True, True, True)),
        ("bf16", 2, 128, 384, (True, False, False)),
        ("bf16", 2, 128, 128, (True, True, True)),
        ("bf16", 2, 128, 128, (False, True, False)),
        ("bf16", 2, 512, 1536, (True, False, False)),
        ("bf16", 2, 1024, 3072, (True, False, False)),
    )
]
