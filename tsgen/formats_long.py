"""Long tables, one value per row (series_id, t, channel, value, label), and .parquet."""

from __future__ import annotations

import io
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from tsgen.errors import ArgumentError
from tsgen.formats_io import Collection, Floats, Ints, Names, Rows, Source
from tsgen.labels import names_of

LONG = ("series_id", "t", "channel", "value", "label")
_ROWS_AT_ONCE = 2**20

# The distinct values of a column, and for each row which of them it holds.
Column = tuple[npt.NDArray[Any], Ints]


def from_long(source: Source, columns: dict[str, Column], values: Floats) -> Collection:
    """Rows in any order as a collection.

    columns: series_id, t (whole numbers from 0), and perhaps channel and label.
    values: float32, one per row.

    Raises FileError for a value given twice, a gap in t, and two labels in one series.
    """
    if not len(values):
        raise source.error("wanted at least one series, got none")
    ids, series = columns["series_id"]
    steps, step = columns["t"]
    if steps.dtype.kind not in "iu" or steps.min() < 0 or steps.max() >= len(values):
        raise source.error("wanted t to count 0, 1, 2, ... in each series and channel")
    t = steps.astype(np.int64)[step]
    names, channel = columns.get("channel", (np.array([0]), np.zeros(len(values), np.int64)))
    shape = (len(ids), len(names), int(t.max()) + 1)
    if 4 * shape[0] * shape[1] * shape[2] > max(source.max_bytes, 4 * len(values)):
        raise source.too_big(f"padding to {shape} takes more")
    X = np.full(shape, np.nan, np.float32)
    seen = np.zeros(shape, np.bool_)
    X[series, channel, t], seen[series, channel, t] = values, True
    lengths: Ints = seen.sum(axis=2)
    if seen.sum() != len(values):
        raise source.error("wanted each (series_id, t, channel) once, got one twice")
    last = shape[2] - seen[:, :, ::-1].argmax(axis=2)
    if (lengths != last).any() or (lengths != lengths[:, :1]).any():
        raise source.error("wanted every t from 0 to the end of its series in every channel")
    if np.isinf(X).any():
        raise source.error("wanted finite numbers, got infinity or one too large for float32")
    if shape[2] < 2:
        raise source.error("wanted series of at least 2 time steps, got 1")
    y = _label_of_series(source, series, columns["label"]) if "label" in columns else None
    unequal = lengths[:, 0] if (lengths != shape[2]).any() else None
    counted = np.array_equal(names, np.arange(len(names)))
    return Collection(X, y, unequal, None if counted else tuple(map(str, names.tolist())))


def _label_of_series(source: Source, series: Ints, column: Column) -> Names:
    names, code = column
    of_series = np.zeros(int(series.max()) + 1, np.int64)
    of_series[series] = code
    if (of_series[series] != code).any():
        raise source.error("wanted one label in each series, got two")
    return _as_names(source, names)[of_series]


def _as_names(source: Source, names: npt.NDArray[Any]) -> Names:
    """Distinct labels, ints or text, as text."""
    try:
        known, inverse, _ = names_of(names, "label")
    except (ValueError, TypeError) as error:
        raise source.error(str(error)) from error
    return np.array(known)[inverse]


def text_column(cells: list[str]) -> Column:
    """A column of text: as whole numbers in their order, or as names in order of appearance."""
    array = np.array(cells)
    try:
        whole = array.astype(np.int64)
    except (ValueError, OverflowError):
        whole = np.zeros(0, np.int64)
    if whole.shape == array.shape and (whole.astype(array.dtype) == array).all():  # not "01"
        return _codes(whole)
    places = {name: i for i, name in enumerate(dict.fromkeys(cells))}
    return np.array(list(places)), np.array([places[cell] for cell in cells], np.int64)


def _codes(values: npt.NDArray[Any]) -> Column:
    """The distinct whole numbers, sorted, and which of them each row holds."""
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    if high - low >= max(values.size, 2**16) or high >= 2**62 or low <= -(2**62):
        unique, inverse = np.unique(values, return_inverse=True)
        return unique, inverse.astype(np.int64)
    place = values.astype(np.int64) - low  # dense, as ids are: counting is faster than sorting
    used = np.zeros(high - low + 1, np.bool_)
    used[place] = True
    if used.all():
        return np.arange(low, high + 1), place
    return np.flatnonzero(used) + low, (np.cumsum(used) - 1)[place]


