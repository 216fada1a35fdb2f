"""Paired statistics over data sets: an exact signed-rank test, Holm's correction, intervals, ranks.

Demšar, Statistical comparisons of classifiers over multiple data sets, JMLR 7 (2006): data sets are
the independent draws, so tests take a set's mean over its seeds; S sets, R seeds, V variants.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Doubles = NDArray[np.float64]
Interval = tuple[float, float, float]  # mean, and the ends of its 95 % interval

RESAMPLES = 4000
MOST_SETS = 20  # whose 2^S signs are all tried


def signed_rank(difference_S: Any) -> float:
    """Two-sided p of Wilcoxon's signed-rank test, exact also where there are ties and zeros.

    Zeros take part in the ranking and in nothing else (Pratt 1959). 1 where all are zero. Raises
    ValueError for more than 20 differences.
    """
    d_S = np.asarray(difference_S, dtype=np.float64)
    if len(d_S) > MOST_SETS:
        raise ValueError(f"difference_S: wanted at most {MOST_SETS} differences, got {len(d_S)}")
    rank_S = np.where(d_S == 0, 0.0, rankdata(np.abs(d_S)))
    signs = 1.0 - 2.0 * (np.arange(2 ** len(d_S))[:, None] >> np.arange(len(d_S)) & 1)
    return float((np.abs(signs @ rank_S) >= abs(np.sign(d_S) @ rank_S) - 1e-9).mean())


def holm(p: dict[str, float]) -> dict[str, float]:
    """p of each of several tests, such that any below 0.05 is wrong with that chance: Holm 1979."""
    adjusted, highest = {}, 0.0
    for place, name in enumerate(sorted(p, key=lambda name: p[name])):
        highest = max(highest, min(1.0, (len(p) - place) * p[name]))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p}


def resampled(value_SRV: Doubles, seed: int = 0) -> Doubles:
    """Means over seeds, of drawn sets and drawn seeds of each: (resamples, S, V).

    All variants share the draws, as they share sets and seeds.
    """
    S, R, _ = value_SRV.shape
    rng = np.random.default_rng(seed)
    set_NS = rng.integers(0, S, (RESAMPLES, S))
    seed_NSR = rng.integers(0, R, (RESAMPLES, S, R))
    drawn: Doubles = value_SRV[set_NS[:, :, None], seed_NSR].mean(2)
    return drawn


def interval(value: float, drawn_N: Doubles) -> Interval:
    """A value with the 2.5th and 97.5th percentile of its resamples."""
    low, high = np.percentile(drawn_N, [2.5, 97.5])
    return value, float(low), float(high)


def mean_interval(value_SR: Doubles) -> Interval:
    """Mean over sets and seeds, with its bootstrap interval."""
    drawn_NS = resampled(value_SR[:, :, None])[:, :, 0]
    return interval(float(value_SR.mean()), drawn_NS.mean(1))


def mean_ranks(value_SRV: Doubles) -> list[Interval]:
    """Each variant's mean rank over sets, 1 the lowest value, with its bootstrap interval."""
    mean_V = rankdata(value_SRV.mean(1), axis=-1).mean(0)
    drawn_NV = rankdata(resampled(value_SRV), axis=-1).mean(1)
    return [interval(float(mean), drawn_NV[:, v]) for v, mean in enumerate(mean_V)]


def rank_difference(value_SRV: Doubles, a: int, b: int) -> Interval:
    """Mean rank of variant a less that of b, with its bootstrap interval."""
    rank_SV = rankdata(value_SRV.mean(1), axis=-1)
    drawn_NSV = rankdata(resampled(value_SRV), axis=-1)
    drawn_N = (drawn_NSV[..., a] - drawn_NSV[..., b]).mean(1)
    return interval(float((rank_SV[:, a] - rank_SV[:, b]).mean()), drawn_N)
