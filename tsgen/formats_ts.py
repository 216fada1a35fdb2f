"""The .ts format of sktime and aeon, and the .arff files of the UCR and UEA archives."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from tsgen.errors import bad_value
from tsgen.formats_io import Collection, Floats, Rows, Source, format_rows, one_line

_ATTRIBUTE = re.compile(r"@attribute\s+('[^']*'|\"[^\"]*\"|\S+)\s+(.*\S)", re.I)
_RELATIONAL = re.compile(r"\s*('[^']*'|\"[^\"]*\")\s*(?:,(.*))?")


def read_ts(source: Source) -> Collection:
    """Read .ts: what the header says of dimensions, lengths and classes is checked.

    Raises FileError for time stamps, which this reader does not know.
    """
    lines = source.lines()
    header = _header(source, lines)
    if _flag(source, header, "timestamps"):
        raise source.error("wanted values only, got a file with time stamps (@timeStamps true)")
    classes = header.get("classlabel", "").split()
    labelled = _flag(source, header, "classlabel") or _flag(source, header, "targetlabel")
    channels = _whole(source, header, "dimensions") or _whole(source, header, "dimension")
    if not channels and _flag(source, header, "univariate"):
        channels = 1
    equal, length = _flag(source, header, "equallength"), _whole(source, header, "serieslength")
    rows = Rows(source)
    for line, text in lines:
        if text.startswith(("#", "%")):
            continue
        parts = text.split(":")
        label = parts.pop().strip() if labelled else None
        values = [source.numbers(part.split(","), line) for part in parts]
        wanted = channels or (len(rows.series[0]) if rows.series else len(values))
        if not values or len(values) != wanted:
            raise source.error(f"wanted {wanted or 1} dimensions, got {len(values)}", line)
        length = length or (len(values[0]) if equal else 0)
        if equal and len(values[0]) != length:
            raise source.error(f"wanted {length} time steps, got {len(values[0])}", line)
        if label is not None and classes[1:] and label not in classes[1:]:
            raise source.error(f"wanted a class of @classLabel, got {label[:40]!r}", line)
        rows.add(values, label, line)
    return rows.build(padded=False)


def _header(source: Source, lines: Iterator[tuple[int, str]]) -> dict[str, str]:
    """The @ lines up to @data: lower-case name to the rest of the line."""
    header: dict[str, str] = {}
    for line, text in lines:
        if text.startswith(("#", "%")):
            continue
        if not text.startswith("@"):
            raise source.error(f"wanted a line with @ before @data, got {text[:40]!r}", line)
        name, _, rest = text[1:].partition(" ")
        if name.strip().lower() == "data":
            return header
        header[name.strip().lower()] = rest.strip()
    raise source.error("wanted a line @data, got none")


def _flag(source: Source, header: dict[str, str], name: str) -> bool:
    word = (header.get(name, "").split() or ["false"])[0].lower()
    if word not in ("true", "false"):
        raise source.error(f"wanted true or false after @{name}, got {word[:40]!r}")
    return word == "true"


def _whole(source: Source, header: dict[str, str], name: str) -> int:
    """A positive number of the header; 0 where it does not say."""
    text = header.get(name, "0")
    if not (text.isdecimal() and len(text) < 10) or (name in header and int(text) == 0):
        raise source.error(f"wanted a positive number after @{name}, got {text[:40]!r}")
    return int(text)


def write_ts(file: IO[bytes], c: Collection, path: str) -> None:
    """Write .ts; a class name must not hold spaces, commas or colons."""
    _, channels, time = c.X.shape
    labels = None if c.y is None else c.y.tolist()
    names = sorted(set(labels or []))
    bad = [name for name in names if not one_line(name, " \t,:")]
    if bad:
        raise bad_value("labels", "names without spaces, commas and colons", repr(bad[0]))
    kept = np.ones(c.X.shape, np.bool_)
    if c.lengths is not None:
        kept &= np.arange(time) < c.lengths[:, None, None]
    missing = bool(np.isnan(c.X[kept]).any())
    problem = re.sub(r"\s", "_", Path(path).name.split(".")[0]) or "data"
    header = [f"@problemName {problem}", "@timeStamps false", f"@missing {missing}"]
    header += [f"@univariate {channels == 1}", f"@dimensions {channels}"]
    header += [f"@equalLength {c.lengths is None}"]
    header += [f"@seriesLength {time}"] if c.lengths is None else []
    header += ["@classLabel " + ("false" if labels is None else " ".join(["true", *names]))]
    text = "\n".join(header).replace(" True", " true").replace(" False", " false")
    file.write((text + "\n@data\n").encode())
    for i, texts in enumerate(format_rows(c.X, c.lengths)):
        line = ":".join(texts).replace("nan", "?")
        end = "" if labels is None else f":{labels[i]}"
        file.write(f"{line}{end}\n".encode())


@dataclass(frozen=True)
class _Arff:
    """What an .arff header says: time steps, whether cases are relational, whether labelled."""

    steps: int
    relational: bool
    classes: tuple[str, ...] | None


def read_arff(source: Source) -> Collection:
    """Read .arff: numeric attributes are the time steps, or those inside a relational one.

    The class is the last attribute, nominal; without one there are no labels. NaN (?) at the
    end of a series is padding.
    """
    lines = ((n, text.strip()) for n, text in source.lines() if not text.lstrip().startswith("%"))
    head = _arff_header(source, lines)
    rows = Rows(source)
    for line, text in lines:
        if text.startswith("{"):
            raise source.error("wanted dense data, got a sparse row", line)
        values, rest = _arff_case(source, head, text, line)
        if any(len(v) != head.steps for v in values):
            got = sorted({len(v) for v in values})
            raise source.error(f"wanted {head.steps} values as in the header, got {got}", line)
        label = rest.strip().strip("'\"") if rest is not None else None
        if (label is None) != (head.classes is None):
            raise source.error("wanted a class label where, and only where, one is declared", line)
        if label is not None and head.classes and label not in head.classes:
            raise source.error(f"wanted a declared class, got {label[:40]!r}", line)
        rows.add(values, label, line)
    return rows.build(padded=True)


def _arff_case(
    source: Source, head: _Arff, text: str, line: int
) -> tuple[list[Floats], str | None]:
    """The channels of one case, and the text of its label."""
    if not head.relational:
        cells = text.split(",")
        rest = cells.pop() if head.classes is not None else None
        return [source.numbers(cells, line)], rest
    match = _RELATIONAL.fullmatch(text)
    if match is None:
        raise source.error("wanted a quoted relational value and a label", line)
    channels = match[1][1:-1].split("\\n")
    return [source.numbers(channel.split(","), line) for channel in channels], match[2]


def _arff_header(source: Source, lines: Iterator[tuple[int, str]]) -> _Arff:
    steps, relational, classes = 0, False, None
    for line, text in lines:
        word = text.split(None, 1)[0].lower()
        if word == "@data":
            if steps == 0:
                raise source.error("wanted numeric attributes before @data, got none", line)
            return _Arff(steps, relational, classes)
        if word in ("@relation", "@end"):
            continue
        match = _ATTRIBUTE.fullmatch(text)
        if match is None:
            raise source.error(f"wanted an @attribute, got {text[:40]!r}", line)
        kind = match[2]
        if classes is not None:
            raise source.error("wanted the nominal attribute last, got another after it", line)
        if kind.lower() == "relational":
            if relational or steps:
                raise source.error("wanted one relational attribute, first", line)
            relational = True
        elif kind.startswith("{") and kind.endswith("}"):
            classes = tuple(name.strip().strip("'\"") for name in kind[1:-1].split(","))
        elif kind.lower().split()[0] in ("numeric", "real", "integer"):
            steps += 1
        else:
            raise source.error(
                f"wanted a numeric, relational or nominal attribute, got {kind}", line
            )
    raise source.error("wanted a line @data, got none")
