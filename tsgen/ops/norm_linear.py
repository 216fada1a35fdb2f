"""Layer normalisation and the linear map after it, of all rows or of some.

    y = LN(x[rows]) Wᵀ + b        LN(x) = gain (x - mean) / sqrt(var + eps) + shift

Ba et al. 2016, eq. 4, or x itself where there is no gain. R rows, M of them wanted, D width,
E width of the result.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from tsgen import dispatch
from tsgen.errors import bad_value
from tsgen.ops.stft import relative_error


def norm_linear(
    x_RD: Tensor,
    weight_ED: Tensor,
    gain_D: Tensor | None = None,
    shift_D: Tensor | None = None,
    bias_E: Tensor | None = None,
    rows_M: Tensor | None = None,
    *,
    eps: float = 1e-5,
    backend: str | None = None,
) -> Tensor:
    """What a block's attention starts with, in one pass. Not differentiable.

    x_RD:       (R, D) float, D at least 1
    weight_ED:  (E, D) same dtype
    gain_D:     (D,) any float and shift_D (D,), both or neither: the normalisation
    bias_E:     (E,) any float, or None
    rows_M:     (M,) int64 in [0, R): the rows of x that are wanted; None for all
    eps:        added to the variance
    returns:    (M, E), as x. A kernel gives a row the same bits whatever other rows there are
    raises:     ArgumentError for shapes or dtypes that do not fit
    """
    args = (x_RD, weight_ED, gain_D, shift_D, bias_E, rows_M, float(eps))
    check(*args)
    return cast(Tensor, dispatch.call("norm_linear", baseline, *args, backend=backend, like=x_RD))


def _fake(
    x_RD: Tensor,
    weight_ED: Tensor,
    gain_D: Tensor | None,
    shift_D: Tensor | None,
    bias_E: Tensor | None,
    rows_M: Tensor | None,
    eps: float,
    backend: str | None = None,
) -> Tensor:
    return x_RD.new_empty((x_RD if rows_M is None else rows_M).shape[0], weight_ED.shape[0])


dispatch.register(
    "norm_linear(Tensor x, Tensor weight, Tensor? gain, Tensor? shift, Tensor? bias,"
    " Tensor? rows, float eps, *, str? backend=None) -> Tensor",
    fake=_fake,
)


def check(
    x_RD: Tensor,
    weight_ED: Tensor,
    gain_D: Tensor | None,
    shift_D: Tensor | None,
    bias_E: Tensor | None,
    rows_M: Tensor | None,
    eps: float,
) -> None:
    """Everything a backend may rely on."""
    check_matrix("weight", weight_ED, x_RD, weight_ED.shape[0] if weight_ED.dim() else 0)
    if (gain_D is None) != (shift_D is None):
        raise bad_value("gain, shift", "both or neither", "one of them")
    check_vectors(x_RD.shape[1], gain=gain_D, shift=shift_D)
    check_vectors(len(weight_ED), bias=bias_E)
    check_rows(rows_M)
    check_eps(eps)


def check_matrix(name: str, weight: Tensor, x: Tensor, n_out: int) -> None:
    """That a weight (n_out, n_in) fits rows x (R, n_in)."""
    if x.dim() != 2 or x.shape[1] < 1:
        raise bad_value("x", "two dims, the last at least 1", tuple(x.shape))
    if weight.shape != (n_out, x.shape[1]):
        raise bad_value(name, f"({n_out}, {x.shape[1]})", tuple(weight.shape))
    if weight.dtype != x.dtype:
        raise bad_value(name, f"x's {x.dtype}", weight.dtype)


def check_vectors(n: int, **vectors: Tensor | None) -> None:
    """That those given are n numbers of any float."""
    for name, t in vectors.items():
        if t is not None and (t.shape != (n,) or not t.is_floating_point()):
            raise bad_value(name, f"({n},) of floats", f"{tuple(t.shape)} {t.dtype}")


def check_rows(rows: Tensor | None) -> None:
    if rows is not None and (rows.dim() != 1 or rows.dtype != torch.int64):
        raise bad_value("rows", "one dim of torch.int64", f"{tuple(rows.shape)} {rows.dtype}")


def check_eps(eps: float) -> None:
    if not 0 < eps < float("inf"):
        raise bad_value("eps", "a finite number above 0", eps)


def reference(
    x_RD: Tensor,
    weight_ED: Tensor,
    gain_D: Tensor | None,
    shift_D: Tensor | None,
    bias_E: Tensor | None,
    rows_M: Tensor | None,
    eps: float,
) -> Tensor:
    """The definition, for tests. Never optimise this."""
    x_MD = x_RD if rows_M is None else x_RD[rows_M]
    if gain_D is not None and shift_D is not None:
        x_MD = normalised(x_MD, gain_D, shift_D, eps)
    y_ME = x_MD @ weight_ED.T
    return y_ME if bias_E is None else y_ME + bias_E


def normalised(x_RD: Tensor, gain_D: Tensor, shift_D: Tensor, eps: float) -> Tensor:
    """LN as the equation has it, for references."""
    centred_RD = x_RD - x_RD.mean(1, keepdim=True)
    var_R1 = centred_RD.square().mean(1, keepdim=True)
    return gain_D * centred_RD / (var_R1 + eps).sqrt() + shift_D


@torch.no_grad()
def baseline(
    x_RD: Tensor,
    weight_ED: Tensor,
    gain_D: Tensor | None,
    shift_D: Tensor | None,
    bias_E: Tensor | None,
    rows_M: Tensor | None,
    eps: float,
) -> Tensor:
    """One pass for each of the three."""
    x_MD = x_RD if rows_M is None else x_RD.index_select(0, rows_M)
    if gain_D is not None and shift_D is not None:
        x_MD = layer_norm(x_MD, gain_D, shift_D, eps)
    return F.linear(x_MD, weight_ED, None if bias_E is None else bias_E.to(x_RD.dtype))


def layer_norm(x_RD: Tensor, gain_D: Tensor, shift_D: Tensor, eps: float) -> Tensor:
    """PyTorch's, for baselines: it keeps float32 statistics and wants one dtype on a GPU."""
    gain_D, shift_D = gain_D.to(x_RD.dtype), shift_D.to(x_RD.dtype)
    return F.layer_norm(x_RD, gain_D.shape, gain_D, shift_D, eps)


