"""Two uniform numbers for places of samples, counted and not drawn in a row.

    words = philox(seed[b], sample[b], places[b, m], step, band)       u, v = uniforms(words)

The counter and the numbers are those of tsgen/ops/philox.py. The seeds are a tensor, so that what
was captured once can be replayed for others. B samples, M places of each.
"""

from typing import cast

import torch
from torch import Tensor

from tsgen import dispatch
from tsgen.errors import bad_value
from tsgen.ops.philox import LOW, check_numbers, high, philox4x32, uniform, uniforms
from tsgen.ops.philox import reference as words


def draw_uniforms(
    seed_B: Tensor,
    sample_B: Tensor,
    places_BM: Tensor,
    *,
    step: int = 0,
    band: int = 0,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """u for a token and v for its confidence, at every place. Not differentiable.

    seed_B:      (B,) int64, the 64 bits of the seed of each sample
    sample_B:    (B,) int64, absolute sample indices
    places_BM:   (B, M) int64, each from 0 to 2**24 - 1
    step, band:  what the numbers are for, below 2**16
    returns:     two of (B, M) float64, in the open interval (0, 1)
    raises:      ArgumentError for anything else, but for places outside
    """
    check(seed_B, sample_B, places_BM)
    check_numbers(step=step, band=band)
    args = (seed_B, sample_B, places_BM, step, band)
    out = dispatch.call("draw_uniforms", baseline, *args, backend=backend, like=seed_B)
    return cast(tuple[Tensor, Tensor], out)


def _fake(
    seed_B: Tensor,
    sample_B: Tensor,
    places_BM: Tensor,
    step: int,
    band: int,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    u_BM = places_BM.new_empty(places_BM.shape, dtype=torch.float64)
    return u_BM, torch.empty_like(u_BM)


dispatch.register(
    "draw_uniforms(Tensor seed, Tensor sample, Tensor places, int step, int band, *,"
    " str? backend=None) -> (Tensor, Tensor)",
    fake=_fake,
)


def check(seed_B: Tensor, sample_B: Tensor, places_BM: Tensor) -> None:
    """Everything a backend may rely on."""
    tensors = {"seed": seed_B, "sample": sample_B, "places": places_BM}
    for name, t in tensors.items():
        if t.dtype != torch.int64:
            raise bad_value(name, "torch.int64", t.dtype)
    if places_BM.dim() != 2 or not seed_B.shape == sample_B.shape == places_BM.shape[:1]:
        got = [tuple(t.shape) for t in tensors.values()]
        raise bad_value("seed, sample, places", "(B,), (B,) and (B, M)", got)


def reference(
    seed_B: Tensor, sample_B: Tensor, places_BM: Tensor, step: int, band: int
) -> tuple[Tensor, Tensor]:
    """The definition, for tests: all words of a sample, and of these the ones asked for."""
    u_BM, v_BM = (torch.empty(places_BM.shape, dtype=torch.float64) for _ in range(2))
    for b, (key, sample) in enumerate(zip(seed_B.tolist(), sample_B, strict=True)):
        n = int(places_BM[b].amax()) + 1
        u_1N, v_1N = uniforms(words(sample[None], key % 2**64, n, 0, step, band))
        u_BM[b], v_BM[b] = u_1N[0, places_BM[b]], v_1N[0, places_BM[b]]
    return u_BM, v_BM


def baseline(
    seed_B: Tensor, sample_B: Tensor, places_BM: Tensor, step: int, band: int
) -> tuple[Tensor, Tensor]:
    """Philox on int64 tensors, as the baseline of `philox` has it."""
    low_B1, high_B1 = (sample_B & LOW)[:, None], high(sample_B)[:, None]
    counter = low_B1, high_B1, places_BM, torch.full_like(places_BM, step | band << 16)
    w0, w1, w2, w3 = philox4x32(*counter, seed_B[:, None])
    return uniform(w0, w1), uniform(w2, w3)


# Read by tests/test_ops.py and benchmarks.

TEST_SHAPES = [(0, 3, 1), (1, 1, 0), (3, 2, 5), (17, 5, 2**63 + 12345), (5, 65, 2**64 - 1)]
BENCH_SHAPES = [(256, 64, 0), (10_000, 41, 0)]  # (B, M, seed)
GPU_SHAPES = [(100_000, 64, 0), (256, 64, 0)]
TOLERANCE = {torch.int64: 0.0}  # bits are right or wrong
DIFFERENTIABLE = ()

Shape = tuple[int, int, int]


def make_inputs(
    shape: Shape, device: str, dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, int, int]:
    B, M, key = shape
    rng = torch.Generator().manual_seed(seed)
    signed = key - (key >> 63 << 64)
    key_B = torch.full((B,), signed) ^ torch.arange(B)
    sample_B = torch.randint(0, 2**62, (B,), generator=rng)
    places_BM = torch.randint(0, 3 * M, (B, M), generator=rng)
    return key_B.to(device), sample_B.to(device), places_BM.to(device), 9, 1


def error(out: tuple[Tensor, Tensor], ref: tuple[Tensor, Tensor], *inputs: object) -> float:
    """Numbers that differ."""
    return float(sum((a != b).sum() for a, b in zip(out, ref, strict=True)))


def bytes_moved(shape: Shape, dtype: torch.dtype) -> int:
    """The least traffic possible: read seeds, indices and places once, write both numbers once."""
    B, M, _ = shape
    return B * 8 * (2 + 3 * M)
