"""What both directions of attention share: tiles of rows that may be packed, loads, arguments.

A tile of one sequence has two dims, rows and columns. Tiles of several packed sequences have three,
the sequence first, and so have products of them: nothing of one sequence meets another.
"""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from tsgen.ops.attention import EPS

PACKED = 4  # short sequences of a program: one a warp


@triton.jit
def down(n: tl.constexpr, PAIRS: tl.constexpr):
    """0, 1, ... n - 1 along the rows of a tile: [n, 1], or [1, n, 1] of packed sequences."""
    i = tl.arange(0, n)
    return i[:, None] if PAIRS == 1 else i[None, :, None]


@triton.jit
def across(n: tl.constexpr, PAIRS: tl.constexpr):
    """The same along its columns."""
    i = tl.arange(0, n)
    return i[None, :] if PAIRS == 1 else i[None, None, :]


@triton.jit
def place(n_tiles, H, PAIRS: tl.constexpr):
    """Sequences, head and tile of this program."""
    program = tl.program_id(0).to(tl.int64)
    b = program // n_tiles // H * PAIRS
    if PAIRS > 1:
        b += tl.arange(0, PAIRS)[:, None, None]
    return b, program // n_tiles % H, program % n_tiles


@triton.jit
def there(mask, b, B, PAIRS: tl.constexpr):
    """mask, but for sequences behind the last one."""
    return mask if PAIRS == 1 else mask & (b < B)


@triton.jit
def keys_in_use(lengths, b, B, N, PAIRS: tl.constexpr, LENGTHS: tl.constexpr):
    if LENGTHS:
        N = tl.load(lengths + b, mask=None if PAIRS == 1 else b < B)
    return N


@triton.jit
def load_rows(at, mask, d, D: tl.constexpr, DIM: tl.constexpr):
    return tl.load(at, mask=mask if D == DIM else mask & (d < D), other=0.0)


@triton.jit
def normalised(x, scale, d, D: tl.constexpr, NORM: tl.constexpr, SMALLEST: tl.constexpr):
    """scale * x/|x| in x's dtype, if that is wanted."""
    y = x
    if NORM:
        y = x.to(tl.float32)
        y *= tl.rsqrt(tl.maximum(tl.sum(y * y, axis=-1, keep_dims=True), SMALLEST))
        y *= tl.load(scale + d, mask=d < D, other=0.0).to(tl.float32)
    return y.to(x.dtype)


@triton.jit
def load_keys(
    at, stride, null_at, j, N, mask, d, D: tl.constexpr, DIM: tl.constexpr, NULL: tl.constexpr
):
    """Rows j of the keys, or of the values; row N is the null one."""
    x = load_rows(at + j * stride, mask, d, D, DIM)
    if NULL:
        x += load_rows(null_at + d, j == N, d, D, DIM).to(x.dtype)  # one of the two is 0
    return x


def strides(*tensors: Tensor) -> list[int]:
    return [step for t in tensors for step in t.stride()[:3]]


def dense(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if t is None else t.contiguous() for t in tensors]


def constants(
    D: int, null_kv: Tensor | None, q_scale: Tensor | None, lengths: Tensor | None
) -> dict[str, Any]:
    """Which of the optional arguments there are, and the dims of a head."""
    return wanted(D, null_kv is not None, q_scale is not None, lengths is not None)


def wanted(D: int, null: bool, norm: bool, lengths: bool) -> dict[str, Any]:
    size = {"D": D, "DIM": triton.next_power_of_2(max(D, 16)), "SMALLEST": EPS**2}
    return size | {"NULL": null, "NORM": norm, "LENGTHS": lengths}


def block(n: int, most: int) -> int:
    """Rows of a tile that n rows are cut into, as tl.dot takes them."""
    return min(most, triton.next_power_of_2(max(n, 16)))


# For tests/test_triton_compile.py: types of arguments ({} is q's).
INPUTS = dict.fromkeys(("q", "k", "v"), "*{}") | {"null_kv": "*fp32", "q_scale": "*fp32"}
INPUTS |= {"k_scale": "*fp32", "lengths": "*i64"}
STRIDES = [
    f"{t}_stride_{dim}" for t, dims in (("q", "bhm"), ("k", "bhn"), ("v", "bhn")) for dim in dims
]


def integers(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "i32")


def floats(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "*fp32")
