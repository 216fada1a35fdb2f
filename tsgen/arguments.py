"""Checks of the arguments that several public functions share, done before any work."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, SupportsInt, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tsgen.config import ModelConfig, SamplingConfig, TokenizerConfig
from tsgen.errors import ArgumentTypeError, FileError, bad_type, bad_value

Indices = range | NDArray[np.int64]

LARGEST = 2**62  # of counts and indices: what is added to them stays an int64


def count(value: object, name: str, *, at_least: int = 1) -> int:
    """A whole number from `at_least` on."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise bad_type(name, "a whole number", value)
    number = int(cast(SupportsInt, value))
    if not at_least <= number < LARGEST:
        raise bad_value(name, f"a whole number from {at_least} on", number)
    return number


def check_seed(seed: object) -> int:
    """A seed: 64 bits."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise bad_type("seed", "a whole number", seed)
    number = int(cast(SupportsInt, seed))
    if not 0 <= number < 2**64:
        raise bad_value("seed", "a whole number from 0 to 2**64 - 1", number)
    return number


def sample_indices(n: object, indices: Sequence[int] | NDArray[np.int64] | None) -> Indices:
    """The absolute indices of the samples asked for: the first n, or those named.

    The first n are a range: a stream of 10^9 takes no memory for their numbers.
    """
    if (n is None) == (indices is None):
        raise bad_value("n", "either n or indices", "both" if n is not None else "neither")
    if indices is None:
        return range(count(n, "n", at_least=0))
    try:
        index = np.asarray(indices)
    except ValueError as error:  # a ragged list
        raise bad_value("indices", "whole numbers (n,)", error) from error
    if index.size == 0 and index.ndim == 1:
        return np.empty(0, dtype=np.int64)
    if index.ndim != 1 or index.dtype.kind not in "iu":
        raise bad_value("indices", "whole numbers (n,)", f"{index.dtype} {index.shape}")
    if index.min() < 0 or index.max() >= LARGEST:
        raise bad_value("indices", "0 to 2**62 - 1", f"{index.min()} to {index.max()}")
    return index.astype(np.int64)


def sampling(model: ModelConfig, changes: dict[str, Any]) -> SamplingConfig:
    """A model's own settings with some changed; one number of a per-band one serves all bands."""
    names = [field.name for field in dataclasses.fields(SamplingConfig)]
    wanted, bands = f"only {', '.join(names)}", model.tokenizer.bands
    if model.family == "vae":
        names = ["temperature"]
        wanted = "only temperature: a vae draws at once, and without guidance"
    if unknown := set(changes) - set(names):
        raise bad_value("settings", wanted, ", ".join(sorted(unknown)))
    changes = {name: plain(value) for name, value in changes.items()}
    for name in ("steps", "choice_temperature"):
        if name in changes:
            value = changes[name]
            changes[name] = value if isinstance(value, tuple) else (value,) * bands
            if len(changes[name]) != bands:
                raise bad_value(name, f"one number, or {bands}: one a band", value)
    return dataclasses.replace(model.sampling, **changes)


def plain(value: Any) -> Any:
    """numpy's numbers as Python's, lists as tuples."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | tuple):
        return tuple(plain(v) for v in value)
    return value


def token_ids(ids: object, config: TokenizerConfig) -> tuple[Tensor, ...]:
    """Token ids (n, tokens) as one int64 tensor a band."""
    sizes = [config.n_tokens(band) for band in range(config.bands)]
    try:
        array = np.asarray(ids)
    except ValueError as error:  # a ragged list
        raise bad_value("ids", f"(n, {sum(sizes)})", error) from error
    if array.dtype.kind not in "iu":
        raise ArgumentTypeError(f"ids: wanted whole numbers, got dtype {array.dtype}")
    if array.ndim != 2 or array.shape[1] != sum(sizes):
        raise bad_value("ids", f"(n, {sum(sizes)})", array.shape)
    bands: tuple[Tensor, ...] = torch.from_numpy(array.astype(np.int64)).split(sizes, dim=1)
    for band, ids_BN in enumerate(bands):
        K = config.n_codes[band]
        if ids_BN.numel() and not 0 <= int(ids_BN.min()) <= int(ids_BN.max()) < K:
            got = f"{int(ids_BN.min())} to {int(ids_BN.max())}"
            raise bad_value("ids", f"0 to {K - 1} in band {band}", got)
    return bands


def device(value: object) -> torch.device:
    """The CPU, or a GPU that is there; "auto" is a GPU where there is one."""
    if not isinstance(value, str | torch.device):
        raise bad_type("device", "a name", value)
    gpus = torch.cuda.device_count()
    name = ("cuda" if gpus else "cpu") if value == "auto" else str(value)
    found = re.fullmatch(r"cpu|cuda(?::(0|[1-9]\d{0,2}))?", name)
    if not found:
        raise bad_value("device", '"auto", "cpu", "cuda" or "cuda:1"', repr(value))
    if name != "cpu" and int(found[1] or 0) >= gpus:
        raise bad_value("device", f"a GPU that is here ({gpus} are)", repr(value))
    return torch.device(name)


def path(value: object, name: str = "path") -> Path:
    """Something that names a file or folder."""
    if not isinstance(value, str | os.PathLike):
        raise bad_type(name, "a path", value)
    text = os.fspath(value)
    if not isinstance(text, str) or not text or "\0" in text:
        raise bad_value(name, "a path of text without NUL", repr(text))
    return Path(text)


def writable_file(value: Path) -> None:
    """Refuse a file that has nowhere to be."""
    if value.is_dir() or not value.parent.is_dir():
        got = "a folder" if value.is_dir() else f"no folder {value.parent}"
        raise FileError(f"{value}: wanted a file in a folder, got {got}")
