"""Class labels: the data's own names, in a fixed order, and their indices 0..K-1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tsgen.errors import ArgumentError, ArgumentTypeError, bad_value

Ints = npt.NDArray[np.int64]

_MISSING = {"", "nan", "?", "<na>", "nat"}  # how a missing label reads once it is text
_SHOWN = 20


@dataclass(frozen=True)
class Labels:
    """The classes of a data set; the position of a name is its index.

    names: tuple of unique str, sorted as numbers if all are numbers, else as text.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.names, tuple) or not all(isinstance(v, str) for v in self.names):
            raise bad_value("names", "a tuple of str", self.names)
        if not self.names or len(set(self.names)) != len(self.names):
            raise bad_value("names", "at least one name, each once", _listed(self.names))

    @classmethod
    def fit(cls, y: object) -> Labels:
        """Collect the names in y: 1-D ints, str, or floats that are whole (1.0 is named "1").

        Raises ArgumentError for missing labels and ArgumentTypeError for any other kind.
        """
        names, _, _ = names_of(y, "y")
        if not names:
            raise bad_value("y", "a label for every series", "none")
        try:
            return cls(tuple(sorted(names, key=lambda name: (_number(name), name))))
        except ValueError:  # not all are numbers
            return cls(tuple(sorted(names)))

    def encode(self, y: object, n: int | None = None) -> Ints:
        """Return class indices, int64 (n,).

        y: one label for all n, or a 1-D array of them; each is a name (as str or number) or an
           index 0..K-1. Names win: with names "1", "2", "3" the label 1 is the first class. An
           array is read as indices only where not all of it are names. Text is never an index.
        n: how many are wanted; None takes what y holds.

        Raises ArgumentError for an unknown label and for an array that does not hold n.
        """
        one = isinstance(y, str | bytes) or getattr(y, "shape", None) == ()
        one = one or not hasattr(y, "__len__")
        found, inverse, text = names_of([y] if one else y, "label")
        ids = self._find(found, text)[inverse]
        if one:
            return np.repeat(ids, 1 if n is None else _count(n))
        if n is not None and len(ids) != n:
            raise bad_value("label", f"{n} labels, one per series", f"{len(ids)}")
        return ids

    def decode(self, ids: npt.ArrayLike) -> npt.NDArray[np.str_]:
        """Return the names, str (n,), of indices ids, int (n,); raises ArgumentError outside."""
        array = np.asarray(ids)
        if array.dtype.kind not in "iu":
            raise bad_value("ids", "whole numbers", f"dtype {array.dtype}")
        if array.size and (array.min() < 0 or array.max() >= len(self.names)):
            raise bad_value("ids", f"0..{len(self.names) - 1}", f"{array.min()}..{array.max()}")
        names: npt.NDArray[np.str_] = np.array(self.names)[array]
        return names

    def to_dict(self) -> dict[str, list[str]]:
        """Return plain JSON: {"names": [...]}."""
        return {"names": list(self.names)}

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Labels:
        """Return the Labels that `to_dict` wrote; raises ArgumentError for anything else."""
        if not isinstance(d, Mapping) or set(d) != {"names"} or not isinstance(d["names"], list):
            raise bad_value("labels", "an object with a list of names", d)
        return cls(tuple(d["names"]))

    def _find(self, found: list[str], text: bool) -> Ints:
        """The index of each label found, read as names if all are names, else as indices."""
        position = {name: i for i, name in enumerate(self.names)}
        for i, name in enumerate(self.names):  # the number 1 also means a class named "1.0"
            try:
                position.setdefault(_whole(float(name)), i)
            except (ValueError, OverflowError):
                continue
        by_name = [position.get(name, -1) for name in found]
        if min(by_name, default=0) >= 0:
            return np.array(by_name, np.int64)
        by_index = [-1 if text or not name.isdecimal() else int(name) for name in found]
        if min(by_index) >= 0 and max(by_index) < len(self.names):
            return np.array(by_index, np.int64)
        unknown = next(name for name, i in zip(found, by_name, strict=True) if i < 0)
        k = len(self.names)
        raise ArgumentError(
            f"label: wanted one of {_listed(self.names)}, or an index 0..{k - 1}, got {unknown!r}"
        )


def names_of(y: Any, argument: str) -> tuple[list[str], Ints, bool]:
    """The distinct labels of y as text, which of them each of y is, and whether y held text."""
    try:
        array = np.asarray(y.detach().cpu() if isinstance(y, torch.Tensor) else y)
    except Exception as error:  # whatever the object's own conversion raises
        raise ArgumentTypeError(f"{argument}: wanted a 1-D array of labels: {error}") from error
    if array.ndim != 1:
        raise bad_value(argument, "a 1-D array of labels", f"shape {array.shape}")
    kind = array.dtype.kind
    text = kind in "TSU"
    if kind in "OT":
        values = array.tolist()
        text = text or any(isinstance(v, str) for v in values)
        array = np.array([_name(v, argument) for v in values], dtype=np.str_)
    elif kind not in "iufSU":
        raise ArgumentTypeError(f"{argument}: wanted ints or text, got dtype {array.dtype}")
    unique, inverse = np.unique(array, return_inverse=True)
    return [_name(v, argument) for v in unique.tolist()], inverse.astype(np.int64), text


def _name(value: object, argument: str) -> str:
    """The text that names one label."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, float | np.floating) and np.isfinite(value):
        if value != int(value):
            raise bad_value(argument, "whole numbers or text", value)
        return _whole(float(value))
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return str(int(value))
    missing = (
        value is None
        or isinstance(value, float | np.floating)
        or (type(value).__name__ in ("NAType", "NaTType"))
    )
    if missing or (isinstance(value, str) and value.strip().lower() in _MISSING):
        raise bad_value(argument, "no missing labels", repr(value))
    if not isinstance(value, str):
        raise ArgumentTypeError(
            f"{argument}: wanted ints or text as labels, got {type(value).__name__}"
        )
    return value


def _number(name: str) -> float:
    number = float(name)
    if not np.isfinite(number):
        raise ValueError(name)
    return number


def _whole(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)


def _count(n: int) -> int:
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
        raise bad_value("n", "a whole number of at least 0", n)
    return int(n)


def _listed(names: tuple[str, ...]) -> str:
    shown = ", ".join(map(repr, names[:_SHOWN]))
    return shown + (f", ... ({len(names)} in all)" if len(names) > _SHOWN else "")
