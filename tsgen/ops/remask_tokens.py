"""The end of a decoding step: drawn tokens go to their places, the least confident leave again.

    confidence[b, n] = logp + noise Gumbel, of tokens drawn now;  Gumbel = -log(-log v)
    masked = keep_confident(confidence, n_masked)                 ids = [MASK] there

Chang et al. 2022 (MaskGIT), section 3.2. B rows, N positions, M drawn in each, P still masked.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tsgen import dispatch
from tsgen.errors import bad_value
from tsgen.ops.keep_confident import baseline as least_confident
from tsgen.ops.keep_confident import reference as sorted_out


class Remasked(NamedTuple):
    """What `remask_tokens` gives."""

    ids_BN: Tensor  # int64
    places_BP: Tensor  # int64, the masked positions
    invalid_B: Tensor  # bool, whether any draw so far had no finite probability


def remask_tokens(
    ids_BN: Tensor,
    drawn_BM: Tensor,
    logp_BM: Tensor,
    v_BM: Tensor,
    n_masked_B: Tensor,
    invalid_B: Tensor,
    *,
    mask_id: int,
    noise: float,
    n_places: int = 0,
    backend: str | None = None,
) -> Remasked:
    """Fill in what was drawn and mask exactly `n_masked_B` of it again. Not differentiable.

    ids_BN:      (B, N) int64, `mask_id` where masked
    drawn_BM:    (B, M) int64: the tokens of the masked positions, ascending, exactly M in every
                 row; or, where M = N, of every position, looked at where masked
    logp_BM:     (B, M) float32 or float64, their log-probabilities in nats; NaN is lowest
    v_BM:        (B, M) float64, uniform in (0, 1)
    n_masked_B:  (B,) int64, from 0 to as many as are masked
    invalid_B:   (B,) bool, what earlier steps have found
    noise:       weight of the Gumbel noise
    n_places:    P: the first P positions still masked are listed, 0 where there are fewer
    returns:     Remasked. On a tie the lower position keeps its token
    raises:      ArgumentError for shapes or dtypes that do not fit
    """
    tensors = (ids_BN, drawn_BM, logp_BM, v_BM, n_masked_B, invalid_B)
    check(*tensors, n_places)
    args = (*tensors, mask_id, float(noise), n_places)
    return Remasked(*dispatch.call("remask_tokens", baseline, *args, backend=backend, like=ids_BN))


def _fake(ids_BN: Tensor, *args: Any, backend: str | None = None) -> tuple[Tensor, ...]:
    invalid_B, n_places = args[4], args[-1]
    places_BP = ids_BN.new_empty(len(ids_BN), n_places)
    return ids_BN.new_empty(ids_BN.shape), places_BP, invalid_B.new_empty(invalid_B.shape)


dispatch.register(
    "remask_tokens(Tensor ids, Tensor drawn, Tensor logp, Tensor v, Tensor n_masked,"
    " Tensor invalid, int mask_id, float noise, int n_places, *, str? backend=None)"
    " -> (Tensor, Tensor, Tensor)",
    fake=_fake,
)


def check(
    ids_BN: Tensor,
    drawn_BM: Tensor,
    logp_BM: Tensor,
    v_BM: Tensor,
    n_masked_B: Tensor,
    invalid_B: Tensor,
    n_places: int,
) -> None:
    """Everything a backend may rely on."""
    shapes = [tuple(t.shape) for t in (ids_BN, drawn_BM, logp_BM, v_BM, n_masked_B, invalid_B)]
    (B, *N), (_, *M) = shapes[:2] if shapes[0] and shapes[1] else ((0,), (0,))
    if len(N) != 1 or len(M) != 1 or shapes[1:] != [(B, *M)] * 3 + [(B,)] * 2 or M > N:
        wanted = "(B, N), three of (B, M), M at most N, and two of (B,)"
        raise bad_value("ids, drawn, logp, v, n_masked, invalid", wanted, shapes)
    kinds = {"ids": ids_BN, "drawn": drawn_BM, "n_masked": n_masked_B}
    for name, t in kinds.items():
        if t.dtype != torch.int64:
            raise bad_value(name, "torch.int64", t.dtype)
    if invalid_B.dtype != torch.bool or v_BM.dtype != torch.float64:
        raise bad_value("invalid, v", "bool and float64", f"{invalid_B.dtype} and {v_BM.dtype}")
    if not 0 <= n_places <= N[0]:
        raise bad_value("n_places", f"0 to {N[0]}", n_places)


def reference(
    ids_BN: Tensor,
    drawn_BM: Tensor,
    logp_BM: Tensor,
    v_BM: Tensor,
    n_masked_B: Tensor,
    invalid_B: Tensor,
    mask_id: int,
    noise: float,
    n_places: int,
) -> Remasked:
    """The definition, for tests: row by row. Never optimise this."""
    B, N = ids_BN.shape
    ids_BN, invalid_B = ids_BN.clone(), invalid_B.clone()
    places_BP = ids_BN.new_zeros(B, n_places)
    for b in range(B):
        masked = [n for n in range(N) if ids_BN[b, n] == mask_id]
        confidence_N = torch.full((N,), torch.inf, dtype=torch.float64)
        for m, n in enumerate(masked):
            m = n if drawn_BM.shape[1] == N else m
            ids_BN[b, n] = drawn_BM[b, m]
            confidence_N[n] = logp_BM[b, m] - noise * (-v_BM[b, m].log()).log()
            invalid_B[b] |= not bool(logp_BM[b, m].isfinite())
        again_N = sorted_out(confidence_N[None], n_masked_B[b : b + 1])[0]
        ids_BN[b, again_N] = mask_id
        left = again_N.nonzero()[:n_places, 0]
        places_BP[b, : len(left)] = left
    return Remasked(ids_BN, places_BP, invalid_B)


def baseline(
    ids_BN: Tensor,
    drawn_BM: Tensor,
    logp_BM: Tensor,
    v_BM: Tensor,
    n_masked_B: Tensor,
    invalid_B: Tensor,
    mask_id: int,
    noise: float,
    n_places: int,
) -> Remasked:
    """The m-th masked position takes the m-th draw; the rest is `keep_confident`."""
    (B, N), M = ids_BN.shape, drawn_BM.shape[1]
    masked_BN = ids_BN == mask_id
    if M == 0:
        return Remasked(ids_BN.clone(), ids_BN.new_zeros(B, n_places), invalid_B.clone())
    if N > M:
        at_BN = (masked_BN.cumsum(1) - 1).clamp(0, M - 1)
        drawn_BM, logp_BM, v_BM = (t.gather(1, at_BN) for t in (drawn_BM, logp_BM, v_BM))
    confidence_BN = logp_BM.double() - noise * (-v_BM.log()).log()
    confidence_BN = torch.where(masked_BN, confidence_BN, torch.inf)
    again_BN = least_confident(confidence_BN, n_masked_B)
    ids_BN = torch.where(masked_BN & ~again_BN, drawn_BM, ids_BN)
    order_BN = again_BN.to(torch.int8).argsort(dim=1, descending=True, stable=True)
    there_BP = torch.arange(n_places, device=ids_BN.device) < again_BN.sum(1)[:, None]
    invalid_B = invalid_B | (masked_BN & ~logp_BM.isfinite()).any(1)
    return Remasked(ids_BN, order_BN[:, :n_places] * there_BP, invalid_B)


# Read by tests/test_ops.py and benchmarks.

TEST_SHAPES = [  # (B, N, M, places)
    (0, 4, 4, 2),
    (1, 1, 1, 0),
    (5, 17, 9, 4),
    (3, 16, 16, 16),
    (4, 64, 41, 41),
    (6, 129, 129, 0),
    (2, 300, 0, 3),
]
BENCH_SHAPES = [(256, 64, 41, 37), (4096, 64, 64, 0)]
GPU_SHAPES = [(100_000, 64, 41, 37), (256, 64, 41, 37)]
TOLERANCE = {torch.int64: 0.0}  # a choice is right or wrong
DIFFERENTIABLE = ()

Shape = tuple[int, int, int, int]


def make_inputs(shape: Shape, device: str, dtype: torch.dtype, seed: int = 0) -> tuple[Any, ...]:
    B, N, M, n_places = shape
    rng = torch.Generator().manual_seed(seed)
    mask_id = 50
    rank_BN = torch.rand(B, N, generator=rng).argsort(1).argsort(1)
    n_unknown = M if M < N else torch.randint(0, N + 1, (B, 1), generator=rng)
    ids_BN = torch.randint(0, mask_id, (B, N), generator=rng)
    ids_BN[rank_BN < n_unknown] = mask_id
    drawn_BM = torch.randint(0, mask_id, (B, M), generator=rng)
    # few distinct values, and noise that is the same at many places: ties are the rule
    logp_BM = -torch.randint(1, 4, (B, M), generator=rng).float()
    logp_BM[torch.rand(B, M, generator=rng) < 0.1] = -torch.inf
    v_BM = torch.randint(1, 4, (B, M), generator=rng).double() / 4
    unknown_B = (ids_BN == mask_id).sum(1)
    n_masked_B = (torch.rand(B, generator=rng) * (unknown_B + 1)).long()
    invalid_B = torch.rand(B, generator=rng) < 0.3
    tensors = (ids_BN, drawn_BM, logp_BM, v_BM, n_masked_B, invalid_B)
    return *(t.to(device) for t in tensors), mask_id, 1.5, n_places


def error(out: Remasked, ref: Remasked, *inputs: object) -> float:
    """Numbers that differ."""
    return float(sum((a != b).sum() for a, b in zip(out, ref, strict=True)))


def bytes_moved(shape: Shape, dtype: torch.dtype) -> int:
    """The least traffic possible: read ids and draws once, write ids and places once."""
    B, N, M, n_places = shape
    return B * (8 * (2 * N + n_places + 1) + M * (8 + 4 + 8) + 2)
