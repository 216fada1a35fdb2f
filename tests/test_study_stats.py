"""benchmarks/study_stats.py: tests, intervals and ranks."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import study_stats


class TestStatistics:
    def test_signed_rank_is_scipys(self):
        for seed in range(5):
            d = np.random.default_rng(seed).normal(0.3, 1, 12)
            expected = stats.wilcoxon(d, method="exact").pvalue
            assert study_stats.signed_rank(d) == pytest.approx(expected)

    def test_signed_rank_with_ties_and_zeros(self):
        d = [0, 0, 1, 1, -1, 2, 2, 3, -3, 5]
        ranks = np.array([4, 4, 4, 6.5, 6.5, 8.5, 8.5, 10])  # of 10, the zeros first
        ours = abs(ranks @ [1, 1, -1, 1, 1, 1, -1, 1])
        signs = np.array(list(itertools.product([1, -1], repeat=8)))
        assert study_stats.signed_rank(d) == (np.abs(signs @ ranks) >= ours - 1e-9).mean()
        assert study_stats.signed_rank(np.zeros(4)) == 1
        assert study_stats.signed_rank(np.ones(12)) == 2 / 2**12
        with pytest.raises(ValueError, match="at most 20"):
            study_stats.signed_rank(np.ones(21))

    def test_signed_rank_is_wrong_as_often_as_it_says(self):
        d = np.random.default_rng(0).standard_normal((400, 10))
        assert 0.02 < np.mean([study_stats.signed_rank(row) < 0.05 for row in d]) < 0.08

    def test_holm(self):
        p = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}
        expected = {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
        assert study_stats.holm(p) == pytest.approx(expected)
        assert list(study_stats.holm(p)) == list(p)
        assert study_stats.holm({"a": 0.9, "b": 0.8}) == {"a": 1, "b": 1}
        assert study_stats.holm({}) == {}

    def test_mean_interval(self):
        value_SR = np.arange(12.0)[:, None] + np.zeros((12, 3))
        mean, low, high = study_stats.mean_interval(value_SR)
        reach = 1.96 * value_SR[:, 0].std() / np.sqrt(12)
        assert mean == 5.5
        assert (low, high) == pytest.approx((5.5 - reach, 5.5 + reach), abs=0.2)
        assert study_stats.mean_interval(np.ones((4, 3))) == (1, 1, 1)

    def test_seeds_widen_it(self):
        value_SR = np.resize([-1.0, 0.0, 1.0], (8, 3))
        mean, low, high = study_stats.mean_interval(value_SR)
        assert mean == 0
        assert high == pytest.approx(1.96 * np.sqrt(2 / 3 / 24), abs=0.06)
        assert low == pytest.approx(-high, abs=0.06)

    def test_mean_ranks(self):
        value_SV = np.array([[1, 2, 3], [1, 3, 2], [1, 2, 2], [1, 2, 3]])
        value_SRV = np.repeat(value_SV[:, None], 3, 1)
        ranks = study_stats.mean_ranks(value_SRV)
        assert [mean for mean, *_ in ranks] == pytest.approx([1, 9.5 / 4, 10.5 / 4])
        assert ranks[0] == (1, 1, 1)
        assert ranks[1][1] < ranks[1][0] < ranks[1][2]
        mean, low, high = study_stats.rank_difference(value_SRV, 0, 1)
        assert mean == pytest.approx(1 - 9.5 / 4)
        assert low < mean < high < 0
