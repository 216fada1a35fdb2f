"""A block's feed-forward part: norm, linear, GELU, norm, linear, and the rows themselves.

    y = x + W_down LN_mid(gelu(W_up LN_in(x)))        LN as in norm_linear

Shleifer et al. 2021 (NormFormer), figure 1; GELU: Hendrycks & Gimpel 2016. R rows, D width,
F features.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from tsgen import dispatch
from tsgen.errors import bad_value
from tsgen.ops.linear_norm import WIDEST
from tsgen.ops.norm_linear import (
    check_eps,
    check_matrix,
    check_vectors,
    gain_and_shift,
    layer_norm,
    normalised,
)
from tsgen.ops.stft import relative_error


def feed_forward(
    x_RD: Tensor,
    gain_D: Tensor,
    shift_D: Tensor,
    up_FD: Tensor,
    mid_gain_F: Tensor,
    mid_shift_F: Tensor,
    down_DF: Tensor,
    *,
    eps: float = 1e-5,
    backend: str | None = None,
) -> Tensor:
    """The whole of it in one pass over x. Not differentiable.

    x_RD:        (R, D) float, D from 1 to 1024
    gain_D:      (D,) any float and shift_D (D,): the first normalisation
    up_FD:       (F, D) same dtype as x, F at least 1
    mid_gain_F:  (F,) any float and mid_shift_F (F,): the second normalisation
    down_DF:     (D, F) same dtype as x; fast in 16 bits where rows are padded to multiples of 16
    eps:         added to both variances
    returns:     (R, D), as x. A kernel gives a row the same bits whatever other rows there are
    raises:      ArgumentError for shapes or dtypes that do not fit
    """
    args = (x_RD, gain_D, shift_D, up_FD, mid_gain_F, mid_shift_F, down_DF, float(eps))
    check(*args)
    return cast(Tensor, dispatch.call("feed_forward", baseline, *args, backend=backend, like=x_RD))


def _fake(x_RD: Tensor, *args: object, backend: str | None = None) -> Tensor:
    return x_RD.new_empty(x_RD.shape)


dispatch.register(
    "feed_forward(Tensor x, Tensor gain, Tensor shift, Tensor up, Tensor mid_gain,"
    " Tensor mid_shift, Tensor down, float eps, *, str? backend=None) -> Tensor",
    fake=_fake,
)


def check(
    x_RD: Tensor,
    gain_D: Tensor,
    shift_D: Tensor,
    up_FD: Tensor,
    mid_gain_F: Tensor,
    mid_shift_F: Tensor,
    down_DF: Tensor,
    eps: float,
) -> None:
    """Everything a backend may rely on."""
    n_features = up_FD.shape[0] if up_FD.dim() else 0
    check_matrix("up", up_FD, x_RD, n_features)
    D = x_RD.shape[1]
    if D > WIDEST or not n_features:
        wanted = f"at least one row, of 1 to {WIDEST} numbers"
        raise bad_value("up", wanted, tuple(up_FD.shape))
    if down_DF.shape != (D, n_features) or down_DF.dtype != x_RD.dtype:
        got = f"{tuple(down_DF.shape)} {down_DF.dtype}"
        raise bad_value("down", f"({D}, {n_features}) {x_RD.dtype}", got)
    check_vectors(D, gain=gain_D, shift=shift_D)
    check_vectors(n_features, mid_gain=mid_gain_F, mid_shift=mid_shift_F)
    check_eps(eps)


def reference(
    x_RD: Tensor,
    gain_D: Tensor,
    shift_D: Tensor,
    up_FD: Tensor,
    mid_gain_F: Tensor,
    mid_shift_F: Tensor,
    down_DF: Tensor,
    eps: float,
) -> Tensor:
    """The definition, for tests. Never optimise this."""
    h_RF = normalised(x_RD, gain_D, shift_D, eps) @ up_FD.T
    u_RF = h_RF * (1 + (h_RF / 2**0.5).erf()) / 2
    return x_RD + normalised(u_RF, mid_gain_F, mid_shift_F, eps) @ down_DF.T


@torch.no_grad()
def baseline(
    x_RD: Tensor,
    gain_D: Tensor,
    shift_D: Tensor,
    up_FD: Tensor,
    mid_gain_F: Tensor,
    mid_shift_F: Tensor,
    down_DF: Tensor,
    eps: float,
) -> Tensor:
    """One pass for each part, but the sum, which goes with the last product."""
    u_RF = F.gelu(F.linear(layer_norm(x_RD, gain_D, shift_D, eps), up_FD))
    return torch.addmm(x_RD, layer_norm(u_RF, mid_gain_F, mid_shift_F, eps), down_DF.T)


# Read by tests/test_ops.py and benchmarks/bench_ops.py.

TEST_SHAPES = [  # (R, D, F)
    (0, 7, 5),
    (1, 1, 1),
    (17, 7, 4),
    (5, 33, 70),
    (70, 32, 21),
    (17, 128, 85),
]
GPU_SHAPES = [(6_500_000, 128, 85), (16640, 128, 85), (66560, 256, 682)]
BENCH_SHAPES = [(16640, 128, 85), (16640, 128, 341), (4160, 256, 682)]
# in 16 bits, activations are rounded between all parts
TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}
DIFFERENTIABLE = ()

Shape = tuple[int, int, int]
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, float]


def make_inputs(shape: Shape, device: str, dtype: torch.dtype, seed: int = 0) -> Inputs:
    R, D, n_features = shape
    rng = torch.Generator().manual_seed(seed)
    x_RD = (torch.randn(R, D, generator=rng) + 0.5).to(device, dtype)
    gain_D, shift_D = gain_and_shift(D, device, dtype, rng)
    up_FD = (2 * torch.randn(n_features, D, generator=rng) * D**-0.5).to(device, dtype)
    gain_F, shift_F = gain_and_shift(n_features, device, dtype, rng)
    down_DF = (torch.randn(D, n_features, generator=rng) * n_features**-0.5).to(device, dtype)
    return x_RD, gain_D, shift_D, up_FD, gain_F, shift_F, down_DF, 1e-5


def error(out: Tensor, ref: Tensor, *inputs: object) -> float:
    """Largest difference, relative to the largest value."""
    return relative_error(out, ref)


def bytes_moved(shape: Shape, dtype: torch.dtype) -> int:
    """The least traffic possible: read x and both weights once, write y once."""
    R, D, n_features = shape
    return (2 * R * D + 2 * D * n_features) * dtype.itemsize


def flops(shape: Shape) -> int:
    """Multiplications and additions of both products."""
    R, D, n_features = shape
    return 4 * R * D * n_features
