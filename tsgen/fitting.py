"""From a collection of series to a Model: what `tsgen.fit` does around the training loop."""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsgen import arguments
from tsgen.checks import one_of
from tsgen.config import (
    FAMILIES,
    PRESETS,
    ModelConfig,
    Preset,
    SamplingConfig,
    SslConfig,
    VaeConfig,
)
from tsgen.config_tokenizer import TokenizerConfig, check_levels
from tsgen.config_training import TrainConfig
from tsgen.data import Labels, as_series, warn_if_swapped
from tsgen.errors import bad_value
from tsgen.model import Model
from tsgen.run import Run

OF_CODES = {"n_codes", "codebook", "levels", "n_quantisers", "gradient", "orthogonal"}
OF_ONE_CODEBOOK = {"levels": "fsq", "n_quantisers": "residual"}

# of "fsq", at least 5 of each number, as Mentzer et al. 2023, section 4.1, advise
LEVELS = ((6, 5), (8, 8), (5, 5, 5), (8, 6, 5), (8, 8, 8), (8, 5, 5, 5))

VECTORS_PER_CODE = 8  # of the training set; a codebook for more would learn single series by heart


def fit(
    X: object,
    y: object = None,
    *,
    preset: str | Preset = "base",
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    layout: str = "nct",
    n_fft: int | None = None,
    bands: int | None = None,
    n_codes: int | tuple[int, ...] | None = None,
    codebook: str | None = None,
    levels: tuple[int, ...] | None = None,
    n_quantisers: int | None = None,
    gradient: str | None = None,
    orthogonal: float | None = None,
    family: str | VaeConfig = "vq",
    ssl: str | SslConfig | None = None,
    progress: bool | None = None,
    **training: Any,
) -> Model:
    """Train a model on a collection of series, in two stages.

    X:         (n, channels, length) or (n, length); numpy, torch, pandas or a list of series
    y:         (n,) labels, numbers or text; None trains without classes
    preset:    a name in tsgen.config.PRESETS, or a Preset
    out:       folder for the model, its log metrics.jsonl and the state to resume from
    resume:    go on where a run in `out` was killed; starts anew where there is nothing
    layout:    "ntc" if X is (n, length, channels)
    n_fft, bands, n_codes, codebook, levels, n_quantisers, gradient, orthogonal: of
               tsgen.config.TokenizerConfig, instead of the preset's
    family:    "vq", tokens and a prior over them; "vae", the continuous baseline, or its VaeConfig
    ssl:       self-supervision in stage 1: a name in tsgen.config.OBJECTIVES, or an SslConfig
    progress:  show bars; None shows them on a terminal
    training:  of tsgen.config_training.TrainConfig: steps, minutes, batch_size, learning_rate,
               seed, device, autocast, compile, ...
    returns:   Model, on the device it was trained on, where it will also sample; `model.to("cpu")`
               moves it. Without `minutes`, the same call gives the same weights on one device at
               one number of threads
    raises:    ArgumentError, ArgumentTypeError, FileError; RunError if the loss stops being finite
    """
    array = as_series(X, layout=layout)
    warn_if_swapped(array, layout)
    labels = None if y is None else Labels.fit(y)
    classes = (
        np.zeros(len(array), dtype=np.int64) if labels is None else labels.encode(y, len(array))
    )
    config = train_config(training | {"ssl": ssl})
    sizes: dict[str, Any]
    sizes = {"n_fft": n_fft, "bands": bands, "n_codes": n_codes, "codebook": codebook}
    sizes |= {"levels": levels, "n_quantisers": n_quantisers, "gradient": gradient}
    sizes |= {"orthogonal": orthogonal}
    sizes = {k: arguments.plain(v) for k, v in sizes.items() if v is not None}
    model = model_config(array, labels, preset, sizes, family)
    if model.family == "vae" and config.ssl is not None:
        raise bad_value("ssl", "None for a vae, which has no stage of its own for it", config.ssl)
    folder = None if out is None else arguments.path(out, "out")
    return Run(array, classes, labels, model, config, folder).train(resume, progress)


def train_config(settings: dict[str, Any]) -> TrainConfig:
    """One number for steps or learning_rate serves both stages; ssl may be a name."""
    names = [field.name for field in dataclasses.fields(TrainConfig)]
    if unknown := set(settings) - set(names):
        raise bad_value("training", f"only {', '.join(names)}", ", ".join(sorted(unknown)))
    settings = {name: arguments.plain(value) for name, value in settings.items()}
    for name in ("steps", "learning_rate"):
        if isinstance(settings.get(name), int | float):
            settings[name] = (settings[name],) * 2
    if isinstance(settings.get("ssl"), str):
        settings["ssl"] = SslConfig(settings["ssl"])
    return TrainConfig(**settings)


