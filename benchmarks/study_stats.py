"""Paired statistics over data sets: an exact signed-rank test, Holm's correction, intervals, ranks.

Demšar, Statistical comparisons of classifiers over multiple data sets, JMLR 7 (2006): data sets are
the independent draws, so everything takes a set's mean over its seeds; S sets, R seeds, V variants.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit
from scipy.stats import rankdata

Doubles = NDArray[np.float64]
Interval = tuple[float, float, float]  # mean, and the ends of its 95 % interval; NaN for none

MOST_SETS = 20  # whose 2^S signs are all tried
LEAST_SETS = 6  # that an interval is told of
DIGITS = 12  # that count: means of what cancels out differ from 0 by rounding


def signed_rank(difference_S: Any) -> float:
    """Two-sided p of Wilcoxon's signed-rank test, exact also where there are ties and zeros.

    Zeros take part in the ranking and in nothing else (Pratt 1959). 1 where all are zero. Raises
    ValueError for more than 20 differences.
    """
    d_S = np.round(np.asarray(difference_S, dtype=np.float64), DIGITS)
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


def mean_interval(value_SR: Doubles) -> Interval:
    """Mean over sets and seeds, with Student's t interval of the sets' means."""
    mean_S = value_SR.mean(1)
    S, mean = len(mean_S), float(mean_S.mean())
    if S < LEAST_SETS:
        return mean, math.nan, math.nan
    reach = float(stdtrit(S - 1, 0.975) * mean_S.std(ddof=1) / np.sqrt(S))
    return mean, mean - reach, mean + reach


def set_ranks(value_SRV: Doubles) -> Doubles:
    """Each variant's rank on each set (S, V), 1 the lowest mean over seeds; ties share theirs."""
    ranks_SV: Doubles = rankdata(np.round(value_SRV.mean(1), DIGITS), axis=-1)
    return ranks_SV


def mean_ranks(value_SRV: Doubles) -> list[Interval]:
    """Each variant's mean rank over sets, its interval cut where ranks end."""
    found, V = [], value_SRV.shape[2]
    for rank_S in set_ranks(value_SRV).T:
        mean, low, high = mean_interval(rank_S[:, None])
        found.append((mean, max(low, 1.0), min(high, float(V))))
    return found


def rank_difference(value_SRV: Doubles, a: int, b: int) -> Interval:
    """Mean rank of variant a less that of b."""
    rank_SV = set_ranks(value_SRV)
    return mean_interval(rank_SV[:, a, None] - rank_SV[:, b, None])
