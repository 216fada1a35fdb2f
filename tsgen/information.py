"""Entropy and mutual information of what takes few values, by counting, in nats.

H = −Σ p log p + (m − 1) / 2n, with m values among n (Miller 1955: counting alone is biased downward
by about that much); I(A; B) = H(A) + H(B) − H(A, B). Counting finds information where there is
none, the more the fewer series there are, and places of one series are no independent draws: so a
shuffled baseline stands beside every I, and intervals leave out whole series.
Paninski, Estimation of entropy and mutual information, Neural Computation 15 (2003), section 4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

GROUPS = 20  # of series, each left out once by the jackknife
SHUFFLES = 20  # whose mean is the baseline


def counted_entropy(counts: npt.ArrayLike) -> float:
    """Entropy of what was counted, without correction: counts of any shape, in nats."""
    n = np.asarray(counts, dtype=np.float64).ravel()
    p = n[n > 0] / n.sum()
    return float(-(p * np.log(p)).sum())


def entropy(counts: npt.ArrayLike) -> float:
    """Miller–Madow's estimate of the entropy that the counts, of any shape, were drawn from."""
    n = np.asarray(counts)
    return counted_entropy(n) + (int(np.count_nonzero(n)) - 1) / (2 * int(n.sum()))


def mutual_information(a: Ints, b: Ints) -> float:
    """Estimate of I(A; B) in nats from pairs: a, b of one shape, whole numbers from 0 on.

    Not cut off at 0, which an estimate of no information falls below about as often as not.
    """
    pairs = a.ravel() * (int(b.max()) + 1) + b.ravel()
    h_a, h_b, h_ab = (entropy(np.unique(values, return_counts=True)[1]) for values in (a, b, pairs))
    return h_a + h_b - h_ab


def shuffled_information(a_BM: Ints, b_BM: Ints, rng: np.random.Generator) -> float:
    """Mean estimate of I(A; B) once whole rows of b have changed places: what bias is left.

    a_BM, b_BM: (series, pairs of a series). What only follows from the place in a series remains.
    """
    orders = (rng.permutation(len(b_BM)) for _ in range(SHUFFLES))
    return float(np.mean([mutual_information(a_BM, b_BM[order_B]) for order_B in orders]))


def jackknife(
    statistic: Callable[..., float], rng: np.random.Generator, *series: npt.NDArray[Any]
) -> tuple[float, float, float]:
    """A statistic's value and 95 % interval, from leaving out one of up to 20 groups in turn.

    statistic: of arrays that all have a row a series, at least 2.
    Source: Efron and Stein 1981; Student's t with one degree less than there are groups.
    """
    from scipy.special import stdtrit  # no import of tsgen waits for it

    n = len(series[0])
    order, groups = rng.permutation(n), min(GROUPS, n)
    without = [np.sort(np.delete(order, np.s_[i::groups])) for i in range(groups)]
    left_out = np.array([statistic(*(rows[index] for rows in series)) for index in without])
    reach = float(stdtrit(groups - 1, 0.975) * np.sqrt((groups - 1) * left_out.var()))
    value = statistic(*series)
    return value, value - reach, value + reach


def share_interval(n_right: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, which neither 0 nor 1 makes empty.

    Source: Brown, Cai, DasGupta, Statistical Science 16 (2001), section 3.1.
    """
    from scipy.stats import binomtest  # no import of tsgen waits for it

    interval = binomtest(n_right, n).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)