# Read by tests/test_ops.py and benchmarks/bench_ops.py.

TEST_SHAPES = [  # (R, D, E, M or None for all rows, with norm, with bias)
    (0, 7, 5, None, True, False),
    (1, 1, 1, None, True, True),
    (17, 7, 33, None, True, False),
    (5, 33, 96, 12, True, True),
    (70, 32, 65, None, False, True),
    (17, 300, 7, 0, True, False),
    (70, 128, 130, 41, True, False),
]
GPU_SHAPES = [(6_500_000, 128, 384, None, True, False), (16640, 128, 384, None, True, False)]
BENCH_SHAPES = [
    (16640, 128, 384, None, True, False),
    (16640, 128, 128, 8192, True, False),
    (4160, 256, 768, None, True, False),
]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}
DIFFERENTIABLE = ()

Shape = tuple[int, int, int, int | None, bool, bool]
Inputs = tuple[
    Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None, float
]  # fmt: skip


def make_inputs(shape: Shape, device: str, dtype: torch.dtype, seed: int = 0) -> Inputs:
    R, D, E, M, norm, bias = shape
    rng = torch.Generator().manual_seed(seed)
    x_RD = (2 * torch.randn(R, D, generator=rng) + 0.5).to(device, dtype)
    weight_ED = (torch.randn(E, D, generator=rng) * D**-0.5).to(device, dtype)
    gain_D, shift_D = gain_and_shift(D, device, dtype, rng) if norm else (None, None)
    bias_E = gain_and_shift(E, device, dtype, rng)[1] if bias else None
    rows_M = None if M is None else torch.randint(R, (M,), generator=rng).to(device)
    return x_RD, weight_ED, gain_D, shift_D, bias_E, rows_M, 1e-5


def gain_and_shift(
    D: int, device: str, dtype: torch.dtype, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Beside 16 bits they are float32, as a model keeps them."""
    dtype = dtype if dtype == torch.float64 else torch.float32
    gain_D, shift_D = torch.randn(2, D, generator=rng) * 0.3
    return (1 + gain_D).to(device, dtype), shift_D.to(device, dtype)


def error(out: Tensor, ref: Tensor, *inputs: object) -> float:
    """Largest difference, relative to the largest value."""
    return relative_error(out, ref)


def bytes_moved(shape: Shape, dtype: torch.dtype) -> int:
    """The least traffic possible: read the rows wanted and the weight once, write y once."""
    R, D, E, M, *_ = shape
    n_rows = R if M is None else M
    return (n_rows * (D + E) + E * D) * dtype.itemsize


def flops(shape: Shape) -> int:
    """Multiplications and additions of the product."""
    R, D, E, M, *_ = shape
    return 2 * (R if M is None else M) * D * E
