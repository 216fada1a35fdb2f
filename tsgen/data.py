"""Data at the door: any array becomes a new float32 (n, channels, time); the scale of a channel.

Every check happens here, before any work, and the caller's array is never changed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tsgen.errors import ArgumentError, ArgumentTypeError, bad_type, bad_value
from tsgen.labels import Labels

__all__ = ["Labels", "Scaler", "as_series", "pad_series"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def as_series(
    x: object,
    *,
    layout: str = "nct",
    name: str = "X",
    allow_nan: bool = False,
    allow_unequal: bool = False,
) -> Floats:
    """Return x as a new C-contiguous float32 array (n, channels, time).

    x: numpy array, torch tensor, list of arrays (one per series), or a pandas frame or Arrow
       table with one series per row; 3-D in `layout`, 2-D (n, time) means one channel. Any real
       dtype; magnitudes below 1e-45 become 0, as float32 has it.
    layout: "nct" for (n, channels, time), "ntc" for (n, time, channels); never guessed.
    name: what errors call x.
    allow_nan: let NaN (missing) through.
    allow_unequal: let a list hold lengths that differ; the ends are padded as by `pad_series`.

    Raises ArgumentTypeError for what is not real numbers (object, text, bool, complex), and
    ArgumentError for 1-D or 4-D, no series, no channel, fewer than 2 time steps, infinity, NaN,
    and magnitudes that float32 cannot hold.
    """
    check_layout(layout)
    if isinstance(x, list | tuple):
        items = _as_items(x, layout, name)
        if len({_length(item, layout) for item in items}) > 1:
            _refuse_unequal(items, layout, name, allow_unequal)
            return pad_series(items, layout=layout, name=name, allow_nan=allow_nan)[0]
        x = np.stack(items)
    array = _as_array(x, name)
    _check_shape(array, layout, name)
    out = _to_float32(array, name, allow_nan)
    if out.ndim == 2:
        return out[:, None, :]
    return out if layout == "nct" else np.ascontiguousarray(out.transpose(0, 2, 1))


def pad_series(
    series: Sequence[object],
    length: int | None = None,
    mode: str = "nan",
    *,
    layout: str = "nct",
    name: str = "series",
    allow_nan: bool = False,
) -> tuple[Floats, Ints]:
    """Put series of unequal lengths in one array; return it and their lengths (n,) int64.

    series: list of arrays, each (channels, time) or (time,) [layout "ntc": (time, channels)].
    length: time steps of the result; None means the longest series.
    mode: the end is filled with NaN ("nan") or the last value ("edge").
    layout, name, allow_nan: as in `as_series`.

    Raises as `as_series` does, and ArgumentError for a series over `length`.
    """
    check_layout(layout)
    if mode not in ("nan", "edge"):
        raise bad_value("mode", '"nan" or "edge"', repr(mode))
    items = _as_items(series, layout, name)
    lengths = np.array([_length(item, layout) for item in items], np.int64)
    longest = int(lengths.max())
    total = longest if length is None else length
    if type(total) is bool or not isinstance(total, int | np.integer) or total < max(longest, 2):
        raise bad_value("length", f"at least the longest series, {max(longest, 2)}", total)
    channels = items[0].shape[0 if layout == "nct" else 1] if items[0].ndim == 2 else 1
    out = np.full((len(items), channels, total), np.nan, np.float32)
    for i, (item, steps) in enumerate(zip(items, lengths, strict=True)):
        values = _to_float32(item, f"{name}[{i}]", allow_nan)
        out[i, :, :steps] = values if layout == "nct" else values.T
        if mode == "edge":
            out[i, :, steps:] = out[i, :, steps - 1, None]
    return out, lengths


def check_layout(layout: str) -> None:
    """Raise ArgumentError unless layout is "nct" or "ntc"."""
    if layout not in ("nct", "ntc"):
        wanted = '"nct" (n, channels, time) or "ntc" (n, time, channels)'
        raise bad_value("layout", wanted, repr(layout))


def _as_array(x: Any, name: str) -> Array:
    """Any array-like as a numpy array of real numbers, not copied where that can be avoided."""
    module = type(x).__module__.split(".")[0]
    if isinstance(x, torch.Tensor):
        x = _from_torch(x, name)
    elif isinstance(x, np.ma.MaskedArray):
        x = np.ma.filled(x.astype(np.float64), np.nan)  # np.asarray would drop the mask
    elif module in ("pandas", "pyarrow") and hasattr(x, "columns"):
        x = _from_frame(x.to_pandas() if hasattr(x, "to_pandas") else x, name)
    try:
        array = np.asarray(x)
    except Exception as error:  # whatever the object's own conversion raises
        raise ArgumentTypeError(f"{name}: wanted real numbers: {error}") from error
    if array.dtype.kind not in "iuf":
        got = f"dtype {array.dtype}" if hasattr(x, "dtype") else type(x).__name__
        hint = "convert it, or pass a list with one array per series"
        raise ArgumentTypeError(f"{name}: wanted floats or ints, got {got}; {hint}")
    return array


def _from_torch(x: torch.Tensor, name: str) -> Array:
    if x.layout != torch.strided or x.is_quantized or x.is_meta:
        raise bad_value(name, "a dense tensor", f"{x.layout} on {x.device}")
    x = x.detach().cpu().resolve_conj().resolve_neg()
    if x.is_floating_point() and x.dtype not in (torch.float16, torch.float32, torch.float64):
        x = x.float()  # numpy has no bfloat16 or float8
    array: Array = x.numpy()
    return array


def _from_frame(frame: Any, name: str) -> Array:
    """A pandas frame with one series per row."""
    if frame.index.nlevels > 1 or {"series_id", "t", "value"} <= set(frame.columns):
        raise ArgumentError(f"{name}: wanted a frame with one series per row, got a long one")
    for column, dtype in frame.dtypes.items():
        if getattr(dtype, "kind", "O") not in "iuf":
            got = f"dtype {dtype} in column {column!r}"
            raise ArgumentTypeError(f"{name}: wanted a frame of numbers only, got {got}")
    if all(isinstance(dtype, np.dtype) for dtype in frame.dtypes):
        return np.asarray(frame.to_numpy())
    return np.asarray(frame.to_numpy(dtype=np.float64, na_value=np.nan))


def _as_items(x: Sequence[object], layout: str, name: str) -> list[Array]:
    """The series of a list: all 1-D, or all 2-D with the same channels."""
    if not isinstance(x, list | tuple):
        raise bad_type(name, "a list of arrays", x)
    if not x:
        raise bad_value(name, "at least one series", "an empty list")
    items = [_as_array(item, f"{name}[{i}]") for i, item in enumerate(x)]
    axis = 0 if layout == "nct" else 1
    channels = items[0].shape[axis:][: items[0].ndim - 1]
    for i, item in enumerate(items):
        if item.ndim not in (1, 2):
            hint = f"; for one series pass [{name}]" if item.ndim == 0 else ""
            raise bad_value(f"{name}[{i}]", "a 1-D or 2-D series", f"{item.ndim}-D{hint}")
        if item.size == 0:
            raise bad_value(f"{name}[{i}]", "at least one value", f"shape {item.shape}")
        if item.ndim != items[0].ndim or item.shape[axis:][: item.ndim - 1] != channels:
            wanted = f"as many channels as {name}[0], of shape {items[0].shape}"
            raise bad_value(f"{name}[{i}]", wanted, f"shape {item.shape}")
    return items


def _length(item: Array, layout: str) -> int:
    return int(item.shape[-1 if layout == "nct" else 0])


def _refuse_unequal(items: list[Array], layout: str, name: str, allowed: bool) -> None:
    lengths = [_length(item, layout) for item in items]
    if not allowed:
        raise ArgumentError(
            f"{name}: wanted series of one length, got lengths from {min(lengths)} to "
            f"{max(lengths)}; pad them with tsgen.data.pad_series({name}) or crop them"
        )


def _check_shape(array: Array, layout: str, name: str) -> None:
    dims = "(n, channels, time)" if layout == "nct" else "(n, time, channels)"
    if array.ndim not in (2, 3):
        hint = f"; for one series pass {name}[None]" if array.ndim == 1 else ""
        raise bad_value(name, f"{dims} or (n, time)", f"{array.ndim}-D {array.shape}{hint}")
    time = array.shape[1] if array.ndim == 3 and layout == "ntc" else array.shape[-1]
    if array.size == 0 or time < 2:
        wanted = f"{dims} with at least 1 series, 1 channel and 2 time steps"
        raise bad_value(name, wanted, f"shape {array.shape}")


def warn_if_swapped(array: Floats, layout: str, name: str = "X") -> None:
    """Say so where there are more channels than time steps: it may be the other layout."""
    _, channels, time = array.shape
    if channels > time:
        warnings.warn(
            f"{name}: more channels than time, {channels} and {time}, in layout {layout}:"
            " is it the other?",
            stacklevel=3,
        )


def _to_float32(array: Array, name: str, allow_nan: bool) -> Floats:
    """A float32 copy in C order, with no infinity, and no NaN unless allowed."""
    with np.errstate(all="ignore"):
        out = array.astype(np.float32, order="C", subok=False)
        finite = np.isfinite(out)
    if finite.all():
        return out
    missing = np.isnan(out)
    infinite = ~(finite | missing)
    if infinite.any():
        index, count = _first(infinite), infinite.sum()
        what = "infinite" if np.isinf(array[index]) else "too large for float32"
        raise bad_value(name, "finite numbers", f"{count} {what}, the first at index {list(index)}")
    if not allow_nan:
        index, count = _first(missing), missing.sum()
        raise bad_value(name, "finite numbers", f"{count} NaN, the first at index {list(index)}")
    return out


def _first(mask: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(mask.argmax()), mask.shape))


@dataclass(frozen=True)
class Scaler:
    """Mean and standard deviation of each channel: fit on the training part, then apply, undo.

    mean: one float per channel.
    std: one positive float per channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for argument, values in (("mean", self.mean), ("std", self.std)):
            numbers = isinstance(values, tuple) and all(type(v) is float for v in values)
            if not numbers or not values or not np.isfinite(values).all():
                raise bad_value(argument, "a tuple of finite floats, one per channel", values)
        if len(self.mean) != len(self.std) or min(self.std) <= 0:
            raise bad_value("std", f"{len(self.mean)} positive floats", self.std)

    @classmethod
    def fit(cls, x: object) -> Scaler:
        """Measure x, any input of `as_series`; NaN is ignored, a constant channel gets std 1.

        Raises as `as_series` does, and ArgumentError for a channel that is all NaN.
        """
        array = as_series(x, allow_nan=True)
        mean, std = [], []
        for c in range(array.shape[1]):
            values = array[:, c].astype(np.float64)
            values = values[~np.isnan(values)]
            if values.size == 0:
                raise bad_value("X", "a value in every channel", f"only NaN in channel {c}")
            constant = values.min() == values.max()
            mean.append(float(values[0] if constant else values.mean()))
            std.append(1.0 if constant else float(values.std()))
        return cls(tuple(mean), tuple(std))

    def apply(self, x: npt.ArrayLike) -> Floats:
        """Return (x - mean) / std as a new float32 array; x: (n, channels, time), NaN stays."""
        return self._each(x, lambda values, mean, std: (values - mean) / std)

    def undo(self, x: npt.ArrayLike) -> Floats:
        """Return x * std + mean as a new float32 array; x: (n, channels, time), NaN stays."""
        return self._each(x, lambda values, mean, std: values * std + mean)

    def _each(self, x: Any, formula: Callable[[Any, float, float], Any]) -> Floats:
        empty = getattr(x, "ndim", 0) == 3 and len(x) == 0  # what generate(n=0) returns
        out = np.zeros(x.shape, np.float32) if empty else as_series(x, name="x", allow_nan=True)
        if out.shape[1] != len(self.mean):
            raise bad_value("x", f"{len(self.mean)} channels", out.shape[1])
        for c, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
            with np.errstate(all="ignore"):
                out[:, c] = formula(out[:, c].astype(np.float64), mean, std)
        if np.isinf(out).any():
            raise bad_value("x", "values whose result float32 can hold", "an overflow")
        return out

    def to_dict(self) -> dict[str, list[float]]:
        """Return plain JSON: {"mean": [...], "std": [...]}."""
        return {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Scaler:
        """Return the Scaler that `to_dict` wrote; raises ArgumentError for anything else."""
        lists = isinstance(d, Mapping) and all(isinstance(v, list) for v in d.values())
        if not lists or set(d) != {"mean", "std"}:
            raise bad_value("scaler", '{"mean": [...], "std": [...]}', d)
        return cls(tuple(d["mean"]), tuple(d["std"]))
