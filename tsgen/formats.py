"""Read and write collections of series; the end of the file's name says which format.

| name | holds | read | written |
|---|---|---|---|
| .tsv | UCR 2018: label, then values | yes | |
| .csv | one series per row; or one value per row, as .parquet | yes | yes |
| .ts | sktime, aeon: several channels, unequal lengths | yes | yes |
| .arff | UCR, UEA: one channel, or several in a relational attribute | yes | |
| .npy | an array, no labels | yes | yes |
| .npz | X, y, lengths, channels; or X_train, y_train, X_test, y_test | yes | yes |
| .parquet | columns series_id, t, channel, value, label; needs pyarrow | yes | yes |

Each also with .gz. In .tsv, .csv and .arff, NaN at the end of a series is padding.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tsgen.data import as_series, check_layout
from tsgen.errors import ArgumentError, FileError, bad_type, bad_value
from tsgen.formats_array import read_npy_file, read_npz, write_npy, write_npz
from tsgen.formats_io import MAX_BYTES, Collection, atomic, open_source, typed_errors
from tsgen.formats_long import read_parquet, write_parquet
from tsgen.formats_text import read_csv, read_tsv, write_csv
from tsgen.formats_ts import read_arff, read_ts, write_ts
from tsgen.labels import names_of

__all__ = ["READ", "WRITE", "Collection", "read", "write"]

READ = (".npz", ".ts", ".tsv", ".arff", ".csv", ".parquet", ".npy")
_SPLIT = re.compile(r"(.+)_(TRAIN|TEST)", re.I)
WRITE = (".npz", ".npy", ".csv", ".ts", ".parquet")


def read(
    path: str | os.PathLike[str],
    *,
    split: str | None = None,
    layout: str = "nct",
    label_column: str | int | None = None,
    header: bool | None = None,
    max_bytes: int = MAX_BYTES,
) -> Collection:
    """Read a file, or a folder with NAME_TRAIN.* and NAME_TEST.* or one NAME.npz.

    path: the file (formats: see the module) or folder.
    split: "train" or "test", for a folder and for .npz files that hold both.
    layout: of a 3-D array in .npy or .npz: "nct" or "ntc" (n, time, channels).
    label_column, header: of .csv: the name or position of the labels, and whether the first line
        names the columns; None finds out (`formats_text.read_csv` says how).
    max_bytes: the most bytes that a compressed file may unpack to, or padding may take (4 GiB).

    Raises FileError, naming the file and line, for what is missing, damaged or hostile (a line
    over 64 MiB too), and ArgumentError for an unusable argument.
    """
    target, kind, split = _target(path, split, layout)
    if kind != ".csv" and (label_column is not None or header is not None):
        raise ArgumentError(f"label_column, header: only for .csv, got {kind}")
    with open_source(target, max_bytes) as source:
        match kind:
            case ".tsv":
                return read_tsv(source)
            case ".csv":
                return read_csv(source, label_column, header)
            case ".ts":
                return read_ts(source)
            case ".arff":
                return read_arff(source)
            case ".npy":
                return read_npy_file(source, layout)
            case ".npz":
                return read_npz(source, layout, split)
        return read_parquet(source)


def _target(
    path: str | os.PathLike[str], split: str | None, layout: str
) -> tuple[Path, str, str | None]:
    """The file to read, its format, and the split to take from inside it; all checked."""
    if not isinstance(path, str | os.PathLike):
        raise bad_type("path", "a str or a path", path)
    check_layout(layout)
    if split not in (None, "train", "test"):
        raise bad_value("split", '"train" or "test"', repr(split))
    target = Path(path)
    with typed_errors(str(target)):
        if target.is_dir():
            target = _in_folder(target, split)
            split = None if _SPLIT.fullmatch(target.name.split(".")[0]) else split
        if not target.exists():
            raise FileError(f"{target}: no such file or folder")
    kind = _suffix(target)
    if kind not in READ:
        raise ArgumentError(
            f"{target}: wanted one of {', '.join(READ)} (or with .gz), got {kind!r}"
        )
    if split is not None and kind != ".npz":
        raise bad_value("split", "None for a single file that is not .npz", repr(split))
    return target, kind, split


def _suffix(path: Path) -> str:
    """The suffix that names the format, lower case: ".ts" for "a.TS.gz"."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _in_folder(folder: Path, split: str | None) -> Path:
    """The file of a folder that holds a split; one format is chosen if there are several."""
    pairs: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()):
        found = _SPLIT.fullmatch(file.name.split(".")[0])
        if _suffix(file) in READ and found and split in (None, found[2].lower()):
            pairs.setdefault(found[1], []).append(file)
        elif _suffix(file) == ".npz" and not found:
            pairs.setdefault(file.name.split(".")[0], []).append(file)
    if not pairs:
        wanted = f"NAME_{(split or 'train').upper()}.* or NAME.npz"
        raise FileError(f"{folder}: wanted a folder with {wanted}, got neither")
    if split is None:
        raise bad_value("split", f'"train" or "test" to read the folder {folder}', "None")
    if len(pairs) > 1:
        raise ArgumentError(f"{folder}: wanted one data set, got {sorted(pairs)[:20]}")
    (files,) = pairs.values()
    return min(files, key=lambda file: READ.index(_suffix(file)))


