"""benchmarks/study_stats.py: tests, intervals and ranks."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import study_stats


class TestSignedRank:
    def test_is_scipys(self):
        for seed in range(5):
            d = np.random.default_rng(seed).normal(0.3, 1, 12)
            expected = stats.wilcoxon(d, method="exact").pvalue
            assert study_stats.signed_rank(d) == pytest.approx(expected)

    def test_ties_and_zeros(self):
        d = [0, 0, 1, 1, -1, 2, 2, 3, -3, 5]
        ranks = np.array([4, 4, 4, 6.5, 6.5, 8.5, 8.5, 10])  # of 10, the zeros first
        ours = abs(ranks @ [1, 1, -1, 1, 1, 1, -1, 1])
        signs = np.array(list(itertools.product([1, -1], repeat=8)))
        assert study_stats.signed_rank(d) == (np.abs(signs @ ranks) >= ours - 1e-9).mean()
        assert study_stats.signed_rank(np.zeros(4)) == 1
        assert study_stats.signed_rank(np.ones(12)) == 2 / 2**12
        with pytest.raises(ValueError, match="at most 20"):
            study_stats.signed_rank(np.ones(21))

    def test_rounding_makes_no_difference_and_breaks_no_tie(self):
        """As in means of shares of a hundred: some cancel out, some are the same."""
        d = [0.1 + 0.2 - 0.3, 0.1 + 0.2, 0.3, -0.5]
        assert d[0] != 0
        assert d[1] != d[2]
        assert study_stats.signed_rank(d) == study_stats.signed_rank([0, 1, 1, -2])

    def test_is_wrong_as_often_as_it_says(self):
        d = np.random.default_rng(0).standard_normal((400, 10))
        assert 0.02 < np.mean([study_stats.signed_rank(row) < 0.05 for row in d]) < 0.08


def test_holm():
    p = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}
    expected = {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    assert study_stats.holm(p) == pytest.approx(expected)
    assert list(study_stats.holm(p)) == list(p)
    assert study_stats.holm({"a": 0.9, "b": 0.8}) == {"a": 1, "b": 1}
    assert study_stats.holm({}) == {}


class TestIntervals:
    def test_are_scipys_of_the_means_of_sets(self):
        value_SR = np.random.default_rng(0).normal(2, 1, (12, 3))
        mean, low, high = study_stats.mean_interval(value_SR)
        expected = stats.ttest_1samp(value_SR.mean(1), 0).confidence_interval(0.95)
        assert mean == pytest.approx(value_SR.mean())
        assert (low, high) == pytest.approx((expected.low, expected.high))
        assert study_stats.mean_interval(np.ones((6, 3))) == (1, 1, 1)

    def test_of_few_sets_there_is_none(self):
        mean, *ends = study_stats.mean_interval(np.array([[1.0], [2.0], [3.0], [4.0], [5.0]]))
        assert mean == 3
        assert np.isnan(ends).all()

    @pytest.mark.parametrize(
        ("draw", "mean", "least", "most"),
        [("standard_normal", 0.0, 0.94, 0.96), ("standard_exponential", 1.0, 0.89, 0.92)],
    )
    def test_hold_the_mean_as_often_as_docs_say(self, draw, mean, least, most):
        """Of 12 sets; skewed differences are held less often."""
        drawn = getattr(np.random.default_rng(0), draw)((8000, 12, 1))
        _, low, high = np.array([study_stats.mean_interval(value_SR) for value_SR in drawn]).T
        assert least < ((low <= mean) & (mean <= high)).mean() < most


class TestRanks:
    def test_means_differences_and_ends(self):
        value_SV = np.array([[1, 2, 3], [1, 3, 2], [1, 2, 2], [1, 2, 3]] * 2)
        value_SRV = np.repeat(value_SV[:, None], 3, 1)
        ranks = study_stats.mean_ranks(value_SRV)
        assert [mean for mean, *_ in ranks] == pytest.approx([1, 9.5 / 4, 10.5 / 4])
        assert ranks[0] == (1, 1, 1)
        assert ranks[1][1] < ranks[1][0] < ranks[1][2]
        assert study_stats.mean_ranks(value_SRV[:6])[2][2] == 3  # no rank is larger
        mean, low, high = study_stats.rank_difference(value_SRV, 0, 1)
        assert mean == pytest.approx(1 - 9.5 / 4)
        assert low < mean < high < 0

    def test_rounding_breaks_no_tie(self):
        value_SRV = np.array([[[0.1, 0.3], [0.2, 0.0], [0.0, 0.0]]])
        assert study_stats.set_ranks(value_SRV).tolist() == [[1.5, 1.5]]

    def test_hold_mean_ranks_about_as_often_as_they_say(self):
        """Of 18 variants on 12 sets, apart by their effects, by sets and by seeds."""
        rng, effect_V = np.random.default_rng(0), np.linspace(-0.3, 0.3, 17)

        def drawn(S):
            mean_SV = effect_V + rng.normal(0, 0.1, (S, 17))
            return mean_SV[:, None] + rng.normal(0, 0.1, (S, 3, 17))

        true_V = study_stats.set_ranks(drawn(20_000)).mean(0)
        held = []
        for _ in range(200):
            _, low_V, high_V = np.array(study_stats.mean_ranks(drawn(12))).T
            held.append((low_V <= true_V) & (true_V <= high_V))
        assert 0.91 < np.mean(held) < 0.97
