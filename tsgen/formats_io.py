"""What all file formats share: bounded reading, atomic writing, rows of numbers, typed errors."""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from tsgen.errors import FileError, TsgenError

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Names = npt.NDArray[np.str_]

MAX_BYTES = 4 * 2**30
MAX_LINE = 64 * 2**20

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?inf(inity)?", re.ASCII | re.I)
MISSING = {"", "?", "na", "nan", "+nan", "-nan", "null"}


@dataclass(frozen=True)
class Collection:
    """What a file holds.

    X: float32 (n, channels, time); NaN is a missing value, or the padding of a shorter series.
    y: class names, str (n,), or None.
    lengths: time steps of each series, int64 (n,), or None where all are equal.
    channels: names of the channels, or None.
    """

    X: Floats
    y: Names | None = None
    lengths: Ints | None = None
    channels: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Source:
    """An open file, and how much it may unpack to.

    path: its name, for errors.  stream: its bytes, unpacked.  packed: it is compressed.
    max_bytes: the most bytes a compressed file may unpack to, or padding may produce.
    """

    path: str
    stream: IO[bytes]
    packed: bool
    max_bytes: int

    def error(self, what: str, line: int | None = None) -> FileError:
        """The error for this file; raise what it returns."""
        return FileError(f"{self.path}{'' if line is None else f', line {line}'}: {what}")

    def lines(self) -> Iterator[tuple[int, str]]:
        """Each line that is not blank, with its number from 1, without its end."""
        total = number = 0
        while raw := self.stream.readline(MAX_LINE + 1):
            number, total = number + 1, total + len(raw)
            if len(raw) > MAX_LINE:
                raise self.error(
                    f"wanted lines of at most {MAX_LINE} bytes, got a longer one", number
                )
            if self.packed and total > self.max_bytes:
                raise self.too_big("unpacks to more than that")
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise self.error(f"wanted UTF-8 text, got {error.reason}", number) from error
            if text and not text.isspace():
                yield number, text

    def all_bytes(self) -> bytes:
        """The whole content."""
        content = self.stream.read(self.max_bytes + 1 if self.packed else -1)
        if self.packed and len(content) > self.max_bytes:
            raise self.too_big("unpacks to more than that")
        return content

    def too_big(self, got: str) -> FileError:
        """The error for content over max_bytes; raise what it returns."""
        return self.error(f"wanted at most max_bytes={self.max_bytes} bytes, {got}; raise it?")

    def numbers(self, cells: list[str], line: int, first: int = 1) -> Floats:
        """The cells of a line as float32; empty, "?" and "NaN" are NaN.

        first: the number that errors give to the first cell.
        """
        try:
            values = list(map(float, cells))
            strict = "_" not in "".join(cells)  # float() takes 1_0 for 10
        except ValueError:
            strict = False
        if not strict:
            values = [self.number(cell, line, i) for i, cell in enumerate(cells, first)]
        with np.errstate(over="ignore"):
            return np.array(values, np.float32)

    def number(self, cell: str, line: int, place: int) -> float:
        """One cell as a float."""
        text = cell.strip()
        if text.lower() in MISSING:
            return float("nan")
        if not NUMBER.fullmatch(text):
            raise self.error(f"wanted a number in place {place}, got {text[:40]!r}", line)
        return float(text)


@contextlib.contextmanager
def typed_errors(path: str) -> Iterator[None]:
    """Turn whatever a parser raises on a hostile file into a FileError that names the file."""
    try:
        yield
    except TsgenError:
        raise
    except Exception as error:
        what = str(error) or "no details"
        raise FileError(f"{path}: cannot be read: {type(error).__name__}: {what}") from error


