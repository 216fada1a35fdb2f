"""Which positions stay masked after a decoding step: the least confident ones.

    masked[b] = the n_masked[b] positions of row b with the lowest confidence

Chang et al. 2022 (MaskGIT), section 3.2. B rows, N positions.
"""

from typing import cast

import torch
from torch import Tensor

from tsgen import dispatch
from tsgen.errors import bad_value


def keep_confident(
    confidence_BN: Tensor, n_masked_B: Tensor, *, backend: str | None = None
) -> Tensor:
    """Mask exactly `n_masked_B` positions of every row again. Not differentiable.

    confidence_BN:  (B, N) float32 or float64; +inf for positions that are known; NaN is lowest
    n_masked_B:     (B,) int64, from 0 to N
    returns:        (B, N) bool, True where masked. On a tie the lower position is kept
    raises:         ArgumentError for shapes or dtypes that do not fit
    """
    check(confidence_BN, n_masked_B)
    args = (confidence_BN, n_masked_B)
    return cast(
        Tensor, dispatch.call("keep_confident", baseline, *args, backend=backend, like=args[0])
    )


def _fake(confidence_BN: Tensor, n_masked_B: Tensor, backend: str | None = None) -> Tensor:
    return confidence_BN.new_empty(confidence_BN.shape, dtype=torch.bool)


dispatch.register(
    "keep_confident(Tensor confidence, Tensor n_masked, *, str? backend=None) -> Tensor",
    fake=_fake,
)


def check(confidence_BN: Tensor, n_masked_B: Tensor) -> None:
    """Everything a backend may rely on."""
    if confidence_BN.dim() != 2 or n_masked_B.shape != confidence_BN.shape[:1]:
        got = f"{tuple(confidence_BN.shape)} and {tuple(n_masked_B.shape)}"
        raise bad_value("confidence, n_masked", "(B, N) and (B,)", got)
    if n_masked_B.dtype != torch.int64:
        raise bad_value("n_masked", "torch.int64", n_masked_B.dtype)


def reference(confidence_BN: Tensor, n_masked_B: Tensor) -> Tensor:
    """The definition, for tests: row by row with Python's own sort. Never optimise this."""
    masked_BN = torch.zeros_like(confidence_BN, dtype=torch.bool)
    confidence_BN = confidence_BN.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    for b, row in enumerate(confidence_BN.tolist()):
        lowest_first = sorted(range(len(row)), key=lambda i: (row[i], -i))
        masked_BN[b, lowest_first[: int(n_masked_B[b])]] = True
    return masked_BN


def baseline(confidence_BN: Tensor, n_masked_B: Tensor) -> Tensor:
    """A stable sort, and its ranks put back in place."""
    N = confidence_BN.shape[1]
    sortable_BN = torch.where(confidence_BN.isnan(), -torch.inf, confidence_BN)
    order_BN = sortable_BN.argsort(dim=1, descending=True, stable=True)
    rank_N = torch.arange(N, device=order_BN.device)
    again_BN = rank_N >= N - n_masked_B[:, None]
    return torch.zeros_like(again_BN).scatter(1, order_BN, again_BN)


# Read by tests/test_ops.py and benchmarks.

TEST_SHAPES = [(0, 4), (1, 1), (3, 2), (5, 17), (4, 64), (6, 129), (2, 1024)]  # (B, N)
BENCH_SHAPES = [(256, 8), (256, 64), (4096, 64), (1024, 256)]
GPU_SHAPES = [(100_000, 64), (256, 64), (100_000, 1024)]
TOLERANCE = {torch.float64: 0.0, torch.float32: 0.0}  # a choice is right or wrong
DIFFERENTIABLE = ()

Shape = tuple[int, int]


def make_inputs(
    shape: Shape, device: str, dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor, Tensor]:
    B, N = shape
    rng = torch.Generator().manual_seed(seed)
    # few distinct values, so that ties are the rule
    confidence_BN = torch.randint(-N // 3 - 1, 1, (B, N), generator=rng).to(dtype)
    confidence_BN[torch.rand(B, N, generator=rng) < 0.2] = torch.inf
    n_masked_B = torch.randint(0, N + 1, (B,), generator=rng)
    return confidence_BN.to(device), n_masked_B.to(device)


def error(out: Tensor, ref: Tensor, *inputs: object) -> float:
    """Positions that differ."""
    return float((out != ref).sum())


def bytes_moved(shape: Shape, dtype: torch.dtype) -> int:
    """The least traffic possible: read the confidences once, write the mask once."""
    B, N = shape
    return B * N * (dtype.itemsize + 1) + B * 8
