"""Nearest codeword: the code each latent vector becomes.

    ids[n] = argmin_k |x[n] - codes[k]|²        van den Oord et al. 2017, eq. 1

and, for the moving averages of the codebook, how many vectors each code got and their sum.
N vectors, K codes, D dims.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tsgen import dispatch
from tsgen.errors import bad_value
from tsgen.ops.stft import compute_dtype


class Nearest(NamedTuple):
    """What `nearest_code` found; counts and sums are empty unless asked for."""

    ids_N: Tensor  # int64, of the closest code; a tie goes to the lowest
    distance_N: Tensor  # float32 or float64, squared; NaN flags a vector that is not finite
    counts_K: Tensor  # int64, vectors per code
    sums_KD: Tensor  # float32 or float64, their sums


def nearest_code(
    x_ND: Tensor, codes_KD: Tensor, *, stats: bool = False, backend: str | None = None
) -> Nearest:
    """Closest code of every vector. Not differentiable: the straight-through step is outside.

    x_ND:      (N, D) float. A vector that is not finite gets id 0, distance NaN, counts nowhere
    codes_KD:  (K, D) same dtype and device. A code with NaN or infinity is never chosen
    stats:     whether to count and sum the vectors of each code
    returns:   Nearest
    raises:    ArgumentError for shapes, dtypes or devices that do not fit, or no code at all
    """
    check(x_ND, codes_KD)
    out = dispatch.call("nearest_code", baseline, x_ND, codes_KD, stats, backend=backend, like=x_ND)
    return Nearest(*out)


def _fake(x_ND: Tensor, codes_KD: Tensor, stats: bool, backend: str | None = None) -> Any:
    (N, D), K, dtype = x_ND.shape, len(codes_KD) if stats else 0, compute_dtype(x_ND)
    return (
        x_ND.new_empty(N, dtype=torch.int64),
        x_ND.new_empty(N, dtype=dtype),
        x_ND.new_empty(K, dtype=torch.int64),
        x_ND.new_empty(K, D, dtype=dtype),
    )


dispatch.register(
    "nearest_code(Tensor x, Tensor codes, bool stats, *, str? backend=None)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    fake=_fake,
)


def check(x_ND: Tensor, codes_KD: Tensor) -> None:
    """Everything a backend may rely on."""
    if x_ND.dim() != 2 or codes_KD.dim() != 2 or x_ND.shape[1] != codes_KD.shape[1]:
        got = f"{tuple(x_ND.shape)} and {tuple(codes_KD.shape)}"
        raise bad_value("x, codes", "(N, D) and (K, D)", got)
    if x_ND.dtype != codes_KD.dtype or x_ND.device != codes_KD.device:
        got = f"{x_ND.dtype} on {x_ND.device} and {codes_KD.dtype} on {codes_KD.device}"
        raise bad_value("x, codes", "one dtype on one device", got)
    if not 0 < codes_KD.shape[0] < 2**31:  # kernels count codes in int32
        raise bad_value("codes", "1 to 2**31 - 1 of them", codes_KD.shape[0])


def reference(x_ND: Tensor, codes_KD: Tensor, stats: bool) -> Nearest:
    """The definition, for tests. Never optimise this."""
    distance_NK = (x_ND[:, None] - codes_KD).square().sum(-1)
    distance_NK = torch.where(distance_NK.isfinite(), distance_NK, torch.inf)
    finite_N = x_ND.isfinite().all(-1)
    ids_N = torch.where(finite_N, distance_NK.argmin(-1), 0)
    distance_N = (x_ND - codes_KD[ids_N]).square().sum(-1)
    distance_N = torch.where(finite_N, distance_N, torch.nan)
    K, _D = codes_KD.shape if stats else (0, codes_KD.shape[1])
    chosen_NK = (ids_N[:, None] == torch.arange(K, device=ids_N.device)) & finite_N[:, None]
    sums_KD = torch.where(finite_N[:, None], x_ND, 0).T @ chosen_NK.to(x_ND.dtype)
    return Nearest(ids_N, distance_N, chosen_NK.sum(0), sums_KD.T)


@torch.no_grad()
def baseline(x_ND: Tensor, codes_KD: Tensor, stats: bool) -> Nearest:
    """A matrix product and argmin, in blocks of rows that keep the scores in cache."""
    dtype = compute_dtype(x_ND)
    x_ND, codes_KD = x_ND.to(dtype), codes_KD.to(dtype)
    (_N, D), K = x_ND.shape, len(codes_KD)
    usable_K = codes_KD.isfinite().all(-1)
    codes_KD = torch.where(usable_K[:, None], codes_KD, 0)
    half_norm_K = torch.where(usable_K, codes_KD.square().sum(-1) / 2, torch.inf)
    rows = max(1, 2**22 // K)
    ids_N = torch.cat(
        [
            torch.addmm(half_norm_K, x_rD, codes_KD.T, alpha=-1).argmin(-1)
            for x_rD in x_ND.split(rows)
        ]
    )
    finite_N = x_ND.isfinite().all(-1)
    ids_N = torch.where(finite_N, ids_N, 0)
    distance_N = (x_ND - codes_KD[ids_N]).square().sum(-1)
    distance_N = torch.where(finite_N, distance_N, torch.nan)
    if not stats:
        return Nearest(ids_N, distance_N, ids_N.new_empty(0), x_ND.new_empty(0, D))
    counts_K = ids_N.new_zeros(K).index_add_(0, ids_N, finite_N.to(torch.int64))
    x_ND = torch.where(finite_N[:, None], x_ND, 0)
    return Nearest(ids_N, distance_N, counts_K, x_ND.new_zeros(K, D).index_add_(0, ids_N, x_ND))


# Read by tests/test_ops.py and benchmarks.

TEST_SHAPES = [  # (N, K, D, stats)
    (0, 3, 4, True),
    (1, 1, 1, False),
    (7, 3, 5, True),
    (200, 100, 60, False),
    (67, 131, 17, True),
    (301, 64, 8, True),
    (33, 19, 70, False),
    (65, 700, 3, True),  # many codes of few numbers: ranked by tile on the CPU
    (2500, 11, 3, True),  # three chunks of statistics on the CPU
]
BENCH_SHAPES = [
    (4096, 1024, 64, False),
    (65536, 32, 64, False),
    (65536, 1024, 8, False),
    (65536, 1024, 8, True),
    (32768, 1024, 64, False),
    (32768, 1024, 64, True),
    (16384, 512, 256, False),
]
GPU_SHAPES = [
    (1_000_000, 1024, 8, False),
    (1_000_000, 1024, 64, False),
    (1_000_000, 1024, 8, True),
    (10_000_000, 1024, 64, False),
]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-6, torch.float16: 2e-6}
DIFFERENTIABLE = ()

Shape = tuple[int, int, int, bool]


def make_inputs(
    shape: Shape, device: str, dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor, Tensor, bool]:
    N, K, D, stats = shape
    rng = torch.Generator().manual_seed(seed)
    x_ND = torch.randn(N, D, generator=rng)
    codes_KD = torch.randn(K, D, generator=rng)
    return x_ND.to(device, dtype), codes_KD.to(device, dtype), stats


def error(out: Nearest, ref: Nearest, x_ND: Tensor, codes_KD: Tensor, stats: bool) -> float:
    """How much further the chosen code is than the best, relative to |x|² + |c|².

    Ids may differ where two codes tie within rounding; the distance may not. Relative to the
    distance itself would ask for the impossible where x is a code. Counts and sums have to be
    those of the ids.
    """
    ids_N, distance_N, counts_K, sums_KD = Nearest(*out)
    if not len(x_ND):
        return 0.0
    best_ND, chosen_ND = codes_KD[ref.ids_N], codes_KD[ids_N]
    scale_N = (x_ND.square() + best_ND.square()).sum(-1)
    true_N = (x_ND - chosen_ND).square().sum(-1)
    worst = [(true_N - (x_ND - best_ND).square().sum(-1)) / scale_N]
    worst += [(distance_N - true_N).abs() / scale_N]
    if stats:
        exact_KD = torch.zeros_like(codes_KD).index_add_(0, ids_N, x_ND)
        exact_K = ids_N.bincount(minlength=len(codes_KD))
        worst += [(counts_K - exact_K).abs().double(), (sums_KD - exact_KD).abs() / len(x_ND)]
    return max(float(w.amax()) for w in worst)


def bytes_moved(shape: Shape, dtype: torch.dtype) -> int:
    """The least traffic possible: read x and codes once, write ids and distances once."""
    N, K, D, _ = shape
    return (N + K) * D * dtype.itemsize + N * 12


def flops(shape: Shape) -> int:
    """Multiplications and additions of the products."""
    N, K, D, _ = shape
    return 2 * N * K * D
