"""Checks of the arguments that several public functions share, done before any work."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, SupportsInt, cast

import numpy as np
from numpy.typing import NDArray

from tsgen.config import SamplingConfig
from tsgen.errors import bad_type, bad_value

LARGEST = 2**62  # of counts and indices: what is added to them stays an int64


def count(value: object, name: str, *, at_least: int = 1) -> int:
    """A whole number from `at_least` on."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise bad_type(name, "a whole number", value)
    number = int(cast(SupportsInt, value))
    if not at_least <= number < LARGEST:
        raise bad_value(name, f"a whole number from {at_least} on", number)
    return number


def check_seed(seed: object) -> None:
    """Refuse what is no seed."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise bad_type("seed", "a whole number", seed)
    if not 0 <= int(cast(SupportsInt, seed)) < 2**64:
        raise bad_value("seed", "a whole number from 0 to 2**64 - 1", seed)


def sample_indices(n: object, indices: Sequence[int] | NDArray[np.int64] | None) -> NDArray[np.int64]:
    """The absolute indices of the samples asked for: the first n, or those named."""
    if (n is None) == (indices is None):
        raise bad_value("n", "either n or indices", "both" if n is not None else "neither")
    if indices is None:
        return np.arange(count(n, "n", at_least=0), dtype=np.int64)
    index = np.asarray(indices)
    if index.size == 0 and index.ndim == 1:
        return np.empty(0, dtype=np.int64)
    if index.ndim != 1 or index.dtype.kind not in "iu":
        raise bad_value("indices", "whole numbers (n,)", f"{index.dtype} {index.shape}")
    if index.min() < 0 or index.max() >= LARGEST:
        raise bad_value("indices", "0 to 2**62 - 1", f"{index.min()} to {index.max()}")
    return index.astype(np.int64)


def changed(defaults: SamplingConfig, changes: dict[str, Any], bands: int) -> SamplingConfig:
    """`defaults` with some settings changed; one number of a per-band setting serves all bands."""
    names = [field.name for field in dataclasses.fields(SamplingConfig)]
    if unknown := set(changes) - set(names):
        raise bad_value("settings", f"only {', '.join(names)}", ", ".join(sorted(unknown)))
    changes = dict(changes)
    for name in ("steps", "choice_temperature"):
        if name in changes:
            value = changes[name]
            changes[name] = tuple(value) if isinstance(value, tuple | list) else (value,) * bands
            if len(changes[name]) != bands:
                raise bad_value(name, f"one number, or {bands}: one a band", value)
    return dataclasses.replace(defaults, **changes)