@contextlib.contextmanager
def open_source(path: Path, max_bytes: int) -> Iterator[Source]:
    """Open a regular file, through gzip if its name ends in .gz; every error becomes typed."""
    with typed_errors(str(path)), contextlib.ExitStack() as stack:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe or device never ends
            raise FileError(f"{path}: wanted a regular file")
        stream: IO[bytes] = stack.enter_context(path.open("rb"))
        packed = path.suffix.lower() == ".gz"
        if packed:
            stream = cast(IO[bytes], stack.enter_context(gzip.GzipFile(fileobj=stream)))
        yield Source(str(path), stream, packed, max_bytes)


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """A stream whose bytes appear under path, all at once, when the block ends without error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            if path.suffix.lower() == ".gz":  # no name, no time: equal data are equal bytes
                with gzip.GzipFile("", "wb", 4, file, mtime=0) as packed:
                    yield cast(IO[bytes], packed)
            else:
                yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        if isinstance(error, TsgenError):
            raise
        raise FileError(f"{path}: cannot be written: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@dataclass
class Rows:
    """Series gathered line by line, then put in one array."""

    source: Source
    series: list[list[Floats]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)

    def add(self, channels: list[Floats], label: str | None, line: int) -> None:
        """Append one series: its channels, all of one length, and its label."""
        if self.series and len(channels) != len(self.series[0]):
            wanted = f"{len(self.series[0])} channels as in line {self.lines[0]}"
            raise self.source.error(f"wanted {wanted}, got {len(channels)}", line)
        if any(len(values) != len(channels[0]) for values in channels):
            got = sorted({len(values) for values in channels})
            raise self.source.error(f"wanted channels of one length, got lengths {got}", line)
        if label is not None:
            if label.lower() in MISSING:
                raise self.source.error(f"wanted a class label, got {label!r}", line)
            self.labels.append(label)
        self.series.append(channels)
        self.lines.append(line)

    def build(self, *, padded: bool) -> Collection:
        """The collection; padded: NaN at the end of a series is padding, not missing values."""
        if not self.series:
            raise self.source.error("wanted at least one series, got none")
        lengths = np.array([len(channels[0]) for channels in self.series], np.int64)
        shape = (len(lengths), len(self.series[0]), int(lengths.max()))
        if shape[2] < 2:
            raise self.source.error("wanted series of at least 2 time steps, got 1")
        if 4 * shape[0] * shape[1] * shape[2] > self.source.max_bytes and np.ptp(lengths):
            raise self.source.too_big(f"padding to {shape} takes more")
        X = np.full(shape, np.nan, np.float32)
        for i, channels in enumerate(self.series):
            X[i, :, : lengths[i]] = channels
        self._refuse_infinity(X)
        if padded:
            lengths = self._unpadded(X)
        y = np.array(self.labels) if self.labels else None
        return Collection(X, y, lengths if (lengths != shape[2]).any() else None)

    def _refuse_infinity(self, X: Floats) -> None:
        bad = np.isinf(X)
        if bad.any():
            i = int(bad.any(axis=(1, 2)).argmax())
            what = "wanted finite numbers, got infinity or a number too large for float32"
            raise self.source.error(what, self.lines[i])

    def _unpadded(self, X: Floats) -> Ints:
        known: npt.NDArray[np.bool_] = ~np.asarray(np.isnan(X).all(axis=1))
        if not known.any(axis=1).all():
            line = self.lines[int((~known.any(axis=1)).argmax())]
            raise self.source.error("wanted a series, got only missing values", line)
        lengths: Ints = X.shape[2] - known[:, ::-1].argmax(axis=1).astype(np.int64)
        return lengths


def format_rows(X: Floats, lengths: Ints | None) -> Iterator[list[str]]:
    """Each series as one text per channel, comma separated, 9 digits: float32 comes back exact."""
    formats: dict[int, str] = {}
    for i, channels in enumerate(X):
        steps = X.shape[2] if lengths is None else int(lengths[i])
        pattern = formats.setdefault(steps, ",".join(["%.9g"] * steps))
        yield [pattern % tuple(values[:steps].tolist()) for values in channels]


def one_line(text: Any, forbidden: str) -> bool:
    """Whether a text can stand in a line of a file as it is."""
    return str(text).strip() == text and not any(c in text for c in forbidden + "\r\n\0")
