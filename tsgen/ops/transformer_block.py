"""One transformer layer: attention and feed-forward on whole sequences, all in one.

    y = x + LN_out(W_out attention(W_qkv LN_in(x)))        attention as in attention.py
    z = y + W_down LN_mid(gelu(W_up LN_ff(y)))             LN as in norm_linear.py

The block of TimeVQVAE's prior (Lee et al. 2023, appendix), see tsgen/layers.py. S sequences, T
tokens, D width, H heads of Dh dims, F features.
"""

import importlib
import math
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from tsgen import dispatch
from tsgen.errors import bad_value
from tsgen.ops.norm_linear import (
    check_eps,
    check_vectors,
    gain_and_shift,
    layer_norm,
    normalised,
)
from tsgen.ops.stft import relative_error

# the names in this package are functions of it by now
attention = importlib.import_module("tsgen.ops.attention")
feed_forward = importlib.import_module("tsgen.ops.feed_forward")


class LayerWeights(NamedTuple):
    """Of one layer. Matrices are of x's dtype, the others any float."""

    gain_in_D: Tensor
    shift_in_D: Tensor
    qkv_ED: Tensor  # E is 3 H Dh: queries of all heads, then keys, then values
    null_kv_2HC: Tensor  # (2, H, Dh): key and value that every query also sees
    q_scale_C: Tensor  # (Dh,): the length of a query, per dim
    k_scale_C: Tensor
    out_DI: Tensor  # I is H Dh
    gain_out_D: Tensor
    shift_out_D: Tensor
    gain_ff_D: Tensor
    shift_ff_D: Tensor
    up_FD: Tensor
    gain_mid_F: Tensor
    shift_mid_F: Tensor
    down_DF: Tensor


def transformer_block(
    x_STD: Tensor, weights: LayerWeights, *, eps: float = 1e-5, backend: str | None = None
) -> Tensor:
    """The whole layer; on a GPU one kernel, whose rows never leave the chip. Not differentiable.

    x_STD:    (S, T, D) float
    weights:  of the layer
    eps:      added to every variance
    returns:  (S, T, D), as x. A kernel gives a sequence the same bits whatever others there are
    raises:   ArgumentError for shapes or dtypes that do not fit; also where a kernel is asked for
              whose limits they pass, see `limits`
    """
    args = (x_STD, *weights, float(eps))
    check(*args)
    how: dict[str, Any] = {"backend": backend, "like": x_STD}
    return cast(Tensor, dispatch.call("transformer_block", baseline, *args, **how))


def _fake(x_STD: Tensor, *args: object, backend: str | None = None) -> Tensor:
    return x_STD.new_empty(x_STD.shape)


NAMES = ", ".join(f"Tensor {name.rpartition('_')[0]}" for name in LayerWeights._fields)

dispatch.register(
    f"transformer_block(Tensor x, {NAMES}, float eps, *, str? backend=None) -> Tensor", fake=_fake
)


def check(x_STD: Tensor, *args: Any) -> None:
    """Everything a backend may rely on."""
    w, eps = LayerWeights(*args[:-1]), args[-1]
    if x_STD.dim() != 3 or min(x_STD.shape[1:]) < 1:
        raise bad_value("x", "(S, T, D), T and D at least 1", tuple(x_STD.shape))
    if w.null_kv_2HC.dim() != 3 or len(w.null_kv_2HC) != 2 or not w.null_kv_2HC.numel():
        raise bad_value("null_kv", "(2, H, Dh)", tuple(w.null_kv_2HC.shape))
    (_, H, Dh), D = w.null_kv_2HC.shape, x_STD.shape[2]
    n_features = len(w.up_FD) if w.up_FD.dim() else 0
    matrices = {
        "qkv": (w.qkv_ED, (3 * H * Dh, D)),
        "out": (w.out_DI, (D, H * Dh)),
        "up": (w.up_FD, (max(1, n_features), D)),
        "down": (w.down_DF, (D, n_features)),
    }
    for name, (matrix, shape) in matrices.items():
        if matrix.shape != shape or matrix.dtype != x_STD.dtype:
            got = f"{tuple(matrix.shape)} {matrix.dtype}"
            raise bad_value(name, f"{shape} {x_STD.dtype}", got)
    check_vectors(D, gain_in=w.gain_in_D, shift_in=w.shift_in_D)
    check_vectors(D, gain_out=w.gain_out_D, shift_out=w.shift_out_D)
    check_vectors(D, gain_ff=w.gain_ff_D, shift_ff=w.shift_ff_D)
    check_vectors(Dh, q_scale=w.q_scale_C, k_scale=w.k_scale_C)
    check_vectors(n_features, gain_mid=w.gain_mid_F, shift_mid=w.shift_mid_F)
    check_eps(eps)


