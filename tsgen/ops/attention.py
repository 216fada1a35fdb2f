"""Bidirectional attention over short sequences.

    q̂ = q_scale * q/|q|,   k̂ = k_scale * k/|k|                 (where scales are given)
    out[i] = sum_j softmax_j(q̂[i]·k̂[j] / sqrt(D)) v[j]          over the keys, and one null key

Vaswani et al. 2017, eq. 1; query-key normalisation: Henry et al. 2020; the learned null key lets
a query attend to nothing. B sequences, H heads, M queries, N keys, D dims of a head.
"""

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from tsgen import dispatch
from tsgen.errors import bad_value
from tsgen.ops.stft import compute_dtype, relative_error

EPS = 1e-12  # of the norm, as torch.nn.functional.normalize has it
WIDEST = 64  # dims of a head that csrc/cuda/attention.cu takes


def attention(
    q_BHMD: Tensor,
    k_BHND: Tensor,
    v_BHND: Tensor,
    null_kv_2HD: Tensor | None = None,
    q_scale_D: Tensor | None = None,
    k_scale_D: Tensor | None = None,
    lengths_B: Tensor | None = None,
    *,
    backend: str | None = None,
) -> Tensor:
    """Every query's weighted mean of all values.

    q_BHMD:       (B, H, M, D) float, any strides
    k, v:         (B, H, N, D) same dtype, any strides
    null_kv_2HD:  (2, H, D) key and value that every query also sees
    q_scale_D:    (D,) normalise q to this per-dim length; given together with k_scale_D
    lengths_B:    (B,) int64, keys in use: the first ones. A query with no key at all gives 0
    returns:      (B, H, M, D), a view of (B, M, H, D). Differentiable in all floats
    raises:       ArgumentError for shapes or dtypes that do not fit
    """
    args = (q_BHMD, k_BHND, v_BHND, null_kv_2HD, q_scale_D, k_scale_D, lengths_B)
    check(*args)
    how: dict[str, Any] = {"backend": backend, "like": q_BHMD, "gradient": Gradient}
    how["unable"] = ("cuda",) if q_BHMD.shape[-1] > WIDEST else ()
    return cast(Tensor, dispatch.call("attention", baseline, *args, **how))


def _fake(q: Tensor, *args: Tensor | None, backend: str | None = None) -> Tensor:
    B, H, M, D = q.shape
    return q.new_empty(B, M, H, D).transpose(1, 2)


def _fake_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    null_kv: Tensor | None,
    q_scale: Tensor | None,
    k_scale: Tensor | None,
    lengths: Tensor | None,
    backend: str | None = None,
) -> tuple[Tensor, ...]:
    shared = (null_kv, q_scale, k_scale)
    sizes = [q.new_empty(0) if t is None else t.new_empty(t.shape) for t in shared]
    return _fake(q), _fake(k), _fake(v), *sizes


dispatch.register(
    "attention(Tensor q, Tensor k, Tensor v, Tensor? null_kv, Tensor? q_scale, Tensor? k_scale,"
    " Tensor? lengths, *, str? backend=None) -> Tensor",
    fake=_fake,
)
dispatch.register(
    "attention_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor? null_kv,"
    " Tensor? q_scale, Tensor? k_scale, Tensor? lengths, *, str? backend=None)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    fake=_fake_backward,
)


