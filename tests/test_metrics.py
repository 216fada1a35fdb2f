"""Metrics against independent formulas, and against real and corrupted data."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from tsgen import metrics
from tsgen.errors import ArgumentError, ArgumentTypeError
from tsgen.rocket import RocketFeatures, ridge_predict

UCR = Path(__file__).parents[1].parent / "shared" / "data" / "ucr"


def load(name):
    """x_train, y_train, x_test, y_test of a UCR set, (n, 1, time) and (n,)."""
    parts = []
    for part in ("TRAIN", "TEST"):
        path = UCR / name / f"{name}_{part}.tsv"
        zipped = path.with_name(path.name + ".gz")
        if not path.exists() and not zipped.exists():
            pytest.skip(f"real data not found: {path}")
        raw = gzip.decompress(zipped.read_bytes()) if zipped.exists() else path.read_bytes()
        table = np.loadtxt(raw.decode().splitlines(), delimiter="\t")
        parts += [table[:, None, 1:].astype(np.float32), table[:, 0].astype(int)]
    return parts


def sines(n, seed, n_channels=1, length=64):
    """Two classes of noisy sines, and their labels."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    t = np.arange(length) / length
    phase = rng.uniform(0, 2 * np.pi, size=(n, n_channels, 1))
    x = np.sin(2 * np.pi * (3 + 4 * y[:, None, None]) * t + phase)
    return x + 0.1 * rng.standard_normal(x.shape), y


def naive_features(x_CL, features):
    """ROCKET features of one series by plain loops, from the kernels of `features`."""
    n_channels, length = x_CL.shape
    z = np.empty(2 * features.n_kernels)
    for block in features._blocks:
        for first, end, margin in block.runs:
            for k in range(first, end):
                weight_CJ = block.weight_KJ[k].reshape(n_channels, -1)
                half = weight_CJ.shape[1] // 2
                out = np.full(length, -block.threshold_K[k])
                for t in range(length):
                    for j in range(weight_CJ.shape[1]):
                        s = t + (j - half) * block.dilation
                        if 0 <= s < length:
                            out[t] += weight_CJ[:, j] @ x_CL[:, s]
                out = out[margin : length - margin]
                z[block.ids_K[k]] = out.max()
                z[features.n_kernels + block.ids_K[k]] = (out > 0).mean()
    return z


@pytest.mark.parametrize(
    ("n_channels", "length"), [(1, 2), (1, 3), (2, 5), (1, 8), (1, 11), (3, 30), (12, 67)]
)
def test_features_match_plain_loops(n_channels, length):
    x = np.random.default_rng(0).standard_normal((3, n_channels, length)).astype(np.float32)
    features = RocketFeatures(n_channels, length, n_kernels=40, seed=3)
    z = features(x)
    assert z.shape == (3, 80)
    for i in range(3):
        np.testing.assert_allclose(z[i], naive_features(x[i], features), rtol=1e-12, atol=1e-12)


