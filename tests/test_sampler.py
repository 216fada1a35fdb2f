"""The torch engine against the float64 law, written as slow as can be in reference_sampler.py."""

import gc
import math
import weakref

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference_sampler import SHARES, reference_tokens
from tiny_models import tiny_config, tiny_model, tiny_network

from tsgen.config import SCHEDULES, SamplingConfig
from tsgen.engine_torch import TorchEngine
from tsgen.errors import RunError
from tsgen.request import Request
from tsgen.sampler import Sampler
from tsgen.schedule import masked_counts

SEED = 2**63 + 11
N_SERIES = 200
# 8 tokens in the low band, 16 in the high one
SIZES = {"length": 32, "tokenizer": {"token_width": (8, 8)}, "n_codes": (12, 20)}
ONE_TOKEN = {"length": 2, "tokenizer": {"token_width": (1, 1)}, "n_codes": (6, 6)}
FIRST_INDEX = 2**32 - 100  # the high half of the counter changes on the way
CASES = {
    **{f"schedule {name}": ({}, {"schedule": name, "guidance": 1.5}) for name in SCHEDULES},
    **{f"{n} steps": ({}, {"steps": (n, n)}) for n in (1, 2, 10)},
    **{f"temperature {t}": ({}, {"temperature": t}) for t in (0.7, 1.3, 0.0)},
    "top-k": ({}, {"top_k": 3}),
    "top-k of 1": ({}, {"top_k": 1}),
    "top-k beyond K": ({}, {"top_k": 100}),
    "top-p": ({}, {"top_p": 0.6}),
    "both, hot, guided": ({}, {"top_k": 7, "top_p": 0.8, "temperature": 1.3, "guidance": 1.5}),
    "guidance 3": ({}, {"guidance": 3.0}),
    "guidance 0": ({}, {"guidance": 0.0}),
    "no noise": ({}, {"choice_temperature": (0.0, 0.0)}),
    "much noise": ({}, {"choice_temperature": (10.0, 25.0)}),
    "unequal steps": ({}, {"steps": (7, 2)}),
    "no classes": ({"n_classes": 0}, {"guidance": 2.0}),
    "flat": ({"band_alignment": "flat"}, {"guidance": 1.5}),
    "free tables": ({"prior": {"tables": "free"}}, {"guidance": 1.5}),
    "one band": (
        {"bands": 1, "tokenizer": {"token_width": (8,)}, "n_codes": (20,)},
        {"guidance": 1.5, "steps": (5,), "choice_temperature": (4.0,)},
    ),
}


def case(name):
    """A float64 network, classes in turn (none among them) and the settings of a case."""
    sizes, settings = CASES[name]
    config = tiny_config(**SIZES | sizes)
    defaults = {"steps": (5, 5), "choice_temperature": (4.0, 1.0)}
    classes = [i % (config.n_classes + 1) for i in range(N_SERIES)]
    return tiny_network(config).double(), classes, SamplingConfig(**defaults | settings)


def request(classes, known=None, first=FIRST_INDEX, seed=SEED):
    index = np.arange(first, first + len(classes), dtype=np.int64)
    return Request(index, np.array(classes, dtype=np.int64), known=known, seed=seed)


def partly_known(network, n_rows):
    """Tokens of every band, a different number of them unknown in every row; all, and none, too."""
    rng = torch.Generator().manual_seed(5)
    known = []
    for prior in network.each_prior():
        N, K = prior.n_tokens, prior.n_codes
        ids_BN = torch.randint(0, K, (n_rows, N), generator=rng)
        rank_BN = torch.rand(n_rows, N, generator=rng).argsort(1)
        known.append(torch.where(rank_BN < torch.arange(n_rows)[:, None] % (N + 1), K, ids_BN))
    return known


def assert_same_tokens(engine_ids, reference_ids):
    for mine, wanted in zip(engine_ids, reference_ids, strict=True):
        differ = int((mine != wanted).any(1).sum())
        assert differ == 0, f"{differ} of {len(wanted)} series differ"