def reference(x_STD: Tensor, *args: Any) -> Tensor:
    """The definition, for tests. Never optimise this."""
    w, eps = LayerWeights(*args[:-1]), args[-1]
    S, T, D = x_STD.shape
    x_RD = x_STD.reshape(S * T, D)
    qkv = normalised(x_RD, w.gain_in_D, w.shift_in_D, eps) @ w.qkv_ED.T
    q, k, v = heads(qkv, S, w.null_kv_2HC)
    mixed = attention.reference(q, k, v, w.null_kv_2HC, w.q_scale_C, w.k_scale_C, None)
    out = mixed.transpose(1, 2).reshape(S * T, w.out_DI.shape[1]) @ w.out_DI.T
    x_RD = x_RD + normalised(out, w.gain_out_D, w.shift_out_D, eps)
    ff = w.gain_ff_D, w.shift_ff_D, w.up_FD, w.gain_mid_F, w.shift_mid_F, w.down_DF
    return cast(Tensor, feed_forward.reference(x_RD, *ff, eps)).view(S, T, D)


@torch.no_grad()
def baseline(x_STD: Tensor, *args: Any) -> Tensor:
    """The parts' baselines, one after the other."""
    w, eps = LayerWeights(*args[:-1]), args[-1]
    S, T, D = x_STD.shape
    x_RD = x_STD.reshape(S * T, D)
    qkv = F.linear(layer_norm(x_RD, w.gain_in_D, w.shift_in_D, eps), w.qkv_ED)
    q, k, v = heads(qkv, S, w.null_kv_2HC)
    mixed = attention.baseline(q, k, v, w.null_kv_2HC, w.q_scale_C, w.k_scale_C, None)
    out = F.linear(mixed.transpose(1, 2).reshape(S * T, w.out_DI.shape[1]), w.out_DI)
    x_RD = x_RD + layer_norm(out, w.gain_out_D, w.shift_out_D, eps)
    ff = w.gain_ff_D, w.shift_ff_D, w.up_FD, w.gain_mid_F, w.shift_mid_F, w.down_DF
    return cast(Tensor, feed_forward.baseline(x_RD, *ff, eps)).view(S, T, D)


def heads(qkv: Tensor, S: int, null_kv_2HC: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys and values, (S, H, T, Dh) each."""
    _, H, Dh = null_kv_2HC.shape
    parts = qkv.view(S, len(qkv) // max(1, S), 3, H, Dh).unbind(2)
    return tuple(part.transpose(1, 2) for part in parts)


# Read by tests/test_ops.py and benchmarks.

TEST_SHAPES = [  # (S, T, D, H, Dh, F)
    (0, 3, 16, 1, 16, 5),
    (1, 1, 16, 1, 16, 1),
    (20, 9, 32, 2, 16, 21),
    (3, 33, 48, 1, 32, 40),
    (3, 65, 128, 2, 64, 85),
    (1, 129, 64, 1, 48, 33),
]
BENCH_SHAPES = [(64, 65, 128, 2, 64, 85), (128, 9, 128, 2, 64, 85)]
GPU_SHAPES = [(100_000, 65, 128, 2, 64, 85), (256, 65, 128, 2, 64, 85), (1024, 9, 128, 2, 64, 85)]
# in 16 bits, activations are rounded between all parts
TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
DIFFERENTIABLE = ()

Shape = tuple[int, int, int, int, int, int]


def make_inputs(shape: Shape, device: str, dtype: torch.dtype, seed: int = 0) -> list[Any]:
    S, T, D, H, Dh, n_features = shape
    rng = torch.Generator().manual_seed(seed)
    wide = dtype if dtype == torch.float64 else torch.float32  # as a model keeps them

    def matrix(n_out: int, n_in: int) -> Tensor:
        wide_OI = torch.randn(n_out, n_in, generator=rng)
        return (wide_OI / math.sqrt(n_in)).to(device, dtype)

    def scale() -> Tensor:
        return (1 + 2 * torch.rand(Dh, generator=rng)).to(device, wide)

    weights = LayerWeights(
        *gain_and_shift(D, device, dtype, rng),
        matrix(3 * H * Dh, D),
        torch.randn(2, H, Dh, generator=rng).to(device, wide),
        scale(),
        scale(),
        matrix(D, H * Dh),
        *gain_and_shift(D, device, dtype, rng),
        *gain_and_shift(D, device, dtype, rng),
        2 * matrix(n_features, D),
        *gain_and_shift(n_features, device, dtype, rng),
        matrix(D, n_features),
    )
    x_STD = torch.randn(S, T, D, generator=rng).to(device, dtype)
    return [x_STD, *weights, 1e-5]


def error(out: Tensor, ref: Tensor, *inputs: object) -> float:
    """Largest difference, relative to the largest value."""
    return relative_error(out, ref)


def bytes_moved(shape: Shape, dtype: torch.dtype) -> int:
    """The least traffic possible: read x and the matrices once, write as much as x."""
    S, T, D, H, Dh, n_features = shape
    return (2 * S * T * D + 4 * D * H * Dh + 2 * D * n_features) * dtype.itemsize


def flops(shape: Shape) -> int:
    """Multiplications and additions of all products."""
    S, T, D, H, Dh, n_features = shape
    return 2 * S * T * (4 * D * H * Dh + 2 * D * n_features + 2 * (T + 1) * H * Dh)