def test_kernels_follow_the_paper():
    features = RocketFeatures(4, 128, n_kernels=4000, seed=0)
    taps, dilations, used, padded, weights = [], [], [], [], []
    for block in features._blocks:
        w = block.weight_KJ.reshape(len(block.ids_K), 4, 11)
        n_taps = (w != 0).any(1).sum(-1)
        margins = np.concatenate([[m] * (end - first) for first, end, m in block.runs])
        span = (n_taps - 1) * block.dilation
        assert ((margins == 0) | (margins == span // 2)).all()
        assert (span < 128).all()
        np.testing.assert_allclose(w.sum(-1), 0, atol=1e-12)
        taps += n_taps.tolist()
        dilations += [block.dilation] * len(w)
        used += (w != 0).any(-1).sum(-1).tolist()
        padded += (margins == 0).tolist()
        weights.append(w[(w != 0).all(-1)].ravel())
        bias = -block.threshold_K
        assert (np.abs(bias) <= 1).all()
    assert set(taps) == {7, 9, 11}
    np.testing.assert_allclose([taps.count(7) / 4000, np.mean(padded)], [1 / 3, 1 / 2], atol=0.03)
    assert set(used) == {1, 2, 3, 4}
    # log2 of the dilation is uniform up to log2(127 / (taps - 1))
    small = np.mean([d == 1 for d in dilations])
    assert small == pytest.approx(
        np.mean([1 / np.log2(127 / (j - 1)) for j in (7, 9, 11)]), abs=0.03
    )
    assert np.concatenate(weights).var() == pytest.approx(10 / 11, abs=0.03)


def test_features_depend_on_the_seed_alone():
    x, _ = sines(50, 0, n_channels=2)
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    z = RocketFeatures(2, 64, 100, seed=5)(x)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(RocketFeatures(2, 64, 100, seed=5)(x), z)
    assert not np.allclose(RocketFeatures(2, 64, 100, seed=6)(x), z)
    for chunk_size in (1, 7, 50, 1000):
        chunked = RocketFeatures(2, 64, 100, seed=5)(x, chunk_size=chunk_size)
        np.testing.assert_allclose(chunked, z, rtol=0, atol=1e-9)


def test_reference_removes_units():
    x, _ = sines(20, 0, n_channels=2)
    unit = np.array([[1e6], [1e-3]])
    plain = RocketFeatures(2, 64, 50, reference=x)(x)
    scaled = RocketFeatures(2, 64, 50, reference=x * unit + unit)(x * unit + unit)
    np.testing.assert_allclose(scaled, plain, atol=0.05)
    assert np.isfinite(RocketFeatures(1, 64, 50, reference=np.ones((3, 64)))(x[:, :1])).all()


@pytest.mark.parametrize(("n", "m", "width"), [(200, 300, 7), (7, 300, 12), (5, 6, 12), (40, 9, 9)])
def test_frechet_distance_matches_sqrtm(n, m, width):
    rng = np.random.default_rng(n)
    mix = rng.standard_normal((width, width))
    a = rng.standard_normal((n, width)) @ mix
    b = rng.standard_normal((m, width)) * 2 + 0.5
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    root = np.real(np.trace(sqrtm(cov_a @ cov_b + 0j)))
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b) - 2 * root
    full_rank = min(n, m) > width
    assert metrics.frechet_distance(a, b) == pytest.approx(
        expected, rel=1e-9 if full_rank else 1e-4
    )
    assert metrics.frechet_distance(b, a) == pytest.approx(metrics.frechet_distance(a, b))


def test_frechet_distance_of_known_gaussians():
    # exact sample moments: mean 0 and covariance 1, then scaled and shifted
    z = np.random.default_rng(0).standard_normal((50, 6))
    z = np.linalg.qr(z - z.mean(0))[0] * np.sqrt(49)
    scale, shift = np.arange(1.0, 7.0), np.linspace(-1, 1, 6)
    expected = (shift**2).sum() + ((scale - 1) ** 2).sum()
    assert metrics.frechet_distance(z, z * scale + shift) == pytest.approx(expected, rel=1e-10)
    assert metrics.frechet_distance(z, z) == pytest.approx(0, abs=1e-10)
    # two rank-1 covariances at a right angle have nothing in common
    e = np.array([[1.0, 0.0], [-1.0, 0.0]])
    assert metrics.frechet_distance(e, e[:, ::-1]) == pytest.approx(4.0)


def test_fid_is_zero_for_the_same_and_ignores_order():
    x, _ = sines(60, 0)
    other, _ = sines(40, 1)
    assert metrics.fid(x, x) == pytest.approx(0, abs=1e-9)
    value = metrics.fid(x, other)
    shuffled = np.random.default_rng(0).permutation(other)
    assert metrics.fid(x[::-1], shuffled) == pytest.approx(value, rel=1e-9)
    assert metrics.fid(x, other) == value
    assert metrics.fid(x, other, seed=1) != value
    collapsed = np.repeat(x[:1], 60, axis=0)
    assert metrics.fid(x, collapsed) > 1  # all variance, which is 1, and the mean's distance


@pytest.mark.parametrize("name", ["GunPoint", "SyntheticControl"])
def test_fid_rises_with_corruption(name):
    _, _, x, y = load(name)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(x))
    x, y = x[order], y[order]
    half = len(x) // 2
    noise = rng.standard_normal(x[half:].shape)
    ladder = [metrics.fid(x[:half], x[half:] + sd * noise) for sd in (0, 0.1, 0.3, 1.0)]
    assert (np.diff(ladder) > 0).all(), ladder
    kept = x[half:][y[half:] != 1]  # one mode dropped, the rest drawn again to equal n
    dropped = np.concatenate([kept, kept])[: len(x) - half]
    repeated = np.concatenate([x[half:][::2], x[half:][::2]])[: len(x) - half]
    assert metrics.fid(x[:half], dropped) > 1.2 * ladder[0]
    assert metrics.fid(x[:half], dropped) > metrics.fid(x[:half], repeated)
    reverse = metrics.fid(x[:half], x[half:, :, ::-1])
    assert name != "GunPoint" or reverse > ladder[0]


def test_evaluate_fid_compares_equal_numbers():
    train, _ = sines(40, 0)
    test, _ = sines(60, 1)
    generated, _ = sines(200, 2)
    score = metrics.evaluate_fid(generated, x_train=train, x_test=test, n_kernels=100)
    assert (score.n_real, score.n_generated, score.name) == (60, 40, "fid")
    assert score.value == pytest.approx(score.floor, rel=0.35)  # same law: value is the floor
    features = RocketFeatures(1, 64, 100, reference=train)
    assert metrics.fid(test, train, features=features) == pytest.approx(score.floor, rel=1e-9)
    copied = metrics.evaluate_fid(train, x_train=train, x_test=test, n_kernels=100)
    assert copied.value == copied.floor == pytest.approx(score.floor, rel=1e-9)