class Gradient(torch.autograd.Function):
    """Saves its inputs alone and computes the weights again; see csrc/cpu/simd/attention.cpp."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        null_kv: Tensor | None,
        q_scale: Tensor | None,
        k_scale: Tensor | None,
        lengths: Tensor | None,
        backend: str | None,
    ) -> Any:
        # named, not *args: torch.compile counts them. No setup_context: PyTorch would inspect this
        # signature at every call, 40 µs
        args = (q, k, v, null_kv, q_scale, k_scale, lengths)
        ctx.save_for_backward(*args)
        ctx.backend = backend
        return torch.ops.tsgen.attention.default(*args, backend=backend)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        saved = ctx.saved_tensors
        run = torch.ops.tsgen.attention_backward.default
        dq, dk, dv, *shared = run(grad, *saved, backend=ctx.backend)
        given = zip(shared, saved[3:6], strict=True)
        return dq, dk, dv, *(None if t is None else g for g, t in given), None, None


def check(
    q_BHMD: Tensor,
    k_BHND: Tensor,
    v_BHND: Tensor,
    null_kv_2HD: Tensor | None,
    q_scale_D: Tensor | None,
    k_scale_D: Tensor | None,
    lengths_B: Tensor | None,
) -> None:
    """Everything a backend may rely on."""
    fits = q_BHMD.dim() == k_BHND.dim() == 4 and k_BHND.shape == v_BHND.shape
    if not fits or q_BHMD.shape[:2] + q_BHMD.shape[3:] != k_BHND.shape[:2] + k_BHND.shape[3:]:
        got = [tuple(t.shape) for t in (q_BHMD, k_BHND, v_BHND)]
        raise bad_value("q, k, v", "(B, H, M, D), (B, H, N, D), (B, H, N, D)", got)
    if not q_BHMD.dtype == k_BHND.dtype == v_BHND.dtype:
        raise bad_value("q, k, v", "one dtype", [t.dtype for t in (q_BHMD, k_BHND, v_BHND)])
    B, H, _, D = q_BHMD.shape
    if (q_scale_D is None) != (k_scale_D is None):
        raise bad_value("q_scale, k_scale", "both or neither", "one of them")
    wanted = {"null_kv": (2, H, D), "q_scale": (D,), "k_scale": (D,), "lengths": (B,)}
    for (name, shape), t in zip(
        wanted.items(), (null_kv_2HD, q_scale_D, k_scale_D, lengths_B), strict=True
    ):
        if t is not None and t.shape != shape:
            raise bad_value(name, str(shape), tuple(t.shape))


def dense_rows(t: Tensor) -> Tensor:
    """For kernels: itself if its last dim is contiguous, whatever the strides of the others."""
    return t if t.stride(-1) == 1 else t.contiguous()


def reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    null_kv: Tensor | None,
    q_scale: Tensor | None,
    k_scale: Tensor | None,
    lengths: Tensor | None,
) -> Tensor:
    """The definition, for tests. Never optimise this."""
    (B, H, _, D), N = q.shape, k.shape[2]
    if null_kv is not None:
        null = null_kv[:, None, :, None].expand(2, B, H, 1, D)
        k, v = torch.cat([null[0], k], 2), torch.cat([null[1], v], 2)
    if q_scale is not None and k_scale is not None:
        q = q_scale * q / q.norm(dim=-1, keepdim=True).clamp_min(EPS)
        k = k_scale * k / k.norm(dim=-1, keepdim=True).clamp_min(EPS)
    scores = q @ k.mT / math.sqrt(D)
    if lengths is not None:
        used_BN = torch.arange(N, device=q.device) < lengths[:, None]
        key_BM = F.pad(used_BN, (k.shape[2] - N, 0), value=True)
        scores = torch.where(key_BM[:, None, None], scores, -torch.inf)
    weight = (scores - scores.amax(-1, keepdim=True).clamp_min(-1e30)).exp()
    return weight @ v / weight.sum(-1, keepdim=True).clamp_min(1e-300)


def baseline(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    null_kv: Tensor | None,
    q_scale: Tensor | None,
    k_scale: Tensor | None,
    lengths: Tensor | None,
) -> Tensor:
    """scaled_dot_product_attention, with the null key as one more key."""
    (B, H, _, D), N = q.shape, k.shape[2]
    dtype, compute = q.dtype, compute_dtype(q)
    if q.numel() == 0 or (N == 0 and null_kv is None):
        return _fake(q).zero_()
    if null_kv is not None:
        null = null_kv.to(dtype)[:, None, :, None].expand(2, B, H, 1, D)
        k, v = torch.cat([null[0], k], 2), torch.cat([null[1], v], 2)
    if q_scale is not None and k_scale is not None:
        q = (F.normalize(q.to(compute), dim=-1, eps=EPS) * q_scale).to(dtype)
        k = (F.normalize(k.to(compute), dim=-1, eps=EPS) * k_scale).to(dtype)
    if lengths is None:
        return heads_inside(F.scaled_dot_product_attention(q, k, v))
    used_BN = torch.arange(N, device=q.device) < lengths[:, None]
    key_BM = F.pad(used_BN, (k.shape[2] - N, 0), value=True)
    # where there is no key at all, look at every one and throw the result away
    none_B = ~key_BM.any(-1)
    visible = (key_BM | none_B[:, None])[:, None, None]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
    return heads_inside(torch.where(none_B[:, None, None, None], 0, out))


def heads_inside(out_BHMD: Tensor) -> Tensor:
    """The layout that the projection after it takes without a copy."""
    return out_BHMD.transpose(1, 2).contiguous().transpose(1, 2)


# Read by tests/test_ops.py and benchmarks.

TEST_SHAPES = [  # (B, H, M, N, D, null key, normalised, lengths)
    (0, 2, 5, 5, 8, True, True, False),
    (1, 1, 1, 1, 4, False, False, False),
    (2, 1, 1, 1, 8, True, True, True),
    (3, 2, 17, 17, 16, True, True, False),
    (2, 3, 65, 65, 32, True, True, True),
    (5, 2, 13, 13, 7, False, True, True),
    (2, 2, 23, 65, 16, True, True, False),
    (2, 1, 9, 9, 64, True, True, False),
    (2, 2, 20, 33, 24, False, False, True),
    (2, 1, 200, 200, 12, True, True, True),
    (2, 2, 129, 129, 64, True, False, False),
]
BENCH_SHAPES = [
    (128, 2, 9, 9, 64, True, True, False),
    (256, 2, 16, 16, 64, True, True, False),
    (128, 4, 64, 64, 32, True, True, False),
    (128, 2, 65, 65, 64, True, True, False),
    (64, 4, 128, 128, 64, True, True, False),
    (16, 8, 256, 256, 64, True, True, False),
]
GPU_SHAPES = [
    (100_000, 2, 64, 64, 64, False, False, False),
    (256, 2, 65, 65, 64, True, True, False),
    (100_000, 2, 65, 65, 64, True, True, False),
    (4096, 4, 64, 64, 32, False, False, False),
    (1024, 4, 256, 256, 64, False, False, False),
    (256, 8, 1024, 1024, 64, False, False, False),
]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6, torch.bfloat16: 3e-2, torch.float16: 4e-3}
DIFFERENTIABLE = (0, 1, 2, 3, 4, 5)

Shape = tuple[int, int, int, int, int, bool, bool, bool]
Inputs = tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def make_inputs(shape: Shape, device: str, dtype: torch.dtype, seed: int = 0) -> Inputs:
    B, H, M, N, D, null, normalised, lengths = shape
    rng = torch.Generator().manual_seed(seed)
    qkv = torch.randn(B, N, 3, H, D, generator=rng).to(device, dtype)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # as one projection gives them: no copy
    q = q[:, :, :M]
    null_kv = torch.randn(2, H, D, generator=rng).to(device, dtype) if null else None
    scale = torch.rand(2, D, generator=rng).add(4).to(device, dtype)
    q_scale, k_scale = (scale[0], scale[1]) if normalised else (None, None)
    lens = torch.randint(0, N + 1, (B,), generator=rng).to(device) if lengths else None
    return q, k, v, null_kv, q_scale, k_scale, lens


def error(out: Tensor, ref: Tensor, *inputs: object) -> float:
    """Largest difference, relative to the largest value."""
    return relative_error(out, ref)


def bytes_moved(shape: Shape, dtype: torch.dtype) -> int:
    """The least traffic possible: read q, k, v once, write the output once."""
    B, H, M, N, D, *_ = shape
    return 2 * B * H * (M + N) * D * dtype.itemsize


def flops(shape: Shape) -> int:
    """Multiplications and additions of the products."""
    B, H, M, N, D, *_ = shape
    return 4 * B * H * M * N * D
