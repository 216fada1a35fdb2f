"""Tables as text: UCR 2018 .tsv, and .csv wide (one series per row) or long (one value per row)."""

from __future__ import annotations

import csv
import functools
import itertools
from collections.abc import Iterator
from typing import IO

import numpy as np

from tsgen.errors import bad_value
from tsgen.formats_io import MISSING, NUMBER, Collection, Rows, Source, format_rows, one_line
from tsgen.formats_long import LONG, Column, from_long, text_column

_LABEL_NAMES = ("label", "class", "target", "y")


def read_tsv(source: Source) -> Collection:
    """UCR 2018: the label first, then the values, tab separated; NaN at the end is padding."""
    rows = Rows(source)
    width = 0
    for line, text in source.lines():
        label, *cells = text.split("\t")
        width = width or len(cells)
        if len(cells) != width or not cells:
            raise source.error(
                f"wanted a label and {width or 'some'} tab-separated values, got {len(cells)} "
                f"values",
                line,
            )
        rows.add([source.numbers(cells, line, 2)], _plain(label.strip()), line)
    return rows.build(padded=True)


@functools.lru_cache(4096)
def _plain(label: str) -> str:
    """UCR writes one class as 1, 1.0 or 1.0000000e+00."""
    if NUMBER.fullmatch(label) and abs(float(label)) < 2**53 and float(label) == int(float(label)):
        return str(int(float(label)))
    return label


def read_csv(source: Source, label_column: str | int | None, header: bool | None) -> Collection:
    """One series per row, or one value per row if the header has the names of the long form.

    label_column: name or position of the label column; None takes one called label, class,
        target or y, if there is a header.
    header: whether the first line names the columns; None: it does if a cell of it, outside a
        label column given by position, is not a number.
    """
    lines = ((line, _cells(text)) for line, text in source.lines())
    first = next(lines, None)
    if first is None:
        raise source.error("wanted at least one series, got an empty file")
    names = first[1]
    if header is None:
        header = not _is_data(names, label_column)
    if header and set(LONG[:2]) | {"value"} <= set(names):
        return _read_long(source, names, lines)
    position = _position(source, names if header else None, len(names), label_column)
    rows, width = Rows(source), len(names)
    for line, cells in lines if header else itertools.chain([first], lines):
        if len(cells) != width:
            raise source.error(f"wanted {width} cells, got {len(cells)}", line)
        label = None if position is None else cells.pop(position).strip()
        rows.add([source.numbers(cells, line)], label, line)
    return rows.build(padded=True)


def _cells(text: str) -> list[str]:
    return next(csv.reader([text])) if '"' in text else text.split(",")


def _is_data(cells: list[str], label_column: str | int | None) -> bool:
    """Whether a first line holds numbers, not names."""
    skip = label_column if isinstance(label_column, int) else None
    if isinstance(label_column, str):
        return False
    if skip is not None and -len(cells) <= skip < len(cells):
        cells = [cell for i, cell in enumerate(cells) if i != skip % len(cells)]
    texts = [cell.strip() for cell in cells]
    return all(NUMBER.fullmatch(text) or text.lower() in MISSING for text in texts)


def _position(
    source: Source, names: list[str] | None, width: int, label_column: str | int | None
) -> int | None:
    """Where the label is in a row; None without labels."""
    if isinstance(label_column, int) and not isinstance(label_column, bool):
        if not -width <= label_column < width:
            raise bad_value("label_column", f"a column of {width}", label_column)
        return label_column
    plain = [name.strip() for name in names or []]
    if label_column is None:
        found = [i for i, name in enumerate(plain) if name.lower() in _LABEL_NAMES]
        if len(found) > 1:
            raise bad_value("label_column", f"one of {[plain[i] for i in found]}", "None")
        return found[0] if found else None
    if plain.count(str(label_column)) != 1:
        shown = f"the name of one column of {source.path}: {plain[:20]}"
        raise bad_value("label_column", shown, repr(label_column))
    return plain.index(str(label_column))


def _read_long(
    source: Source, names: list[str], lines: Iterator[tuple[int, list[str]]]
) -> Collection:
    columns: dict[str, list[str]] = {n: [] for n in LONG if n in names and n != "value"}
    places = [(names.index(name), column) for name, column in columns.items()]
    at = names.index("value")
    values: list[float] = []
    for line, cells in lines:
        if len(cells) != len(names):
            raise source.error(f"wanted {len(names)} cells, got {len(cells)}", line)
        for place, column in places:
            column.append(cells[place].strip())
        values.append(source.number(cells[at], line, at + 1))
    with np.errstate(over="ignore"):
        floats = np.array(values, np.float32)
    read: dict[str, Column] = {name: text_column(cells) for name, cells in columns.items()}
    return from_long(source, read, floats)


def write_csv(file: IO[bytes], c: Collection, first_id: int) -> None:
    """One channel: a header (label, t0, t1, ...) and a row per series; more: the long form."""
    labels = None if c.y is None else c.y.tolist()
    bad = [name for name in {*(labels or []), *(c.channels or ())} if not one_line(name, "")]
    if bad:
        raise bad_value("labels", "names of one line without outer spaces", repr(bad[0]))
    if c.X.shape[1] > 1 or c.channels:
        return _write_long(file, c, labels, first_id)
    names = [*([] if labels is None else ["label"]), *(f"t{t}" for t in range(c.X.shape[2]))]
    file.write((",".join(names) + "\n").encode())
    for i, (values,) in enumerate(format_rows(c.X, None)):
        start = "" if labels is None else _quoted(labels[i]) + ","
        file.write(f"{start}{values}\n".encode())
    return None


def _write_long(file: IO[bytes], c: Collection, labels: list[str] | None, first_id: int) -> None:
    names = LONG if labels is not None else LONG[:-1]
    file.write((",".join(names) + "\n").encode())
    channels = [_quoted(name) for name in c.channels or map(str, range(c.X.shape[1]))]
    for i, texts in enumerate(format_rows(c.X, c.lengths)):
        series_id = first_id + i
        end = "\n" if labels is None else f",{_quoted(labels[i])}\n"
        for channel, text in zip(channels, texts, strict=True):
            cells = enumerate(text.split(","))
            file.write("".join(f"{series_id},{t},{channel},{v}{end}" for t, v in cells).encode())


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if "," in text or '"' in text else text
