"""What a trained tokenizer's latents and tokens tell: of the class, of each other, and how many
codes carry it.

Everything is learned from training series alone and told of test series alone. Classifiers see
means over the places of a series, as in NC-VQVAE (2024): of the latents, of their codes, and of the
tokens as one-hot vectors, that is, how often a series has each code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tsgen import arguments
from tsgen.errors import ArgumentError, bad_value
from tsgen.information import (
    Ints,
    counted_entropy,
    jackknife,
    mutual_information,
    share_interval,
    shuffled_information,
)
from tsgen.metrics import check_labels, check_series
from tsgen.model import Model
from tsgen.request import CHUNK
from tsgen.rocket import Doubles, Floats, Strings, ridge_predict, standardisation

NEIGHBOURS = 5
LAGS = (1, 2, 4)  # in columns, of the tokens of one row


@dataclass(frozen=True)
class Estimate:
    """One number about test series, and its 95 % interval over such series.

    baseline: the same where nothing is known: accuracy of the most frequent training class, or
        information of shuffled pairs. None where there is no such thing.
    n: test series.
    """

    value: float
    low: float
    high: float
    baseline: float | None
    n: int


def probe(
    model: Model,
    X_train: object,
    y_train: object,
    X_test: object,
    y_test: object,
    *,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Return what the model's representations tell, by name; i is a band, 0 the low one.

    X_train, X_test: (n, channels, time) or (n, time), of the model's shape; n >= 2.
    y_train, y_test: (n,) ints or strings, at least two classes in train. A test class without
        training series counts as wrong.
    seed: of the shuffles, and of the groups that intervals leave out.
    knn_*, linear_*, svm_* of latents, codes, tokens: test accuracy of 5 nearest neighbours, ridge
        (`tsgen.rocket`), and an SVM (RBF, scikit-learn's defaults) on standardised means. "latents"
        are of length 1, as the codebook takes them; "codes" what the decoder gets for them. A vae
        has only "latents", the posterior's mean, and nothing of what follows.
    label_information_i: between a token anywhere in a series and its class, nats.
    lag_k_information_i: between tokens k columns apart, nats. Shuffled over series, so that its
        baseline holds what the places alone tell. Left out where there are not so many columns.
    entropy_i (nats), perplexity_i, usage_i: of the codes, over all tokens; perplexity is exp of the
        entropy, usage the share of codes that occur at all.
    Raises ArgumentError, also without scikit-learn (extra "eval"), or ArgumentTypeError.
    """
    arguments.check_seed(seed)
    x = check_series(train=X_train, test=X_test)
    y = check_labels(x, train=y_train, test=y_test)
    model.check_shape(x["train"])
    if len(set(y["train"])) < 2:
        raise bad_value("y_train", "at least 2 classes", "1")
    classifiers = {"knn": knn_predict, "linear": ridge_predict, "svm": svm_predict}
    check_sklearn()
    train, _ = represent(model, x["train"])
    test, ids = represent(model, x["test"])
    found = {}
    for kind in train:
        for name, predict in classifiers.items():
            right = int((predict(train[kind], y["train"], test[kind]) == y["test"]).sum())
            found[f"{name}_{kind}"] = accuracy(right, y)
    return found | told_by_tokens(model, ids, y["test"], np.random.default_rng(seed))


def accuracy(n_right: int, y: dict[str, Strings]) -> Estimate:
    """The share of test series that were right, beside that of the most frequent class."""
    classes, counts = np.unique(y["train"], return_counts=True)
    chance = float((y["test"] == classes[counts.argmax()]).mean())
    n = len(y["test"])
    return Estimate(n_right / n, *share_interval(n_right, n), chance, n)


def knn_predict(train_BD: Doubles, y_train_B: Strings, test_BD: Doubles) -> Strings:
    """Labels of the 5 nearest training series, by majority; standardised on train."""
    from sklearn.neighbors import KNeighborsClassifier

    shift_D, scale_D = standardisation(train_BD)
    model = KNeighborsClassifier(min(NEIGHBOURS, len(train_BD)))
    model.fit((train_BD - shift_D) / scale_D, y_train_B)
    predicted_B: Strings = model.predict((test_BD - shift_D) / scale_D)
    return predicted_B


def svm_predict(train_BD: Doubles, y_train_B: Strings, test_BD: Doubles) -> Strings:
    """Labels by a support vector machine: RBF kernel, C = 1; standardised on train."""
    from sklearn.svm import SVC

    shift_D, scale_D = standardisation(train_BD)
    # by default it draws from numpy's global generator, though nothing here depends on it
    model = SVC(random_state=0).fit((train_BD - shift_D) / scale_D, y_train_B)
    predicted_B: Strings = model.predict((test_BD - shift_D) / scale_D)
    return predicted_B