@pytest.mark.parametrize(("n", "width"), [(60, 200), (300, 50), (100, 100)])
def test_ridge_matches_sklearn(n, width):
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(width)
    centres = rng.standard_normal((3, width)) / 4
    y = rng.integers(3, size=n + 500)
    z = centres[y] + rng.standard_normal((n + 500, width))
    oracle = linear_model.RidgeClassifierCV(alphas=np.logspace(-3, 3, 10))
    mean, std = z[:n].mean(0), z[:n].std(0)
    oracle.fit((z[:n] - mean) / std, y[:n])
    names = y.astype(str)
    predicted = ridge_predict(z[:n], names[:n], z[n:])
    np.testing.assert_array_equal(predicted, oracle.predict((z[n:] - mean) / std).astype(str))


def test_ridge_matches_sklearn_on_gunpoint():
    linear_model = pytest.importorskip("sklearn.linear_model")
    x_train, y_train, x_test, y_test = load("GunPoint")
    features = RocketFeatures(1, x_train.shape[2], 500)
    train, test = features(x_train), features(x_test)
    mean, std = train.mean(0), train.std(0)
    std[std == 0] = 1
    oracle = linear_model.RidgeClassifierCV(alphas=np.logspace(-3, 3, 10))
    oracle.fit((train - mean) / std, y_train)
    expected = oracle.score((test - mean) / std, y_test)
    got = metrics.ridge_accuracy(x_train, y_train, x_test, y_test, features=features)
    assert got == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    ("name", "least"), [("GunPoint", 0.97), ("CBF", 0.97), ("SyntheticControl", 0.97)]
)
def test_trtr_on_real_data(name, least):
    assert metrics.trtr(*load(name)) >= least


def test_tstr_needs_labels_that_mean_something():
    x, y = sines(60, 0)
    x_test, y_test = sines(100, 1)
    features = RocketFeatures(1, 64, 200)
    assert metrics.tstr(x, y, x_test, y_test, features=features) >= 0.99
    shuffled = np.random.default_rng(0).permutation(y)
    assert metrics.tstr(x, shuffled, x_test, y_test, features=features) < 0.8
    # a test class that was never trained counts as wrong; 1, 1.0 and "1" are one class
    renamed = (2 * y_test).astype(str)
    half = metrics.tstr(x, y.astype(float), x_test, renamed, features=features)
    assert half == pytest.approx(0.5)
    zeros = np.zeros(60, int)
    assert metrics.tstr(x, zeros, x_test, y_test, features=features) == pytest.approx(0.5)


def test_evaluate_agrees_with_its_parts():
    x, y = sines(30, 0)
    x_test, y_test = sines(50, 1)
    generated, y_generated = sines(64, 2)
    scores = metrics.evaluate(generated, y_generated, x, y, x_test, y_test, n_kernels=80, seed=4)
    options = {"n_kernels": 80, "seed": 4}
    tstr = metrics.evaluate_tstr(generated, y_generated, x, y, x_test, y_test, **options)
    fid = metrics.evaluate_fid(generated, x_train=x, x_test=x_test, **options)
    assert scores == {"fid": fid, "tstr": tstr}
    features = RocketFeatures(1, 64, 80, seed=4, reference=x)
    assert tstr.floor == metrics.trtr(x, y, x_test, y_test, features=features)
    assert "real data" in str(fid)
    assert "n_generated 30" in str(fid)
    assert "n_generated 64" in str(tstr)


def test_errors_name_the_argument():
    x, y = sines(10, 0)
    nan = x.copy()
    nan[0, 0, 0] = np.nan
    cases = [
        (lambda: metrics.fid(nan, x), "x_real"),
        (lambda: metrics.fid(x, x[:, :, :9]), "x_generated"),
        (lambda: metrics.fid(x, x[:1]), "x_generated"),
        (lambda: metrics.fid(x, x, features=lambda x: x), "features"),
        (lambda: metrics.fid(x, x, features=lambda x: x[:5, 0]), "features"),
        (lambda: metrics.fid(x, x, seed=-1), "seed"),
        (lambda: metrics.frechet_distance(x[:, 0], x[:, 0, :5]), "^b: "),
        (lambda: metrics.trtr(x, y[:9], x, y), "y_train"),
        (lambda: metrics.trtr(x, y, x, y + 0.5), "y_test"),
        (lambda: metrics.evaluate(x, y + 1, x, y, x, y), "y_generated"),
        (lambda: RocketFeatures(1, 1), "length"),
        (lambda: RocketFeatures(1, 64, 0), "n_kernels"),
        (lambda: RocketFeatures(2, 64)(x), "x: wanted"),
        (lambda: RocketFeatures(1, 64)(x, chunk_size=0), "chunk_size"),
    ]
    for call, name in cases:
        with pytest.raises(ArgumentError, match=name):
            call()
    with pytest.raises(ArgumentTypeError, match="x_generated"):
        metrics.fid(x, x.astype(complex))
    with pytest.raises(ArgumentTypeError, match="n_kernels"):
        RocketFeatures(1, 64, 10.0)
