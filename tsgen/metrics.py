"""How good generated series are, beside what real series score in their place.

FID = |μ_r − μ_g|² + tr(S_r + S_g − 2 (S_r S_g)^½), Heusel et al. 2017 (arXiv 1706.08500), eq. 6;
TSTR: train on synthetic, test on real, Esteban et al. 2017 (arXiv 1706.02633), section 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tsgen.data import as_series
from tsgen.errors import TsgenError, bad_value
from tsgen.labels import Labels
from tsgen.rocket import (
    Doubles,
    Floats,
    RocketFeatures,
    Strings,
    ridge_predict,
    standardisation,
)

FeatureMap = Callable[[Floats], npt.ArrayLike]


@dataclass(frozen=True)
class Score:
    """A metric's value for generated series beside its floor, the same for real series.

    value: of the generated series. floor: of the real training series in their place.
    n_real: real test series. n_generated: generated series that entered the value.
    seed: of the features and of the subsample. name: of the metric.
    """

    value: float
    floor: float
    n_real: int
    n_generated: int
    seed: int
    name: str

    def __str__(self) -> str:
        return (
            f"{self.name} {self.value:.4g} (real data: {self.floor:.4g}; "
            f"n_real {self.n_real}, n_generated {self.n_generated}, seed {self.seed})"
        )


def frechet_distance(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Return the Fréchet distance between the Gaussians fitted to two sets of features.

    a, b: (n, D) and (m, D) real features, n and m >= 2; covariances divide by n − 1.
    With centred factors A, B (S = AᵀA), tr (S_a S_b)^½ is the nuclear norm of A Bᵀ: exact for
    covariances of any rank, and no matrix square root is taken.
    Raises ArgumentError for unusable features. Source: Dowson and Landau 1982.
    """
    a_BD, b_BD = _check_features("a", a), _check_features("b", b)
    if a_BD.shape[1] != b_BD.shape[1]:
        raise bad_value("b", f"{a_BD.shape[1]} features as in a", f"{b_BD.shape[1]}")
    shift = a_BD.mean(0) - b_BD.mean(0)
    factors = [(z_BD - z_BD.mean(0)) / np.sqrt(len(z_BD) - 1) for z_BD in (a_BD, b_BD)]
    total = float(shift @ shift) + sum(float((factor_BD**2).sum()) for factor_BD in factors)
    if min(len(a_BD), len(b_BD)) > a_BD.shape[1]:  # smaller factors of the same covariances
        factors = [np.linalg.qr(factor_BD, mode="r") for factor_BD in factors]
    cross = float(np.linalg.svd(factors[0] @ factors[1].T, compute_uv=False).sum())
    return max(0.0, total - 2.0 * cross)


def fid(
    x_real: object,
    x_generated: object,
    *,
    features: FeatureMap | None = None,
    seed: int = 0,
) -> float:
    """Return the Fréchet distance of generated from real series in a feature space.

    x_real, x_generated: (n, channels, time) or (n, time), real numbers; n may differ, but the
        value falls as n grows: compare only at equal n (`evaluate_fid` does) and features.
    features: maps (n, channels, time) float32 to (n, D); default RocketFeatures of 1,000
        kernels scaled to x_real.
    seed: of the default features.
    Features are standardised with the statistics of x_real and divided by √D: the total variance
    of x_real is 1, whatever D. So the distance is not symmetric.
    Raises ArgumentError or ArgumentTypeError. Source: Heusel et al. 2017.
    """
    x = check_series(real=x_real, generated=x_generated)
    z = _extract(x, features, 1000, seed)
    return _feature_fid(z["real"], z["generated"])


