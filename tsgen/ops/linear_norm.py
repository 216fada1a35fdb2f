"""Linear map, activation, layer normalisation and residual in one.

    y = residual[rows] + LN(act(x Wᵀ + b))        LN as in norm_linear, act GELU or nothing

Ba et al. 2016, eq. 4; GELU: Hendrycks & Gimpel 2016. R rows, E width of x, D of the result,
S rows of the residual.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from tsgen import dispatch
from tsgen.errors import bad_value
from tsgen.ops.norm_linear import (
    check_eps,
    check_matrix,
    check_rows,
    check_vectors,
    gain_and_shift,
    layer_norm,
    normalised,
)
from tsgen.ops.stft import relative_error

WIDEST = 1024  # D: a kernel holds whole rows of the result


def linear_norm(
    x_RE: Tensor,
    weight_DE: Tensor,
    gain_D: Tensor,
    shift_D: Tensor,
    bias_D: Tensor | None = None,
    residual_SD: Tensor | None = None,
    rows_R: Tensor | None = None,
    *,
    gelu: bool = False,
    eps: float = 1e-5,
    backend: str | None = None,
) -> Tensor:
    """What a block's attention ends with, and the head's first layer. Not differentiable.

    x_RE:         (R, E) float, E at least 1
    weight_DE:    (D, E) same dtype, D from 1 to 1024
    gain_D:       (D,) any float and shift_D (D,): the normalisation
    bias_D:       (D,) any float, or None
    residual_SD:  (S, D) same dtype as x, or None
    rows_R:       (R,) int64 in [0, S): the residual's row of each row; None where S is R
    gelu:         apply the exact GELU before the normalisation
    eps:          added to the variance
    returns:      (R, D), as x. A kernel gives a row the same bits whatever other rows there are
    raises:       ArgumentError for shapes or dtypes that do not fit
    """
    args = (x_RE, weight_DE, gain_D, shift_D, bias_D, residual_SD, rows_R, gelu, float(eps))
    check(*args)
    return cast(Tensor, dispatch.call("linear_norm", baseline, *args, backend=backend, like=x_RE))


def _fake(x_RE: Tensor, weight_DE: Tensor, *args: object, backend: str | None = None) -> Tensor:
    return x_RE.new_empty(x_RE.shape[0], weight_DE.shape[0])


dispatch.register(
    "linear_norm(Tensor x, Tensor weight, Tensor gain, Tensor shift, Tensor? bias,"
    " Tensor? residual, Tensor? rows, bool gelu, float eps, *, str? backend=None) -> Tensor",
    fake=_fake,
)


def check(
    x_RE: Tensor,
    weight_DE: Tensor,
    gain_D: Tensor,
    shift_D: Tensor,
    bias_D: Tensor | None,
    residual_SD: Tensor | None,
    rows_R: Tensor | None,
    gelu: bool,
    eps: float,
) -> None:
    """Everything a backend may rely on."""
    D = weight_DE.shape[0] if weight_DE.dim() else 0
    check_matrix("weight", weight_DE, x_RE, D)
    if not 1 <= D <= WIDEST:
        raise bad_value("weight", f"1 to {WIDEST} rows", D)
    check_vectors(D, gain=gain_D, shift=shift_D, bias=bias_D)
    check_rows(rows_R)
    check_eps(eps)
    R = x_RE.shape[0]
    if rows_R is not None and (residual_SD is None or rows_R.shape != (R,)):
        raise bad_value("rows", f"({R},), beside a residual", tuple(rows_R.shape))
    if residual_SD is None:
        return
    S = R if rows_R is None else residual_SD.shape[0] if residual_SD.dim() else 0
    if residual_SD.shape != (S, D) or residual_SD.dtype != x_RE.dtype:
        got = f"{tuple(residual_SD.shape)} {residual_SD.dtype}"
        raise bad_value("residual", f"({S}, {D}) {x_RE.dtype}", got)


def reference(
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
    """The definition, for tests. Never optimise this."""
    h_RD = x_RE @ weight_DE.T
    if bias_D is not None:
        h_RD = h_RD + bias_D
    if gelu:
        h_RD = h_RD * (1 + (h_RD / 2**0.5).erf()) / 2
    y_RD = normalised(h_RD, gain_D, shift_D, eps)
    if residual_SD is None:
        return y_RD
    return y_RD + (residual_SD if rows_R is None else residual_SD[rows_R])


@torch.no_grad()
def baseline(
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
    """One pass for each part."""
    h_RD = F.linear(x_RE, weight_DE, None if bias_D is None else bias_D.to(x_RE.dtype))
    y_RD = layer_norm(F.gelu(h_RD) if gelu else h_RD, gain_D, shift_D, eps)
    if residual_SD is None:
        return y_RD
    return y_RD.add_(residual_SD if rows_R is None else residual_SD.index_select(0, rows_R))


# Read by tests/test_ops.py and benchmarks/bench_ops.py.

TEST_SHAPES = [  # (R, E, D, residual: "none", "same" rows or "taken" ones, with bias and GELU)
    (0, 7, 5, "same", False),
    (1, 1, 1, "taken", True),
    (17, 33, 7, "same", False),
    (70, 32, 33, "taken", False),
    (5, 128, 32, "none", True),
    (17, 7, 128, "taken", True),
    (5, 32, 130, "same", False),
]
GPU_SHAPES = [(6_500_000, 128, 128, "same", False), (16640, 128, 128, "same", False)]
BENCH_SHAPES = [
    (16640, 128, 128, "same", False),
    (8192, 128, 128, "taken", False),
    (8192, 128, 128, "none", True),
    (4160, 256, 256, "same", False),
]
# in 16 bits the baseline rounds what it normalises
TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}
DIFFERENTIABLE = ()

Shape = tuple[int, int, int, str, bool]
Inputs = tuple[
    Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None, bool, float
]  # fmt: skip


def make_inputs(shape: Shape, device: str, dtype: torch.dtype, seed: int = 0) -> Inputs:
    R, E, D, residual, head = shape
    rng = torch.Generator().manual_seed(seed)
    x_RE = torch.randn(R, E, generator=rng).to(device, dtype)
    weight_DE = (2 * torch.randn(D, E, generator=rng) * E**-0.5).to(device, dtype)
    gain_D, shift_D = gain_and_shift(D, device, dtype, rng)
    bias_D = gain_and_shift(D, device, dtype, rng)[1] if head else None
    args = (x_RE, weight_DE, gain_D, shift_D, bias_D)
    if residual == "none":
        return *args, None, None, head, 1e-12
    S = R if residual == "same" else R // 2 + 3
    residual_SD = torch.randn(S, D, generator=rng).to(device, dtype)
    rows_R = torch.randint(S, (R,), generator=rng).to(device) if residual == "taken" else None
    return *args, residual_SD, rows_R, head, 1e-5


def error(out: Tensor, ref: Tensor, *inputs: object) -> float:
    """Largest difference, relative to the largest value."""
    return relative_error(out, ref)


def bytes_moved(shape: Shape, dtype: torch.dtype) -> int:
    """The least traffic possible: read x, the weight and the residual once, write y once."""
    R, E, D, residual, _ = shape
    return (R * (E + D * (1 if residual == "none" else 2)) + D * E) * dtype.itemsize


def flops(shape: Shape) -> int:
    """Multiplications and additions of the product."""
    R, E, D, *_ = shape
    return 2 * R * E * D
