"""The end of a convolution of repeated tokens: sums of products that are known, and GELU.

    y[b, n] = bias + sum_t products[b, source[n + t - T // 2], t]     h = y Φ(y)
    mean, var = statistics of h for a batch normalisation

products[b, m, t] is token m times tap t; a token that stands at many places is multiplied once.
Places outside 0 ... N - 1 are zeros. GELU: Hendrycks & Gimpel 2016.
B batch, M tokens, T taps, F features, N places.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tsgen import dispatch
from tsgen.errors import bad_value
from tsgen.ops.stft import compute_dtype, relative_error


class Summed(NamedTuple):
    """What `sum_taps` gives."""

    h_BNF: Tensor  # as products
    mean_F: Tensor  # float32 or float64, over batch and places
    var_F: Tensor  # the same, of the biased variance


def sum_taps(
    products_BMTF: Tensor, source_N: Tensor, bias_F: Tensor, *, backend: str | None = None
) -> Summed:
    """Add up what every place sees, activate, and take the statistics.

    products_BMTF:  (B, M, T, F) float, B at least 1
    source_N:       (N,) int64 in [0, M), N at least 1: the token that stands at each place
    bias_F:         (F,) float
    returns:        Summed. Differentiable in products and bias, through the statistics too
    raises:         ArgumentError for shapes that do not fit; on the CPU for wrong sources too
    """
    args = (products_BMTF, source_N, bias_F)
    check(*args)
    how: dict[str, Any] = {"backend": backend, "like": products_BMTF, "gradient": Gradient}
    return Summed(*dispatch.call("sum_taps", baseline, *args, **how))


def _fake(
    products_BMTF: Tensor, source_N: Tensor, bias_F: Tensor, backend: str | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    B, _, _, n_features = products_BMTF.shape
    mean_F = products_BMTF.new_empty(n_features, dtype=compute_dtype(products_BMTF))
    h_BNF = products_BMTF.new_empty(B, len(source_N), n_features)
    return h_BNF, mean_F, torch.empty_like(mean_F)


def _fake_backward(
    grad: Tensor,
    grad_mean_F: Tensor,
    grad_var_F: Tensor,
    mean_F: Tensor,
    products_BMTF: Tensor,
    source_N: Tensor,
    bias_F: Tensor,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    return products_BMTF.new_empty(products_BMTF.shape), bias_F.new_empty(bias_F.shape)


dispatch.register(
    "sum_taps(Tensor products, Tensor source, Tensor bias, *, str? backend=None)"
    " -> (Tensor, Tensor, Tensor)",
    fake=_fake,
)
dispatch.register(
    "sum_taps_backward(Tensor grad, Tensor grad_mean, Tensor grad_var, Tensor mean,"
    " Tensor products, Tensor source, Tensor bias, *, str? backend=None) -> (Tensor, Tensor)",
    fake=_fake_backward,
)


class Gradient(torch.autograd.Function):
    """dh gets (dmean + 2 (h - mean) dvar) / BN; dy = dh (Φ(y) + y φ(y)); every sum passes it on."""

    @staticmethod
    def forward(
        ctx: Any, products_BMTF: Tensor, source_N: Tensor, bias_F: Tensor, backend: str | None
    ) -> Any:
        # as in attention.py: named for torch.compile, and no setup_context, which is slow
        inputs = (products_BMTF, source_N, bias_F)
        out = torch.ops.tsgen.sum_taps.default(*inputs, backend=backend)
        ctx.save_for_backward(out[1], *inputs)
        ctx.backend = backend
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        run = torch.ops.tsgen.sum_taps_backward.default
        dproducts, dbias = run(*grads, *ctx.saved_tensors, backend=ctx.backend)
        return dproducts, None, dbias, None


def check(products_BMTF: Tensor, source_N: Tensor, bias_F: Tensor) -> None:
    """Everything a backend may rely on."""
    if products_BMTF.dim() != 4 or not products_BMTF.numel():
        wanted = "(B, M, T, F), none of them 0"
        raise bad_value("products", wanted, tuple(products_BMTF.shape))
    if source_N.dim() != 1 or source_N.dtype != torch.int64 or not len(source_N):
        got = f"{tuple(source_N.shape)} {source_N.dtype}"
        raise bad_value("source", "(N,) torch.int64, N at least 1", got)
    if bias_F.shape != products_BMTF.shape[3:]:
        raise bad_value("bias", f"({products_BMTF.shape[3]},)", tuple(bias_F.shape))


def reference(products_BMTF: Tensor, source_N: Tensor, bias_F: Tensor) -> Summed:
    """The definition, for tests: one place after the other. Never optimise this."""
    N, T = len(source_N), products_BMTF.shape[2]
    places = []
    for n in range(N):
        seen = [(n + t - T // 2, t) for t in range(T) if 0 <= n + t - T // 2 < N]
        places.append(bias_F + sum(products_BMTF[:, source_N[at], t] for at, t in seen))
    y_BNF = torch.stack(places, 1)
    h_BNF = y_BNF * (1 + (y_BNF / 2**0.5).erf()) / 2
    mean_F = h_BNF.mean((0, 1))
    return Summed(h_BNF, mean_F, (h_BNF - mean_F).square().mean((0, 1)))


def baseline(products_BMTF: Tensor, source_N: Tensor, bias_F: Tensor) -> Summed:
    """Which products a place sees as a matrix of 0 and 1, the same for all of the batch."""
    (B, M, T, _), N = products_BMTF.shape, len(source_N)
    products = products_BMTF.to(compute_dtype(products_BMTF)).flatten(1, 2)
    at_MN = (source_N == torch.arange(M, device=source_N.device)[:, None]).to(products)
    seen_MTN = F.pad(at_MN, (T // 2, T - 1 - T // 2)).unfold(1, N, 1)
    seen_BNM = seen_MTN.flatten(0, 1).mT.expand(B, -1, -1)
    h_BNF = F.gelu(torch.baddbmm(bias_F.to(products), seen_BNM, products))
    var_F, mean_F = torch.var_mean(h_BNF, (0, 1), correction=0)
    return Summed(h_BNF.to(products_BMTF.dtype), mean_F, var_F)


# Read by tests/test_ops.py and benchmarks.

TEST_SHAPES = [  # (B, M, T, F, N)
    (1, 1, 1, 1, 1),
    (3, 8, 7, 33, 64),
    (2, 3, 7, 5, 4),
    (5, 9, 2, 17, 5),
    (7, 5, 3, 16, 5),
    (19, 2, 7, 130, 1),
]
BENCH_SHAPES = [(128, 8, 7, 256, 64), (128, 8, 3, 256, 8)]
GPU_SHAPES = [(8192, 8, 7, 256, 64), (128, 8, 7, 256, 64)]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}
DIFFERENTIABLE = (0, 2)

Shape = tuple[int, int, int, int, int]


def make_inputs(
    shape: Shape, device: str, dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    B, M, T, n_features, N = shape
    rng = torch.Generator().manual_seed(seed)
    products = torch.randn(B, M, T, n_features, generator=rng).to(device, dtype)
    bias_F = torch.randn(n_features, generator=rng).to(device, dtype)
    return products, (torch.arange(N) * M // N).to(device), bias_F


def error(out: Summed, ref: Summed, *inputs: object) -> float:
    """Largest difference, relative to the largest value; the worst of h, mean and variance."""
    return max(relative_error(a, b) for a, b in zip(out, ref, strict=True))


def bytes_moved(shape: Shape, dtype: torch.dtype) -> int:
    """The least traffic possible: read the products once, write h once."""
    B, M, T, n_features, N = shape
    return B * n_features * (M * T + N) * dtype.itemsize
