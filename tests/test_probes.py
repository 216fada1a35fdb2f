"""Probes against formulas, scikit-learn, and models whose latents are known to tell or not to."""

import dataclasses
import json
import math
import sys

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as sklearn_metrics
from tiny_models import tiny_model

import tsgen
from tsgen import formats, probes, synthetic
from tsgen.cli import main
from tsgen.errors import ArgumentError, ArgumentTypeError
from tsgen.information import (
    counted_entropy,
    entropy,
    jackknife,
    mutual_information,
    share_interval,
    shuffled_information,
)

L = 32
KINDS = ("latents", "codes", "tokens")
CLASSIFIERS = ("knn", "linear", "svm")


def rng(seed=0):
    return np.random.default_rng(seed)


class TestInformation:
    def test_entropy(self):
        assert counted_entropy([[2, 0], [0, 2]]) == pytest.approx(math.log(2))
        assert entropy([2, 2, 0]) == pytest.approx(math.log(2) + 1 / 8)
        assert entropy([5]) == 0

    def test_is_the_counted_information_less_its_bias(self):
        a, b = rng().integers(0, 7, 200), rng(1).integers(0, 5, 200)
        n_cells = len(set(zip(a.tolist(), b.tolist(), strict=True)))
        bias = (n_cells - 7 - 5 + 1) / (2 * 200)
        counted = sklearn_metrics.mutual_info_score(a, b)
        assert mutual_information(a, b) == pytest.approx(counted - bias, abs=1e-12)
        assert mutual_information(a.reshape(20, 10), b.reshape(20, 10)) == mutual_information(a, b)
        assert mutual_information(a, b) == pytest.approx(mutual_information(b, a), abs=1e-12)

    def test_correction_takes_most_of_the_bias_away(self):
        draws = [rng(seed).integers(0, 6, (2, 150)) for seed in range(200)]  # nothing in common
        counted = np.mean([sklearn_metrics.mutual_info_score(a, b) for a, b in draws])
        corrected = np.mean([mutual_information(a, b) for a, b in draws])
        assert counted > 0.07  # 25 / 300
        assert abs(corrected) < 0.01

    def test_of_what_is_the_same(self):
        a = np.resize(np.arange(4), 400)
        assert mutual_information(a, a) == pytest.approx(math.log(4) + 3 / 800)

    def test_shuffling_leaves_what_places_tell(self):
        places_BM = np.resize(np.arange(8), (100, 8))
        by_place = shuffled_information(places_BM, places_BM, rng())
        assert by_place == pytest.approx(mutual_information(places_BM, places_BM))

    def test_shuffling_shows_the_bias_that_is_left(self):
        """Places that repeat each other count as draws: the correction is 8 times too small."""
        by_series_BM = rng().integers(0, 8, (100, 1)) + np.zeros((1, 8), int)
        baseline = shuffled_information(by_series_BM, by_series_BM, rng())
        assert baseline == pytest.approx(49 / 200 - 49 / 1600, abs=0.05)

    def test_jackknife_of_a_mean_is_its_t_interval(self):
        x = rng().standard_normal(20)
        value, low, high = jackknife(lambda part: float(part.mean()), rng(), x)
        expected = stats.t.interval(0.95, 19, x.mean(), stats.sem(x))
        assert (value, low, high) == pytest.approx((x.mean(), *expected))

    def test_jackknife_covers(self):
        inside = 0
        for seed in range(200):
            x = rng(seed).exponential(size=150)  # 20 groups of 7 or 8
            _, low, high = jackknife(lambda part: float(part.mean()), rng(seed), x)
            inside += low < 1 < high
        assert 0.88 < inside / 200 < 0.99

    def test_jackknife_leaves_out_whole_series(self):
        seen = []
        a, b = np.arange(50), np.arange(50) * 2
        jackknife(lambda x, y: seen.append((x, y)) or 0.0, rng(), a, b)
        left_out = [set(a.tolist()) - set(x.tolist()) for x, _ in seen[:-1]]
        assert set.union(*left_out) == set(a.tolist())
        assert sum(map(len, left_out)) == 50
        assert all((y == 2 * x).all() for x, y in seen)

    def test_share_interval(self):
        assert share_interval(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
        low, high = share_interval(10, 10)
        assert high == pytest.approx(1)
        assert 0.7 < low < 0.73


def steps(n, seed, share=1.0):
    """Two classes, slow or fast waves in noise; `share` of the labels are right."""
    y = np.arange(n) % 2
    t = np.arange(L) / L
    phase = rng(seed).uniform(0, 2 * np.pi, (n, 1))
    x = 12 * np.sin(2 * np.pi * (1 + 5 * y[:, None]) * t + phase) + 20
    x = x + 0.5 * rng(seed + 1).standard_normal(x.shape)
    named = np.where(rng(seed + 2).random(n) < share, y, 1 - y)
    return x[:, None].astype(np.float32), named


@pytest.fixture(scope="module")
def model():
    return tiny_model(length=L, tokenizer={"hidden_dim": 16})


@pytest.fixture(scope="module")
def found(model):
    return probes.probe(model, *steps(60, 1), *steps(101, 10))


def test_names(found):
    names = {f"{name}_{kind}" for name in CLASSIFIERS for kind in KINDS}
    for band, lags in enumerate([(1, 2), (1, 2, 4)]):  # 4 and 8 columns
        names |= {f"{name}_{band}" for name in ("entropy", "perplexity", "usage")}
        names |= {f"label_information_{band}"}
        names |= {f"lag_{lag}_information_{band}" for lag in lags}
    assert set(found) == names
    assert all(it.n == 101 and it.low <= it.value <= it.high for it in found.values())
    assert {type(it.value) for it in found.values()} == {float}


def test_representations(model):
    x = steps(70, 1)[0]  # more than one chunk
    means, ids = probes.represent(model, x)
    np.testing.assert_array_equal(np.concatenate(ids, 1), model.encode(x))
    assert {kind: z.shape for kind, z in means.items()} == {
        "latents": (70, 32),
        "codes": (70, 32),
        "tokens": (70, 12 + 40),
    }
    share = np.bincount(ids[1][5], minlength=40) / ids[1].shape[1]
    np.testing.assert_allclose(means["tokens"][5, 12:], share, atol=1e-6)
    assert (np.linalg.norm(means["latents"][:, :16], axis=1) <= 1 + 1e-6).all()


def test_what_is_there_is_found(found):
    for kind in ("latents", "codes"):
        for name in CLASSIFIERS:
            assert found[f"{name}_{kind}"].value > 0.9, (name, kind)
            assert found[f"{name}_{kind}"].baseline == pytest.approx(51 / 101)
    told = found["label_information_1"]
    assert told.low > told.baseline
    assert told.value < math.log(2) + 0.05


def test_what_is_not_there_is_not_found(model):
    found = probes.probe(model, *steps(60, 1, share=0.5), *steps(200, 10, share=0.5))
    for kind in KINDS:
        for name in CLASSIFIERS:
            assert abs(found[f"{name}_{kind}"].value - 0.5) < 0.15, (name, kind)
    for band in range(2):
        told = found[f"label_information_{band}"]
        assert told.low < told.baseline < told.high


def test_classifiers_learn_from_train_and_are_judged_by_test(model):
    (x_train, y_train), (x_test, y_test) = steps(60, 1), steps(101, 10)
    right = probes.probe(model, x_train, y_train, x_test, y_test)
    turned = probes.probe(model, x_train, 1 - y_train, x_test, y_test)
    for kind in ("latents", "codes"):
        for name in CLASSIFIERS:
            n_right = round(101 * right[f"{name}_{kind}"].value)
            assert turned[f"{name}_{kind}"].value == pytest.approx((101 - n_right) / 101)
    for name, it in right.items():  # what tokens tell does not depend on the training part
        if name[-1] in "01":
            assert it == turned[name]


def test_of_a_trained_model():
    train, test = (synthetic.cbf(60, seed=seed) for seed in (1, 2))
    found = probes.probe(tsgen.load("cbf"), *train, *test)
    assert found["linear_latents"].low > 0.6 > found["linear_latents"].baseline
    told = found["label_information_0"]  # 60 series are too few for 1,024 codes, and it shows
    assert told.value > 0.8
    assert told.low < told.baseline < told.high


def test_use_of_codes(found, model):
    _, ids = probes.represent(model, steps(101, 10)[0])
    for band, n_codes in enumerate((12, 40)):
        share = np.bincount(ids[band].ravel(), minlength=n_codes) / ids[band].size
        assert found[f"entropy_{band}"].value == pytest.approx(stats.entropy(share))
        assert found[f"perplexity_{band}"].value == pytest.approx(np.exp(stats.entropy(share)))
        assert found[f"usage_{band}"].value == (share > 0).mean()
        assert found[f"usage_{band}"].high <= 1
        assert found[f"usage_{band}"].baseline is None


def test_seed(found, model):
    again = probes.probe(model, *steps(60, 1), *steps(101, 10))
    other = probes.probe(model, *steps(60, 1), *steps(101, 10), seed=1)
    assert again == found
    assert {name: it.value for name, it in other.items()} == {
        name: it.value for name, it in found.items()
    }
    assert other["label_information_0"] != found["label_information_0"]


def test_no_global_random_state(model):
    before = str(np.random.get_state())  # noqa: NPY002
    probes.probe(model, *steps(20, 1), *steps(20, 10))
    assert str(np.random.get_state()) == before  # noqa: NPY002


def test_one_band_and_other_labels():
    model = tiny_model(length=L, bands=1)
    x, y = steps(20, 1)
    names = np.where(y == 0, "slow", "fast")
    found = tsgen.probe(model, x, names, x[:9], names[:9])
    assert not any(name.endswith("_1") for name in found)
    assert found["linear_latents"].n == 9


def test_vae():
    x, y = steps(20, 1)
    model = tsgen.fit(x, y, family="vae", steps=1, batch_size=8, device="cpu", progress=False)
    assert set(tsgen.probe(model, x, y, x[:9], y[:9])) == {
        f"{name}_latents" for name in CLASSIFIERS
    }
    mean_BD = model.network.vae.encode(torch.from_numpy(model.scaler.apply(x))).mean_BD
    np.testing.assert_array_equal(probes.represent(model, x)[0]["latents"], mean_BD.detach())


@pytest.mark.parametrize("codebook", ["fsq", "residual"])
def test_other_quantisers(codebook):
    how = {"codebook": codebook, "n_quantisers": 3}
    if codebook == "fsq":
        how |= {"levels": (4, 3, 3, 3)}
    model = tiny_model(length=L, tokenizer=how, n_codes=(108, 108))
    x, y = steps(20, 1)
    means, ids = probes.represent(model, x)
    np.testing.assert_array_equal(np.concatenate(ids, 1), model.encode(x))
    assert means["tokens"].shape == (20, 216)
    np.testing.assert_allclose(means["tokens"].sum(1), 2, rtol=1e-6)
    found = tsgen.probe(model, x, y, x[:9], y[:9])
    lags = {key[4] + key[-1] for key in found if key.startswith("lag")}
    assert lags == {"10", "20", "11", "21", "41"}  # of columns, not of depths


X, Y = steps(20, 1)
CASES = {
    "another shape": ((X[..., :-1], Y, X[..., :-1], Y), "x"),
    "test of another shape": ((X, Y, X[..., :-1], Y), "x_test"),
    "labels missing": ((X, Y[:-1], X, Y), "y_train"),
    "one class": ((X, np.zeros(20, int), X, Y), "y_train"),
    "one series": ((X, Y, X[:1], Y[:1]), "x_test"),
    "NaN": ((X, Y, X * np.nan, Y), "x_test"),
}


@pytest.mark.parametrize("case", CASES)
def test_refused(model, case):
    arguments, name = CASES[case]
    with pytest.raises(ArgumentError, match=f"^{name}: wanted "):
        probes.probe(model, *arguments)


def test_seed_refused(model):
    with pytest.raises(ArgumentTypeError, match="seed"):
        probes.probe(model, X, Y, X, Y, seed=0.5)


def test_without_sklearn(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ArgumentError, match=r"pip install \"tsgen\[eval\]\""):
        probes.probe(model, X, Y, X, Y)


def test_command(model, tmp_path, capsys):
    model.save(tmp_path / "model")
    (tmp_path / "data").mkdir()
    for part, seed in (("TRAIN", 1), ("TEST", 10)):
        formats.write(tmp_path / "data" / f"D_{part}.ts", *steps(30, seed))
    line = ["probe", str(tmp_path / "model"), str(tmp_path / "data"), "--seed", "3"]
    expected = probes.probe(model, *steps(30, 1), *steps(30, 10), seed=3)
    assert main([*line, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        name: dataclasses.asdict(it) for name, it in expected.items()
    }
    assert main(line) == 0
    assert capsys.readouterr().out == probes.report(expected) + "\n"
    formats.write(tmp_path / "data" / "D_TEST.ts", steps(30, 10)[0])
    assert main(line) == 2
    assert "DATA: wanted series with labels" in capsys.readouterr().err