class TestAgainstTheReference:
    @pytest.mark.parametrize("name", CASES)
    def test_every_token_is_the_reference_s(self, name):
        network, classes, settings = case(name)
        asked = request(classes)
        mine = TorchEngine(network).tokens(asked, settings)
        wanted = reference_tokens(network, asked.index_B.tolist(), classes, settings, seed=SEED)
        assert_same_tokens(mine, wanted)
        assert len(mine[-1].unique(dim=0)) > N_SERIES // 20  # not one series over and over

    @pytest.mark.parametrize(
        "name",
        ["schedule cosine", "schedule log", "10 steps", "both, hot, guided", "flat", "one band"],
    )
    def test_known_tokens_stay_and_the_others_are_the_reference_s(self, name):
        network, classes, settings = case(name)
        known = partly_known(network, N_SERIES)
        asked = request(classes, known)
        index = asked.index_B.tolist()
        mine = TorchEngine(network).tokens(asked, settings)
        wanted = reference_tokens(network, index, classes, settings, seed=SEED, known=known)
        assert_same_tokens(mine, wanted)
        for ids_BN, known_BN, prior in zip(mine, known, network.each_prior(), strict=True):
            given_BN = known_BN != prior.n_codes
            assert torch.equal(ids_BN[given_BN], known_BN[given_BN])

    def test_float32_agrees_in_999_of_1000_series(self):
        same = total = 0
        for name in ("schedule cosine", "10 steps", "temperature 1.3", "top-p", "one band"):
            network, classes, settings = case(name)
            asked = request(classes * 3)
            exact = TorchEngine(network).tokens(asked, settings)
            single = TorchEngine(network.float()).tokens(asked, settings)
            agree_B = torch.stack([(a == b).all(1) for a, b in zip(exact, single, strict=True)])
            same, total = same + int(agree_B.all(0).sum()), total + len(asked.index_B)
        assert same >= 0.999 * total, f"{same} of {total}"

    def test_two_threads_agree_with_one_in_999_of_1000_series(self):
        config = tiny_config(length=64, n_codes=(64, 256), tokenizer={"token_width": (8, 32)})
        engine, settings = TorchEngine(tiny_network(config)), SamplingConfig((5, 5))
        threads, drawn = torch.get_num_threads(), []
        try:
            for n in (1, 2):
                torch.set_num_threads(n)
                drawn.append(torch.cat(engine.tokens(request([0, 1, 2] * 200), settings), 1))
        finally:
            torch.set_num_threads(threads)
        same = float((drawn[0] == drawn[1]).all(1).double().mean())
        assert same >= 0.999, f"{same:.2%}"


class TestLaw:
    """A model of one token, whose law can be written down."""

    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"temperature": 0.7},
            {"temperature": 1.5, "guidance": 1.5},
            {"guidance": 3.0, "steps": (3, 1)},
            {"top_k": 3},
            {"top_p": 0.7},
        ],
    )
    def test_tokens_follow_the_softmax(self, settings):
        network = tiny_network(tiny_config(**ONE_TOKEN), seed=4).double()
        prior = network.each_prior()[0]
        assert prior.n_tokens == 1
        how = SamplingConfig(**{"steps": (1, 1), "choice_temperature": (4.0, 0.0)} | settings)
        ids_B1 = TorchEngine(network).tokens(request([1] * 20_000, first=0, seed=9), how)[0]
        with torch.no_grad():
            c_K, u_K = prior(torch.full((2, 1), 6), torch.tensor([1, network.config.n_classes]))[
                :, 0
            ]
        p_K = ((u_K + how.guidance * (c_K - u_K)) / how.temperature).softmax(0)
        order_K = p_K.argsort(descending=True)
        if how.top_k:
            p_K[order_K[how.top_k :]] = 0
        if how.top_p < 1:
            p_K[order_K[p_K[order_K].cumsum(0) - p_K[order_K] >= how.top_p]] = 0
        allowed_K = p_K > 0
        counts_K = torch.bincount(ids_B1.flatten(), minlength=6).double()
        assert counts_K[~allowed_K].sum() == 0
        expected_K = p_K[allowed_K] / p_K.sum() * 20_000
        assert scipy.stats.chisquare(counts_K[allowed_K], expected_K).pvalue > 1e-3

    def test_samples_and_seeds_are_independent(self):
        network = tiny_network(tiny_config(**ONE_TOKEN), seed=4)
        engine, how = TorchEngine(network), SamplingConfig((1, 1))
        one, other = (
            engine.tokens(request([3] * 5000, first=0, seed=seed), how)[0].flatten()
            for seed in (1, 2)
        )
        for a, b in ((one, other), (one[:-1], one[1:])):
            table = torch.bincount(a * 6 + b, minlength=36).view(6, 6)
            table = table[table.sum(1) > 0][:, table.sum(0) > 0]
            assert scipy.stats.chi2_contingency(table.numpy()).pvalue > 1e-3


