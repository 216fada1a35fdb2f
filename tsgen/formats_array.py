"""Arrays in files: .npy and .npz. Pickles and object arrays are refused."""

from __future__ import annotations

import gzip
import io
import math
import struct
import zipfile
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from tsgen.data import as_series
from tsgen.errors import ArgumentError, FileError
from tsgen.formats_io import Collection, Ints, Names, Source
from tsgen.labels import names_of

_HEADER_BYTES = 10_000  # more than any plain array needs
_CHUNK = 2**24


def read_npy_file(source: Source, layout: str) -> Collection:
    """An .npy file: the series alone."""
    budget = source.max_bytes if source.packed else 2**63
    return Collection(_series(source.path, _read_npy(source.stream, source.path, budget), layout))


def read_npz(source: Source, layout: str, split: str | None) -> Collection:
    """An .npz file: X and perhaps y, lengths, channels; with a split X_train, y_train, ..."""
    end = "" if split is None else f"_{split}"
    stream: IO[bytes] = io.BytesIO(source.all_bytes()) if source.packed else source.stream
    with zipfile.ZipFile(stream) as archive:
        keys = {name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")}
        if f"X{end}" not in keys:
            hint = "; pass split=" if split is None and "X_train" in keys else ""
            raise ArgumentError(f"{source.path}: wanted X{end}, got {sorted(keys)[:20]}{hint}")
        found: dict[str, npt.NDArray[Any]] = {}
        budget = source.max_bytes
        for key in ("X", "y", "lengths", "channels"):
            if f"{key}{end}" in keys:
                where = f"{source.path}, {key}{end}"
                with archive.open(f"{key}{end}.npy") as member:
                    found[key] = _read_npy(member, where, budget)
                budget -= found[key].nbytes
    X = _series(f"{source.path}, X{end}", found["X"], layout)
    y = _names(source.path, found["y"], len(X)) if "y" in found else None
    lengths = _lengths(source.path, found["lengths"], X.shape) if "lengths" in found else None
    channels = None
    if "channels" in found:
        channels = tuple(map(str, found["channels"].ravel().tolist()))
        if len(channels) != X.shape[1]:
            raise source.error(f"wanted {X.shape[1]} channel names, got {len(channels)}")
    return Collection(X, y, lengths, channels)


def _read_npy(stream: IO[bytes], where: str, budget: int) -> npt.NDArray[Any]:
    """One array; nothing is allocated before its header and the bytes behind it agree."""
    magic = stream.read(8)
    if magic[:6] != b"\x93NUMPY" or magic[6:] not in (b"\x01\x00", b"\x02\x00"):
        raise FileError(f"{where}: wanted a NumPy array (version 1 or 2), got {magic!r}")
    width = 2 if magic[6] == 1 else 4
    prefix = stream.read(width)
    length = struct.unpack("<H" if width == 2 else "<I", prefix)[0]
    if length > _HEADER_BYTES:
        raise FileError(f"{where}: wanted a header of at most {_HEADER_BYTES} bytes, got {length}")
    header = io.BytesIO(prefix + stream.read(length))
    parse: Any = getattr(np.lib.format, f"read_array_header_{magic[6]}_0")
    shape, fortran, dtype = parse(header, max_header_size=_HEADER_BYTES)
    if dtype.hasobject or dtype.kind not in "iufUS":
        raise FileError(f"{where}: wanted numbers or text, got dtype {dtype} (pickles are refused)")
    if any(type(size) is not int or size < 0 for size in shape) or len(shape) > 3:
        raise FileError(f"{where}: wanted up to 3 sizes of at least 0, got {shape}")
    total = math.prod(shape) * dtype.itemsize
    if total > budget:
        raise FileError(
            f"{where}: holds {total} bytes, more than max_bytes allows; raise max_bytes"
        )
    content = bytearray()
    while len(content) < total:
        part = stream.read(min(_CHUNK, total - len(content)))
        if not part:
            raise FileError(f"{where}: wanted {total} bytes for {shape}, got {len(content)}")
        content += part
    if stream.read(1):
        raise FileError(f"{where}: wanted {total} bytes for {shape}, got more")
    flat = np.frombuffer(content, dtype, count=math.prod(shape))
    return flat.reshape(shape, order="F" if fortran else "C")


def _series(where: str, array: npt.NDArray[Any], layout: str) -> npt.NDArray[np.float32]:
    try:
        return as_series(array, layout=layout, name="X", allow_nan=True)
    except (ValueError, TypeError) as error:
        raise FileError(f"{where}: {error}") from error


def _names(path: str, y: npt.NDArray[Any], n: int) -> Names:
    try:
        names, inverse, _ = names_of(y, "y")
    except (ValueError, TypeError) as error:
        raise FileError(f"{path}: {error}") from error
    if len(inverse) != n:
        raise FileError(f"{path}: wanted {n} labels in y, one per series, got {len(inverse)}")
    return np.array(names)[inverse]


def _lengths(path: str, lengths: npt.NDArray[Any], shape: tuple[int, ...]) -> Ints:
    right = lengths.shape == shape[:1] and lengths.dtype.kind in "iu"
    if not right or lengths.min() < 1 or lengths.max() > shape[2]:
        raise FileError(f"{path}: wanted {shape[0]} lengths in 1..{shape[2]}, got others")
    return lengths.astype(np.int64)


def write_npy(file: IO[bytes], c: Collection) -> None:
    """The series alone; float32 (n, channels, time)."""
    if c.y is not None or c.lengths is not None or c.channels is not None:
        raise ArgumentError("labels: .npy holds series only; write .npz, .ts, .csv or .parquet")
    np.lib.format.write_array(file, c.X, allow_pickle=False)


def write_npz(file: IO[bytes], c: Collection) -> None:
    """X, and y, lengths and channels where there are any; not compressed."""
    rest = {"y": c.y, "lengths": c.lengths}
    arrays = {key: array for key, array in rest.items() if array is not None}
    names = {} if c.channels is None else {"channels": np.array(c.channels)}
    packed = (
        io.BytesIO() if isinstance(file, gzip.GzipFile) else file
    )  # zip seeks back, gzip cannot
    np.savez(packed, allow_pickle=False, X=c.X, **arrays, **names)
    if isinstance(packed, io.BytesIO):
        file.write(packed.getbuffer())