def write(
    path: str | os.PathLike[str],
    x: object,
    labels: object = None,
    *,
    lengths: object = None,
    channels: Sequence[str] | None = None,
    first_id: int = 0,
) -> None:
    """Write series to one file, whole or not at all; an older file of that name is replaced.

    path: ends in .npz, .npy, .csv, .ts or .parquet, perhaps with .gz.
    x: the series, any input of `as_series`; NaN is allowed. float32 comes back exactly.
    labels: one per series, ints or text, or None.
    lengths: time steps of each series if they differ, int (n,); the rest of x is padding.
    channels: names of the channels, kept by .npz, .csv and .parquet.
    first_id: series_id of the first series in the long form of .parquet and .csv.

    Raises FileError if it cannot be written, else as `as_series` does.
    """
    if not isinstance(path, str | os.PathLike):
        raise bad_type("path", "a str or a path", path)
    target = Path(path)
    kind = _suffix(target)
    if kind not in WRITE:
        raise ArgumentError(
            f"{target}: wanted one of {', '.join(WRITE)} (or with .gz), got {kind!r}"
        )
    c = _collection(x, labels, lengths, channels)
    with atomic(target) as file:
        match kind:
            case ".npz":
                write_npz(file, c)
            case ".npy":
                write_npy(file, c)
            case ".csv":
                write_csv(file, c, first_id)
            case ".ts":
                write_ts(file, c, str(target))
            case _:
                write_parquet(file, c, str(target), first_id)


def _collection(
    x: object, labels: object, lengths: object, channels: Sequence[str] | None
) -> Collection:
    """What is to be written, checked, with the padding set to NaN."""
    X = as_series(x, name="x", allow_nan=True)
    y = steps = None
    if labels is not None:
        names, inverse, _ = names_of(labels, "labels")
        y = np.array(names)[inverse]
        if len(y) != len(X):
            raise bad_value("labels", f"{len(X)}, one per series", f"{len(y)}")
    if lengths is not None:
        given = np.asarray(lengths)
        if given.dtype.kind not in "iu" or given.shape != X.shape[:1]:
            raise bad_value("lengths", f"{len(X)} ints", f"{given.dtype} {given.shape}")
        if given.min() < 1 or given.max() > X.shape[2]:
            raise bad_value("lengths", f"1..{X.shape[2]}", f"{given.min()}..{given.max()}")
        X[np.broadcast_to(np.arange(X.shape[2]) >= given[:, None, None], X.shape)] = np.nan
        steps = given.astype(np.int64) if (given != X.shape[2]).any() else None
    names_ = None if channels is None else tuple(channels)
    if names_ is not None and (len(set(names_)) != X.shape[1] or len(names_) != X.shape[1]):
        raise bad_value("channels", f"{X.shape[1]} different names", names_)
    return Collection(X, y, steps, names_)
