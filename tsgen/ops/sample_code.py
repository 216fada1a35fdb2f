"""Draw one code per row from the softmax of the head's logits, by inverse CDF with one uniform.

    l = h Wᵀ + b        p = softmax(l / temperature), cut to top-k, then top-p
    id = the first k with  sum_{j<=k} p_j > u sum_j p_j        logp = log softmax(l)[id]

One uniform a row, not one Gumbel a logit: less biased in float32 (Zheng et al. 2024,
arXiv 2409.02908), and the noise costs K times less. R rows, D width, K codes.
"""

from typing import Any, cast

import torch
from torch import Tensor

from tsgen import dispatch
from tsgen.errors import bad_value
from tsgen.ops.stft import compute_dtype

SMALLEST_TEMPERATURE = 1.2e-38  # float32 has no smaller normal number; the limit is that of 0
GROUP = 32  # codes whose weights are summed before the search goes down to single ones


def sample_code(
    h_RD: Tensor,
    u_R: Tensor,
    weight_KD: Tensor | None = None,
    bias_K: Tensor | None = None,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Drawn code and its log-probability, for every row. Not differentiable.

    h_RD:         (R, D) float hidden rows; or logits (R, K) where there is no weight
    u_R:          (R,) float64 in the open interval (0, 1)
    weight_KD:    (K, D) same dtype, and bias_K (K,) or None: the head
    temperature:  of the draw; 0 and below 1.2e-38 take the largest logit, the lower on a tie
    top_k:        draw from the k most likely codes only, the lower on a tie; 0 for all
    top_p:        draw from the fewest most likely codes that hold this much, after top_k
    returns:      ids (R,) int64; logp (R,) float32 or float64 of the uncut law at temperature 1.
                  A row with NaN or +inf, or nothing but -inf, gives id 0 and flags it by logp NaN
    raises:       ArgumentError for shapes, dtypes or settings that do not fit
    """
    temperature = 0.0 if 0 <= temperature < SMALLEST_TEMPERATURE else float(temperature)
    args = (h_RD, u_R, weight_KD, bias_K, temperature, top_k, float(top_p))
    check(*args)
    out = dispatch.call("sample_code", baseline, *args, backend=backend, like=h_RD)
    return cast(tuple[Tensor, Tensor], out)


def _fake(h_RD: Tensor, *args: Any, backend: str | None = None) -> tuple[Tensor, Tensor]:
    R = h_RD.shape[0]
    return h_RD.new_empty(R, dtype=torch.int64), h_RD.new_empty(R, dtype=compute_dtype(h_RD))


dispatch.register(
    "sample_code(Tensor h, Tensor u, Tensor? weight, Tensor? bias, float temperature, int top_k,"
    " float top_p, *, str? backend=None) -> (Tensor, Tensor)",
    fake=_fake,
)


def check(
    h_RD: Tensor,
    u_R: Tensor,
    weight_KD: Tensor | None,
    bias_K: Tensor | None,
    temperature: float,
    top_k: int,
    top_p: float,
) -> None:
    """Everything a backend may rely on."""
    if h_RD.dim() != 2 or u_R.shape != h_RD.shape[:1] or u_R.dtype != torch.float64:
        got = f"{tuple(h_RD.shape)} and {tuple(u_R.shape)} {u_R.dtype}"
        raise bad_value("h, u", "(R, D) and (R,) torch.float64", got)
    if weight_KD is not None and (weight_KD.dim() != 2 or weight_KD.shape[1] != h_RD.shape[1]):
        raise bad_value("weight", f"(K, {h_RD.shape[1]})", tuple(weight_KD.shape))
    K = h_RD.shape[1] if weight_KD is None else weight_KD.shape[0]
    if K < 1:
        raise bad_value("weight", "at least one code", K)
    if bias_K is not None and (weight_KD is None or bias_K.shape != (K,)):
        raise bad_value("bias", f"({K},), beside a weight", tuple(bias_K.shape))
    if not 0 <= temperature < float("inf"):
        raise bad_value("temperature", "a finite number from 0 on", temperature)
    if top_k < 0:
        raise bad_value("top_k", "0 (all) or more", top_k)
    if not 0 < top_p <= 1:
        raise bad_value("top_p", "a number in (0, 1]", top_p)


def logits_of(h_RD: Tensor, weight_KD: Tensor | None, bias_K: Tensor | None) -> Tensor:
    """The head, in float32 at least."""
    dtype = compute_dtype(h_RD)
    if weight_KD is None:
        return h_RD.to(dtype)
    return torch.nn.functional.linear(
        h_RD.to(dtype), weight_KD.to(dtype), None if bias_K is None else bias_K.to(dtype)
    )


def cut(logits_RK: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """Logits over temperature, -inf where top_k or top_p leaves a code out."""
    # the largest becomes 0 first: no temperature makes it overflow
    logits_RK = (logits_RK - logits_RK.amax(-1, keepdim=True)) / temperature
    K = logits_RK.shape[-1]
    if not 0 < top_k < K and top_p == 1:
        return logits_RK
    order_RK = logits_RK.argsort(dim=-1, descending=True, stable=True)
    p_RK = logits_RK.gather(-1, order_RK).softmax(-1)
    keep_RK = torch.ones_like(p_RK, dtype=torch.bool)
    if 0 < top_k < K:
        keep_RK[:, top_k:] = False
        p_RK = p_RK * keep_RK / p_RK[:, :top_k].sum(-1, keepdim=True)
    keep_RK &= p_RK.cumsum(-1) - p_RK < top_p  # what comes before holds less than top_p
    keep_RK = torch.zeros_like(keep_RK).scatter(-1, order_RK, keep_RK)
    return torch.where(keep_RK, logits_RK, -torch.inf)


def reference(
    h_RD: Tensor,
    u_R: Tensor,
    weight_KD: Tensor | None,
    bias_K: Tensor | None,
    temperature: float,
    top_k: int,
    top_p: float,
) -> tuple[Tensor, Tensor]:
    """The definition, for tests. Never optimise this."""
    logits_RK = logits_of(h_RD, weight_KD, bias_K)
    logp_RK = logits_RK.log_softmax(-1)
    if temperature == 0:
        ids_R = logits_RK.argmax(-1)
    else:
        cdf_RK = cut(logits_RK, temperature, top_k, top_p).softmax(-1).cumsum(-1)
        ids_R = (cdf_RK <= u_R[:, None] * cdf_RK[:, -1:]).sum(-1)
    valid_R = logp_RK.isnan().sum(-1) == 0
    ids_R = torch.where(valid_R, ids_R, 0)
    return ids_R, torch.where(valid_R, logp_RK.gather(1, ids_R[:, None])[:, 0], torch.nan)


@torch.no_grad()
def baseline(
    h_RD: Tensor,
    u_R: Tensor,
    weight_KD: Tensor | None,
    bias_K: Tensor | None,
    temperature: float,
    top_k: int,
    top_p: float,
) -> tuple[Tensor, Tensor]:
    """Softmax, sums of groups of codes, and a search in two levels."""
    logits_RK = logits_of(h_RD, weight_KD, bias_K)
    plain = temperature == 1 and top_p == 1 and not 0 < top_k < logits_RK.shape[1]
    if temperature == 0:
        ids_R1 = logits_RK.argmax(-1, keepdim=True)
    elif plain:
        p_RK = logits_RK.softmax(-1)
        ids_R1 = search(p_RK, u_R)
        logp_R = p_RK.gather(1, ids_R1)[:, 0].log()
    else:
        ids_R1 = search(cut(logits_RK, temperature, top_k, top_p).softmax(-1), u_R)
    if not plain:
        logp_R = logits_RK.gather(1, ids_R1)[:, 0] - logits_RK.logsumexp(-1)
    return torch.where(logp_R.isnan(), 0, ids_R1[:, 0]), logp_R


def search(p_RK: Tensor, u_R: Tensor) -> Tensor:
    """The first code whose cumulative weight exceeds u of the whole: (R, 1). Sums in float64."""
    R, K = p_RK.shape
    if K % GROUP:
        p_RK = torch.nn.functional.pad(p_RK, (0, -K % GROUP))
    p_RGg = p_RK.view(R, p_RK.shape[1] // GROUP, GROUP)
    cdf_RG = p_RGg.sum(-1).double().cumsum(-1)
    target_R1 = u_R[:, None] * cdf_RG[:, -1:]
    group_R1 = (cdf_RG <= target_R1).sum(-1, keepdim=True).clamp_max_(p_RGg.shape[1] - 1)
    before_R1 = torch.where(group_R1 > 0, cdf_RG.gather(1, (group_R1 - 1).clamp_min(0)), 0)
    p_Rg = p_RGg.gather(1, group_R1[:, :, None].expand(R, 1, GROUP))[:, 0].double()
    inside_R1 = (p_Rg.cumsum(-1) <= target_R1 - before_R1).sum(-1, keepdim=True)
    # where the group's float32 sum exceeds that of its codes: its last code with any weight
    place_g = torch.arange(GROUP, device=p_RK.device)
    last_R1 = torch.where(p_Rg > 0, place_g, 0).amax(-1, keepdim=True)
    return group_R1 * GROUP + torch.minimum(inside_R1, last_R1)


# Read by tests/test_ops.py and benchmarks.

TEST_SHAPES = [  # (R, K, D or 0 for logits, temperature, top_k, top_p)
    (0, 5, 4, 1.0, 0, 1.0),
    (1, 1, 1, 1.0, 0, 1.0),
    (7, 3, 0, 1.0, 0, 1.0),
    (50, 33, 8, 0.7, 0, 1.0),
    (129, 1024, 16, 1.0, 0, 1.0),
    (40, 100, 8, 1.3, 7, 1.0),
    (40, 100, 0, 1.0, 0, 0.8),
    (40, 64, 8, 0.9, 11, 0.5),
    (31, 65, 8, 0.0, 0, 1.0),
    (101, 700, 400, 1.0, 0, 1.0),
    (30, 2100, 3, 0.8, 40, 0.9),
    (5, 1000, 0, 0.5, 999, 0.99),
]
BENCH_SHAPES = [
    (4096, 32, 128, 1.0, 0, 1.0),
    (4096, 1024, 128, 1.0, 0, 1.0),
    (4096, 1024, 0, 1.0, 0, 1.0),
    (1024, 8192, 0, 1.0, 0, 1.0),
]
GPU_SHAPES = [
    (1_000_000, 1024, 128, 1.0, 0, 1.0),
    (2048, 1024, 128, 1.0, 0, 1.0),
    (250_000, 8192, 256, 1.0, 0, 1.0),
]
# 16-bit products round differently in another order: the bound is on the cumulative law
TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6, torch.bfloat16: 5e-6, torch.float16: 5e-6}
DIFFERENTIABLE = ()

Shape = tuple[int, int, int, float, int, float]
Inputs = tuple[Tensor, Tensor, Tensor | None, Tensor | None, float, int, float]


def make_inputs(shape: Shape, device: str, dtype: torch.dtype, seed: int = 0) -> Inputs:
    R, K, D, *settings = shape
    rng = torch.Generator().manual_seed(seed)
    h_RD = torch.randn(R, D or K, generator=rng).to(device, dtype)
    u_R = torch.rand(R, generator=rng, dtype=torch.float64).clamp(1e-9, 1 - 1e-9).to(device)
    if not D:
        return h_RD, u_R, None, None, *settings  # type: ignore[return-value]
    weight_KD = torch.randn(K, D, generator=rng).to(device, dtype)
    bias_K = torch.randn(K, generator=rng).to(device, dtype)
    return h_RD, u_R, weight_KD, bias_K, *settings  # type: ignore[return-value]


def error(out: tuple[Tensor, Tensor], ref: tuple[Tensor, Tensor], *inputs: Any) -> float:
    """How far u lies outside the stretch of the exact law that the drawn code covers."""
    (ids_R, logp_R), (h_RD, u_R, weight_KD, bias_K, temperature, top_k, top_p) = out, inputs
    if not len(ids_R):
        return 0.0
    logits_RK = logits_of(h_RD, weight_KD, bias_K)
    wrong_R = (logp_R - logits_RK.log_softmax(-1).gather(1, ids_R[:, None])[:, 0]).abs()
    if temperature == 0:
        gap_R = logits_RK.amax(-1) - logits_RK.gather(1, ids_R[:, None])[:, 0]
        return float(torch.maximum(gap_R, wrong_R).amax() / logits_RK.abs().amax())
    cdf_RK = cut(logits_RK, temperature, top_k, top_p).softmax(-1).cumsum(-1)
    cdf_RK = torch.nn.functional.pad(cdf_RK, (1, 0))
    low_R = cdf_RK.gather(1, ids_R[:, None])[:, 0]
    high_R = cdf_RK.gather(1, ids_R[:, None] + 1)[:, 0]
    outside_R = torch.maximum(low_R - u_R, u_R - high_R).clamp_min(0)
    return float(torch.maximum(outside_R, wrong_R / logits_RK.abs().amax().clamp_min(1)).amax())


def bytes_moved(shape: Shape, dtype: torch.dtype) -> int:
    """The least traffic possible: read h, u and the head once, write ids and logp once."""
    R, K, D, *_ = shape
    return (R * (D or K) + K * D) * dtype.itemsize + R * 20


def flops(shape: Shape) -> int:
    """Multiplications and additions of the products."""
    R, K, D = shape[:3]
    return 2 * R * K * D