class TestMaskedCounts:
    @given(st.sampled_from(SCHEDULES), st.integers(1, 200), st.integers(0, 5000))
    def test_fall_to_zero_and_never_rise(self, schedule, steps, n_unknown):
        counts = masked_counts(schedule, steps, n_unknown)
        assert len(counts) == steps
        assert counts[-1] == 0
        assert all(type(count) is int for count in counts)
        assert all(a >= b for a, b in zip([n_unknown, *counts], counts, strict=False))

    @given(st.sampled_from(SCHEDULES), st.integers(1, 60), st.integers(1, 3000))
    def test_are_the_floor_of_the_share(self, schedule, steps, n_unknown):
        shares = [SHARES[schedule]((t + 1) / steps, n_unknown) for t in range(steps - 1)]
        wanted = [math.floor(n_unknown * share) for share in shares]
        assert masked_counts(schedule, steps, n_unknown) == [*wanted, 0]

    def test_of_maskgit_are_the_known_ones(self):
        # Chang et al. 2022: 256 tokens in 8 steps of the cosine schedule
        assert masked_counts("cosine", 8, 256) == [251, 236, 212, 181, 142, 97, 49, 0]
        assert masked_counts("linear", 4, 8) == [6, 4, 2, 0]
        assert masked_counts("square", 4, 16) == [15, 12, 7, 0]
        assert masked_counts("cubic", 2, 8) == [7, 0]
        assert masked_counts("sqrt", 4, 8) == [4, 2, 1, 0]
        assert masked_counts("log", 4, 16) == [8, 4, 1, 0]
        assert masked_counts("exp", 4, 16) == [14, 12, 8, 0]

    def test_more_steps_than_tokens(self):
        assert masked_counts("cosine", 10, 1) == [0] * 10
        assert masked_counts("cosine", 1, 7) == [0]


class TestDamagedWeights:
    @pytest.mark.parametrize("value", [math.nan, math.inf])
    @pytest.mark.parametrize("name", ["priors.0.head_in.bias", "priors.1.places.weight"])
    def test_are_an_error_and_no_series(self, name, value):
        network = tiny_network(tiny_config(**SIZES))
        with torch.no_grad():
            network.get_parameter(name).fill_(value)
        with pytest.raises(RunError, match="model: wanted finite"):
            list(Sampler(network).draw(request([0, 1]), SamplingConfig((5, 5))))

    def test_of_the_decoder_are_an_error_too(self):
        model = tiny_model()
        ids = model.encode(model.generate(2))
        with torch.no_grad():
            model.network.tokenizer.each()[0].codebook.project_out.bias.fill_(math.nan)
        for draw in (lambda: model.generate(2), lambda: model.decode(ids)):
            with pytest.raises(RunError, match="model: wanted finite"):
                draw()


@pytest.mark.parametrize("engine", ["torch", "cpu"])
def test_a_network_that_nobody_holds_is_gone(engine):
    network = tiny_network()
    sampler = Sampler(network, engine=engine)
    list(sampler.draw(request([0, 1]), SamplingConfig((2, 2))))
    gone = weakref.ref(network)
    del network, sampler
    gc.collect()
    assert gone() is None


def test_a_weight_put_in_the_place_of_another_is_seen():
    network = tiny_network()
    before = Sampler(network).engine
    assert Sampler(network).engine is before
    layer = network.priors[0].head_in
    layer.weight = torch.nn.Parameter(layer.weight.detach().clone())
    assert Sampler(network).engine is not before
