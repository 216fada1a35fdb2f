"""Pictures of series, by matplotlib, whose global state is left alone: pip install "tsgen[viz]"."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tsgen import arguments
from tsgen.augment import Augmentation, augmented
from tsgen.config import AUGMENTATIONS
from tsgen.data import Scaler, as_series
from tsgen.errors import ArgumentError, bad_value
from tsgen.formats_io import atomic
from tsgen.labels import Labels

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

MAX_ROWS = 6
SUFFIXES = (".png", ".pdf", ".svg")
THIN = {"color": "#3b6ea5", "linewidth": 0.6}
MEAN = {"color": "#c1440e", "linewidth": 1.8, "label": "mean"}
VIEW = {"color": "#c1440e", "linewidth": 0.9, "label": "augmented"}


def real_beside_generated(
    x_real: object,
    x_generated: object,
    labels_real: object = None,
    labels_generated: object = None,
    *,
    per_class: int = 20,
    channel: int = 0,
    path: str | os.PathLike[str] | None = None,
) -> Any:
    """Draw real series on the left and generated ones on the right, a row for each class.

    x_real, x_generated:  (n, channels, time) or (n, time)
    labels_real, labels_generated:  one a series, both or neither; the first 6 classes are drawn
    per_class:  series drawn thin in each panel, the first ones; the thick line is the mean of all
    channel:    which one is drawn
    path:       a .png, .pdf or .svg file to write as well
    returns:    matplotlib.figure.Figure, for further changes and savefig
    raises:     ArgumentError, also without matplotlib; ArgumentTypeError; FileError
    """
    sides = {"real": as_series(x_real, name="x_real")}
    sides["generated"] = as_series(x_generated, name="x_generated")
    arguments.count(per_class, "per_class")
    n_channels = min(x.shape[1] for x in sides.values())
    if arguments.count(channel, "channel", at_least=0) >= n_channels:
        raise bad_value("channel", f"0 to {n_channels - 1}", channel)
    kind = None if path is None else picture_kind(Path(path))
    names, rows = classes(sides, labels_real, labels_generated)
    figure = new_figure(len(rows))
    axes = figure.subplots(len(rows), 2, sharex="col", sharey="row", squeeze=False)
    for row, members in enumerate(rows):
        for axis, (side, x), mine in zip(axes[row], sides.items(), members, strict=True):
            draw(axis, x[mine, channel], per_class)
            title = f"{names[row]}: {side}" if names else side.capitalize()
            axis.set_title(f"{title} (n = {len(mine):,})", fontsize=10, loc="left")
    finish(figure, axes, f"The first {len(rows)} of {len(names)} classes", len(names) > len(rows))
    if path is not None:
        written(figure, Path(path), kind)
    return figure


def augmented_views(
    x: object,
    augmentations: Sequence[str | Augmentation] | None = None,
    *,
    n: int = 3,
    seed: int = 0,
    channel: int = 0,
    path: str | os.PathLike[str] | None = None,
) -> Any:
    """Draw augmented views over series, a column for each series, a row for each augmentation.

    x:              (n, channels, time) or (n, time), drawn scaled, as training sees them
    augmentations:  one row of all, one after the other; None: a row for each by itself
    n:              series drawn, the first ones
    seed:           views depend on it and on the place of the series
    channel:        which one is drawn
    path:           a .png, .pdf or .svg file to write as well
    returns:        matplotlib.figure.Figure
    raises:         ArgumentError, also without matplotlib; ArgumentTypeError; FileError
    """
    series = as_series(x)
    if arguments.count(channel, "channel", at_least=0) >= series.shape[1]:
        raise bad_value("channel", f"0 to {series.shape[1] - 1}", channel)
    kind = None if path is None else picture_kind(Path(path))
    arguments.check_seed(seed)
    first = torch.from_numpy(Scaler.fit(series).apply(series[: arguments.count(n, "n")]))
    rows: dict[str, tuple[str | Augmentation, ...]] = {name: (name,) for name in AUGMENTATIONS}
    if augmentations is not None:
        rows = {", then ".join(map(str, augmentations)): tuple(augmentations)}
    figure = new_figure(len(rows), width=3 * max(3, len(first)))
    axes = figure.subplots(len(rows), len(first), sharex=True, sharey="row", squeeze=False)
    for row, (name, composed) in zip(axes, rows.items(), strict=True):
        views = augmented(first, composed, key=seed)
        row[0].set_title(name, fontsize=10, loc="left")
        for axis, old, new in zip(row, first[:, channel], views[:, channel], strict=True):
            axis.plot(old, **THIN)
            axis.plot(new, **VIEW)
            plain(axis)
    finish(figure, axes, "", False)
    if path is not None:
        written(figure, Path(path), kind)
    return figure


def classes(
    sides: dict[str, Floats], labels_real: object, labels_generated: object
) -> tuple[tuple[str, ...], list[tuple[Ints, Ints]]]:
    """Names of the classes, none without labels; for each row which series of both sides."""
    if (labels_real is None) != (labels_generated is None):
        missing = "labels_real" if labels_real is None else "labels_generated"
        raise bad_value(missing, "labels for both sides or for neither", "None")
    real, generated = sides.values()
    if labels_real is None:
        return (), [(np.arange(len(real)), np.arange(len(generated)))]
    # named before they are compared: 1, 1.0 and "1" are one class
    text = []
    for labels, x, side in (
        (labels_real, real, "real"),
        (labels_generated, generated, "generated"),
    ):
        known = Labels.fit(labels)
        text.append(known.decode(known.encode(labels)))
        if len(text[-1]) != len(x):
            raise bad_value(f"labels_{side}", f"{len(x)}, one a series", len(text[-1]))
    names = Labels.fit(np.concatenate(text)).names
    rows = [(np.flatnonzero(text[0] == k), np.flatnonzero(text[1] == k)) for k in names[:MAX_ROWS]]
    return names, rows


def picture_kind(path: Path) -> str:
    """The format that the end of a file's name asks for."""
    if path.suffix.lower() not in SUFFIXES:
        raise bad_value("path", f"a name that ends in {', '.join(SUFFIXES)}", repr(str(path)))
    return path.suffix.lower()[1:]


def written(figure: Any, path: Path, kind: str | None) -> None:
    """The whole file or none."""
    with atomic(path) as file:
        figure.savefig(file, format=kind, dpi=150)


def new_figure(n_rows: int, width: float = 9) -> Any:
    """A Figure of its own, unknown to pyplot: no window, no backend, nothing to close."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        wanted = 'pictures need matplotlib: pip install "tsgen[viz]"'
        raise ArgumentError(f"{wanted}, got: {error}") from error
    return Figure(figsize=(width, 0.7 + 1.9 * n_rows), layout="constrained")


def finish(figure: Any, axes: Any, title: str, titled: bool) -> None:
    """What a figure has once: a legend of its last line, the unit of time, a title."""
    first = next(axis for axis in axes.flat if axis.lines)
    first.legend(handles=[first.lines[-1]], loc="upper right", frameon=False, fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("time (samples)")
    if titled:
        figure.suptitle(title, fontsize=10)


def draw(axis: Any, x_BL: Floats, per_class: int) -> None:
    """Some series thin, and the mean of all thick."""
    thin = x_BL[:per_class]
    if len(thin):
        axis.plot(thin.T, **THIN, alpha=min(0.6, 0.15 + 3 / len(thin)))
        axis.plot(x_BL.mean(0, dtype=np.float64), **MEAN)
    plain(axis)


def plain(axis: Any) -> None:
    """Little ink."""
    axis.margins(x=0)
    axis.grid(alpha=0.25, linewidth=0.5)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