def model_config(
    array: NDArray[np.float32],
    labels: Labels | None,
    preset: str | Preset,
    sizes: dict[str, Any],
    family: str | VaeConfig = "vq",
) -> ModelConfig:
    """The preset's sizes for these data."""
    if not isinstance(preset, Preset):
        one_of("preset", preset, tuple(PRESETS))
        preset = PRESETS[preset]
    vae = vae_config(family, preset.tokenizer | sizes)
    tokenizer = tokenizer_config(array.shape, preset, sizes)
    bands = tokenizer.bands
    return ModelConfig(
        tokenizer=tokenizer,
        priors=() if vae else preset.priors[:bands],
        n_classes=len(labels.names) if labels else 0,
        band_alignment=preset.band_alignment,
        mask_polarity=preset.mask_polarity,
        sampling=SamplingConfig(
            steps=(10,) * bands, choice_temperature=preset.choice_temperature[:bands]
        ),
        vae=vae,
    )


def vae_config(family: str | VaeConfig, sizes: dict[str, Any]) -> VaeConfig | None:
    """The settings of a vae, if that is the family."""
    if not isinstance(family, VaeConfig):
        one_of("family", family, FAMILIES)
        if family == "vq":
            return None
        family = VaeConfig()
    if codes := set(sizes) & OF_CODES:
        raise bad_value(", ".join(sorted(codes)), "none for a vae, which has no codes", "some")
    return family


def tokenizer_config(
    shape: tuple[int, ...], preset: Preset, sizes: dict[str, Any]
) -> TokenizerConfig:
    """The preset's sizes for series (n, channels, length), with as many codes as suit them."""
    n, C, L = shape
    values = kept(preset.tokenizer, sizes) | sizes
    bands = values.get("bands", 2)
    one_of("bands", bands, (1, 2))
    if bands == 1:
        values = {"token_width": (32,), "n_codes": (1024,)} | values
    codes = values.get("n_codes", (1024,) * bands)
    values["n_codes"] = codes if isinstance(codes, tuple) else (codes,) * bands
    if "n_quantisers" in values and values.get("codebook") != "residual":
        raise bad_value("n_quantisers", "none where codebook is not 'residual'", "some")
    fsq = values.get("codebook") == "fsq"
    if fsq:  # sized without codes first: those are as many as the levels make
        values["codebook"] = "euclidean"
        levels = values.pop("levels", None)
    config = TokenizerConfig(n_channels=C, length=L, **values)
    if preset.adapt_codes and "n_codes" not in sizes:
        fewer = tuple(enough_codes(n, config, band) for band in range(bands))
        config = dataclasses.replace(config, n_codes=fewer)
    return on_a_grid(config, levels, "n_codes" not in sizes) if fsq else config


def kept(values: dict[str, Any], sizes: dict[str, Any]) -> dict[str, Any]:
    """A preset's values, without what another codebook than that of `sizes`, if any, is for."""
    asked = sizes.get("codebook")
    gone = [name for name, only in OF_ONE_CODEBOOK.items() if asked not in (None, only)]
    return {name: value for name, value in values.items() if name not in gone}


def on_a_grid(config: TokenizerConfig, levels: Any, free: bool) -> TokenizerConfig:
    """With codebook "fsq": of these levels, or of the finest grid that has no more codes than
    the larger band has.

    free: whether the number of codes follows from the levels, or has to agree
    """
    if levels is None:
        fit = [grid for grid in LEVELS if math.prod(grid) <= max(config.n_codes)]
        levels = max(fit or LEVELS[:1], key=math.prod)
    if not isinstance(levels, tuple) or not levels:
        raise bad_value("levels", "a tuple, one of each number of a code", repr(levels))
    check_levels(levels)
    codes = (math.prod(levels),) * config.bands if free else config.n_codes
    how: dict[str, Any] = {"codebook": "fsq", "levels": levels, "code_dim": len(levels)}
    return dataclasses.replace(config, n_codes=codes, **how)


def enough_codes(n: int, config: TokenizerConfig, band: int) -> int:
    """The power of two that leaves every code some places to stand for; from 32 on, and from the
    number of codes that a place has."""
    codes = max(1, n * config.n_places(band) // VECTORS_PER_CODE)
    least = max(32, 1 << (config.depth - 1).bit_length())
    return min(config.n_codes[band], max(least, 1 << (codes.bit_length() - 1)))