def evaluate_fid(
    x_generated: object,
    *,
    x_train: object,
    x_test: object,
    features: FeatureMap | None = None,
    n_kernels: int = 1000,
    seed: int = 0,
) -> Score:
    """Return FID(test, generated), with FID(test, train) as its floor.

    x_generated, x_train, x_test: (n, channels, time) or (n, time), real numbers. Generated and
        train are subsampled (by seed) to the smaller n of the two: FID is biased in n.
    features: as in `fid`; default RocketFeatures of n_kernels, scaled to x_train.
    n_kernels, seed: of the default features; seed also of the subsample.
    Raises ArgumentError or ArgumentTypeError. Source: Heusel et al. 2017.
    """
    x = check_series(train=x_train, test=x_test, generated=x_generated)
    return _fid_score(_extract(x, features, n_kernels, seed), seed)


def ridge_accuracy(
    x_train: object,
    y_train: object,
    x_test: object,
    y_test: object,
    *,
    features: FeatureMap | None = None,
    seed: int = 0,
) -> float:
    """Return the test accuracy of a ridge classifier on features of series.

    x_train, x_test: (n, channels, time) or (n, time), real numbers.
    y_train, y_test: (n,) ints or strings. A test class without training series counts as wrong.
    features: as in `fid`; default RocketFeatures of 1,000 kernels, scaled to x_train.
    seed: of the default features.
    One-vs-rest targets ±1, features standardised on train, an intercept, and the penalty among
    10 from 1e-3 to 1e3 with the least leave-one-out squared error.
    Raises ArgumentError or ArgumentTypeError. Source: Dempster et al. 2020, section 3.3.
    """
    x = check_series(train=x_train, test=x_test)
    y = check_labels(x, train=y_train, test=y_test)
    return _accuracy(_extract(x, features, 1000, seed), y, "train")


trtr = ridge_accuracy  # train on real, test on real


def tstr(
    x_generated: object,
    y_generated: object,
    x_test: object,
    y_test: object,
    *,
    features: FeatureMap | None = None,
    seed: int = 0,
) -> float:
    """Return the accuracy on real test series of a classifier trained on generated ones.

    x_generated, y_generated: the training set of `ridge_accuracy`.
    x_test, y_test, features, seed: as there. Raises ArgumentError or ArgumentTypeError.
    Source: Esteban et al. 2017, section 4; CAS of Ravuri and Vinyals 2019 (arXiv 1905.10887).
    """
    x = check_series(generated=x_generated, test=x_test)
    y = check_labels(x, generated=y_generated, test=y_test)
    return _accuracy(_extract(x, features, 1000, seed), y, "generated")


def evaluate_tstr(
    x_generated: object,
    y_generated: object,
    x_train: object,
    y_train: object,
    x_test: object,
    y_test: object,
    *,
    features: FeatureMap | None = None,
    n_kernels: int = 1000,
    seed: int = 0,
) -> Score:
    """Return TSTR accuracy, with TRTR (the real training set in its place) as its floor.

    Arguments and errors as in `evaluate`; features as in `fid`. All generated series are used.
    """
    x = check_series(train=x_train, test=x_test, generated=x_generated)
    y = check_labels(x, train=y_train, test=y_test, generated=y_generated)
    return _tstr_score(_extract(x, features, n_kernels, seed), y, seed)


def evaluate(
    x_generated: object,
    y_generated: object,
    x_train: object,
    y_train: object,
    x_test: object,
    y_test: object,
    *,
    n_kernels: int = 1000,
    seed: int = 0,
) -> dict[str, Score]:
    """Return every score of generated series by name: "fid" and "tstr".

    x_generated, x_train, x_test: (n, channels, time) or (n, time), real numbers.
    y_generated, y_train, y_test: (n,) ints or strings; generated ones occur in y_train.
    n_kernels, seed: of the RocketFeatures, scaled to x_train and computed once; seed also of
        FID's subsample. Several seeds show the spread.
    Raises ArgumentError or ArgumentTypeError, before any work.
    """
    x = check_series(train=x_train, test=x_test, generated=x_generated)
    y = check_labels(x, train=y_train, test=y_test, generated=y_generated)
    z = _extract(x, None, n_kernels, seed)
    return {"fid": _fid_score(z, seed), "tstr": _tstr_score(z, y, seed)}