def check_sklearn() -> None:
    """Raise ArgumentError where scikit-learn is missing."""
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        wanted = 'scikit-learn (pip install "tsgen[eval]")'
        raise ArgumentError(f"probe: wanted {wanted}, got {error}") from error


@torch.no_grad()
def represent(model: Model, x_BCL: Floats) -> tuple[dict[str, Doubles], list[Ints]]:
    """Means over places by kind, (n, D), bands side by side; and the tokens of each band (n, N)."""
    like = model.network.like  # its device and dtype
    chunks = torch.from_numpy(model.scaler.apply(x_BCL)).split(CHUNK)
    found = [represent_chunk(model, chunk.to(like)) for chunk in chunks]
    kinds = {
        kind: torch.cat([means[kind] for means, _ in found]).double().cpu().numpy()
        for kind in found[0][0]
    }
    bands = zip(*(ids for _, ids in found), strict=True)
    return kinds, [torch.cat(band).cpu().numpy() for band in bands]


def represent_chunk(model: Model, x_BCL: Tensor) -> tuple[dict[str, Tensor], list[Tensor]]:
    """`represent`, of scaled series."""
    if model.config.family == "vae":  # one latent vector a series, and no tokens
        return {"latents": model.network.vae.encode(x_BCL).mean_BD}, []
    tokenizer = model.network.tokenizer
    inner = tokenizer.prepare(x_BCL)
    means: dict[str, list[Tensor]] = {"latents": [], "codes": [], "tokens": []}
    ids = []
    for band in tokenizer.each():
        z_BND = band.latents(inner, tokenizer.window_W)
        ids_BN = band.codebook.encode(z_BND, unit=True)
        n_codes = len(band.codebook.codes())
        means["latents"].append(F.normalize(z_BND, dim=-1).mean(1))
        means["codes"].append(band.codebook.decode(ids_BN).mean(1))
        means["tokens"].append(F.one_hot(ids_BN, n_codes).to(z_BND).mean(1))
        ids.append(ids_BN)
    return {kind: torch.cat(bands, 1) for kind, bands in means.items()}, ids


def told_by_tokens(
    model: Model, ids: list[Ints], y_B: Strings, rng: np.random.Generator
) -> dict[str, Estimate]:
    """Use of codes, and information, of every band."""
    config = model.config.tokenizer
    class_B = np.unique(y_B, return_inverse=True)[1].astype(np.int64)
    found = {}
    for band, ids_BN in enumerate(ids):
        label_BN = np.broadcast_to(class_B[:, None], ids_BN.shape)
        found[f"label_information_{band}"] = information(ids_BN, label_BN, rng)
        ids_BHW = ids_BN.reshape(len(ids_BN), -1, config.grid(band)[1])
        for lag in LAGS:
            if lag < ids_BHW.shape[2]:
                early_BM = ids_BHW[..., :-lag].reshape(len(ids_BN), -1)
                late_BM = ids_BHW[..., lag:].reshape(len(ids_BN), -1)
                found[f"lag_{lag}_information_{band}"] = information(early_BM, late_BM, rng)
        for name, (use, most) in code_use(config.n_codes[band]).items():
            value, low, high = jackknife(use, rng, ids_BN)
            found[f"{name}_{band}"] = Estimate(value, low, min(high, most), None, len(ids_BN))
    return found


def information(a_BM: Ints, b_BM: Ints, rng: np.random.Generator) -> Estimate:
    """Mutual information, nats, of pairs that each series has M of."""
    value, low, high = jackknife(mutual_information, rng, a_BM, b_BM)
    return Estimate(value, low, high, shuffled_information(a_BM, b_BM, rng), len(a_BM))


def code_use(n_codes: int) -> dict[str, tuple[Callable[[Ints], float], float]]:
    """What there is to say of the use of K codes by tokens of any shape, and the most it can be."""

    def counts(ids: Ints) -> Ints:
        return np.bincount(ids.ravel(), minlength=n_codes)

    return {
        "entropy": (lambda ids: counted_entropy(counts(ids)), float(np.log(n_codes))),
        "perplexity": (lambda ids: float(np.exp(counted_entropy(counts(ids)))), n_codes),
        "usage": (lambda ids: float((counts(ids) > 0).mean()), 1.0),
    }


def report(found: dict[str, Estimate]) -> str:
    """A table of all estimates, one a line."""
    lines = [f"{'of test series':24} {'value':>8}  95 % interval      baseline"]
    for name, it in found.items():
        baseline = "" if it.baseline is None else f"{it.baseline:8.3f}"
        lines.append(
            f"{name:24} {it.value:8.3f}  {it.low:8.3f} {it.high:8.3f}  {baseline}".rstrip()
        )
    return "\n".join(lines)