def _pyarrow(path: str) -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ArgumentError(f"{path}: .parquet needs pyarrow: pip install tsgen[io]") from error
    return pyarrow, pyarrow.parquet


def read_parquet(source: Source) -> Collection:
    """The long form if there are columns series_id, t and value; else one series per row.

    One series per row: every column is a time step, but for one called label.
    """
    _, parquet = _pyarrow(source.path)
    stream = io.BytesIO(source.all_bytes()) if source.packed else source.stream
    file = parquet.ParquetFile(stream)
    columns = file.schema_arrow.names
    long = {"series_id", "t", "value"} <= set(columns)
    wanted = [name for name in columns if name in LONG or not long]
    groups = (file.metadata.row_group(i) for i in range(file.metadata.num_row_groups))
    size = max(sum(group.total_byte_size for group in groups), 8 * file.metadata.num_rows)
    if size > source.max_bytes:
        raise source.too_big(f"unpacks to {size}")
    table = file.read(columns=wanted)
    if not long:
        return _from_wide(source, table)
    read = {name: _column(source, table, name) for name in wanted if name != "value"}
    return from_long(source, read, _values(source, table, "value"))


def _column(source: Source, table: Any, name: str) -> Column:
    column = table.column(name)
    if column.null_count:
        raise source.error(f"wanted a value in every row of {name}, got {column.null_count} nulls")
    kind = str(column.type)
    if kind.startswith(("int", "uint")):
        return _codes(column.to_numpy())
    if not kind.startswith(("string", "large_string", "dictionary")):
        raise source.error(f"wanted whole numbers or text in {name}, got {kind}")
    encoded = column.combine_chunks()
    encoded = encoded if kind.startswith("dictionary") else encoded.dictionary_encode()
    names = np.array(encoded.dictionary.to_pylist())
    used, codes = _codes(encoded.indices.to_numpy())
    return names[used], codes


def _values(source: Source, table: Any, name: str) -> Floats:
    column = table.column(name)
    if not str(column.type).startswith(("int", "uint", "float", "double", "halffloat")):
        raise source.error(f"wanted numbers in {name}, got {column.type}")
    with np.errstate(over="ignore"):
        values: Floats = column.to_numpy().astype(np.float32)  # null becomes NaN
    return values


def _from_wide(source: Source, table: Any) -> Collection:
    names = [name for name in table.column_names if name != "label"]
    if not names or not table.num_rows:
        raise source.error("wanted at least one series and one time step, got none")
    matrix = np.stack([_values(source, table, name) for name in names], axis=1)
    rows = Rows(source)
    labels = None
    if "label" in table.column_names:
        unique, code = _column(source, table, "label")
        labels = _as_names(source, unique)[code].tolist()
    for i, values in enumerate(matrix):
        rows.add([values], None if labels is None else labels[i], i + 1)
    return rows.build(padded=True)


def write_parquet(file: IO[bytes], c: Collection, path: str, first_id: int) -> None:
    """The long form: series_id int64, t int32, channel int32 or text, value float32, label text."""
    pa, parquet = _pyarrow(path)
    n, channels, time = c.X.shape
    text = pa.dictionary(pa.int32(), pa.string())
    names = None if c.channels is None else pa.array(list(c.channels))
    fields = [("series_id", pa.int64()), ("t", pa.int32())]
    fields += [("channel", pa.int32() if names is None else text), ("value", pa.float32())]
    classes, codes = (None, None) if c.y is None else np.unique(c.y, return_inverse=True)
    schema = pa.schema(fields + ([] if classes is None else [("label", text)]))
    step = max(1, _ROWS_AT_ONCE // (channels * time))
    with parquet.ParquetWriter(file, schema) as writer:
        for start in range(0, n, step):
            X = c.X[start : start + step]
            kept = np.ones(X.shape, np.bool_)
            if c.lengths is not None:
                kept &= np.arange(time) < c.lengths[start : start + step, None, None]
            i, channel, t = (a.astype(np.int32) for a in np.nonzero(kept))
            columns = [
                pa.array(i.astype(np.int64) + (first_id + start)),
                pa.array(t),
                pa.array(channel),
            ]
            if names is not None:
                columns[2] = pa.DictionaryArray.from_arrays(columns[2], names)
            columns.append(pa.array(X[kept]))
            if classes is not None and codes is not None:
                label = codes[i + start].astype(np.int32)
                columns.append(pa.DictionaryArray.from_arrays(label, classes.tolist()))
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