def _feature_fid(real_BD: Doubles, generated_BD: Doubles) -> float:
    shift_D, scale_D = standardisation(real_BD)
    scale_D = scale_D * np.sqrt(len(scale_D))
    return frechet_distance((real_BD - shift_D) / scale_D, (generated_BD - shift_D) / scale_D)


def _fid_score(z: dict[str, Doubles], seed: int) -> Score:
    n = min(len(z["generated"]), len(z["train"]))
    rng = np.random.Generator(np.random.PCG64(seed))
    value, floor = (
        _feature_fid(z["test"], z_BD[np.sort(rng.permutation(len(z_BD))[:n])])
        for z_BD in (z["generated"], z["train"])
    )
    return Score(value, floor, len(z["test"]), n, seed, "fid")


def _tstr_score(z: dict[str, Doubles], y: dict[str, Strings], seed: int) -> Score:
    value, floor = (_accuracy(z, y, train) for train in ("generated", "train"))
    return Score(value, floor, len(z["test"]), len(z["generated"]), seed, "tstr")


def _accuracy(z: dict[str, Doubles], y: dict[str, Strings], train: str) -> float:
    return float((ridge_predict(z[train], y[train], z["test"]) == y["test"]).mean())


def check_series(**sets: object) -> dict[str, Floats]:
    """Checked series, every set of the first one's channels and length."""
    x = {name: as_series(series, name=f"x_{name}") for name, series in sets.items()}
    first, form = next((name, x_BCL.shape[1:]) for name, x_BCL in x.items())
    for name, x_BCL in x.items():
        if x_BCL.shape[1:] != form:
            wanted = f"(channels, time) {form} as in x_{first}"
            raise bad_value(f"x_{name}", wanted, f"{x_BCL.shape[1:]}")
        if len(x_BCL) < 2:
            raise bad_value(f"x_{name}", "at least 2 series", f"{len(x_BCL)}")
    return x


def check_labels(x: dict[str, Floats], **sets: object) -> dict[str, Strings]:
    """The names of the labels (1, 1.0 and "1" are one class); generated ones occur in train."""
    y = {}
    for name, labels in sets.items():
        try:
            classes = Labels.fit(labels)
        except TsgenError as error:
            raise type(error)(str(error).replace("y:", f"y_{name}:", 1)) from None
        y[name] = classes.decode(classes.encode(labels))
        if len(y[name]) != len(x[name]):
            wanted = f"one label for each of {len(x[name])} series"
            raise bad_value(f"y_{name}", wanted, f"{len(y[name])}")
    unknown = (
        sorted(set(y["generated"]) - set(y["train"])) if {"generated", "train"} <= set(y) else []
    )
    if unknown:
        raise bad_value("y_generated", "labels that y_train has", f"{unknown[0]!r}")
    return y


def _extract(
    x: dict[str, Floats], features: FeatureMap | None, n_kernels: int, seed: int
) -> dict[str, Doubles]:
    """Features of every set; the default ones are scaled to the first."""
    if features is None:
        first_BCL = next(iter(x.values()))
        _, n_channels, length = first_BCL.shape
        features = RocketFeatures(n_channels, length, n_kernels, seed, reference=first_BCL)
    z = {name: _check_features(f"features(x_{name})", features(x[name])) for name in x}
    for name, z_BD in z.items():
        wanted = (len(x[name]), next(iter(z.values())).shape[1])
        if z_BD.shape != wanted:
            raise bad_value(f"features(x_{name})", f"shape {wanted}", f"{z_BD.shape}")
    return z


def _check_features(name: str, features: npt.ArrayLike) -> Doubles:
    z_BD = np.asarray(features, dtype=np.float64)
    if z_BD.ndim != 2 or z_BD.shape[0] < 2 or z_BD.shape[1] < 1:
        raise bad_value(name, "features (n >= 2, D >= 1)", f"shape {z_BD.shape}")
    if not np.isfinite(z_BD).all():
        raise bad_value(name, "finite features", "NaN or infinity")
    return z_BD
