"""Series by the million: `tsgen.generate` and `tsgen.stream`.

Shard k of a folder holds the series of indices k S to (k + 1) S - 1. A series depends on
(model, seed, index, label, settings) alone, so who writes a shard, and when, changes none of its
bytes; and a shard appears under its name whole, so the ones that are there need not be made again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray

from tsgen import arguments, formats
from tsgen.bundled import open_model
from tsgen.checks import one_of
from tsgen.errors import ArgumentError, FileError, bad_value
from tsgen.formats_io import atomic, typed_errors
from tsgen.model import Model
from tsgen.request import CHUNK, Order
from tsgen.sampler import Sampler, bar
from tsgen.version import __version__

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
FilePath = str | os.PathLike[str]

FORMATS = tuple(suffix.removeprefix(".") for suffix in formats.WRITE)
MANIFEST = "manifest.json"
MAX_MANIFEST = 10**6  # bytes


@overload
def generate(
    model: Model | FilePath, n: int | None = None, *, out: None = None, **options: Any
) -> Floats: ...
@overload
def generate(model: Model | FilePath, n: int, *, out: FilePath, **options: Any) -> Path: ...
def generate(
    model: Model | FilePath,
    n: int | None = None,
    *,
    out: FilePath | None = None,
    format: str = "npz",
    shard_size: int = 8192,
    label: object = None,
    seed: int = 0,
    indices: Sequence[int] | Ints | None = None,
    batch_size: int | None = None,
    strict: bool = True,
    progress: bool | None = None,
    **settings: Any,
) -> Floats | Path:
    """New series, as one array or as files in a folder.

    model:       a Model, a bundled model's name or a folder
    n:           how many; or leave it out and name `indices`
    out:         a folder for shards samples-00000-of-00123.npz and manifest.json; the same call
                 again writes only the shards that are not there. Under torchrun each rank writes
                 its share, and all together the same bytes as one process
    format:      of the shards: "npz", "npy", "csv", "ts" or "parquet"
    shard_size:  series a shard, rounded up to a multiple of 64, which are computed together; the
                 memory needed is that of one shard
    label, seed, indices, batch_size, strict, progress, settings: as in `Model.generate`; shards
                 store the labels, and go without `indices`
    returns:     (n, channels, length) float32, or the folder
    raises:      ArgumentError (also: `out` holds another call's), ArgumentTypeError, FileError
    """
    model = open_model(model)
    if out is None:
        how: dict[str, Any] = {"batch_size": batch_size, "strict": strict, "progress": progress}
        return model.generate(n, label=label, seed=seed, indices=indices, **how, **settings)
    if indices is not None or n is None:
        raise bad_value("n", "how many, and no indices, for a folder `out`", n)
    one_of("format", format, FORMATS)
    folder = arguments.path(out, "out")
    size = -(-arguments.count(shard_size, "shard_size") // CHUNK) * CHUNK
    order = model.order(n, label, seed, None, settings)
    return Shards(model, order, bool(strict), folder, format, size).write(progress)


def stream(
    model: Model | FilePath,
    n: int | None = None,
    *,
    label: object = None,
    seed: int = 0,
    indices: Sequence[int] | Ints | None = None,
    batch_size: int | None = None,
    strict: bool = True,
    **settings: Any,
) -> Iterator[Floats]:
    """New series, batch by batch, in memory that does not grow.

    model:   a Model, a bundled model's name or a folder
    n, label, seed, indices, batch_size, strict, settings: as in `Model.stream`
    yields:  (batch_size or fewer, channels, length) float32
    raises:  ArgumentError, ArgumentTypeError, FileError
    """
    shared: dict[str, Any] = {"batch_size": batch_size, "strict": strict}
    return open_model(model).stream(
        n, label=label, seed=seed, indices=indices, **shared, **settings
    )


def label_names(model: Model, classes: int | Ints) -> NDArray[np.str_] | None:
    """The labels of class ids, one or (n,); None for series without class."""
    if model.labels is None or np.any(np.equal(classes, model.config.n_classes)):
        return None
    return model.labels.decode(np.atleast_1d(classes))


@dataclass(frozen=True)
class Shards:
    """A folder of shards to write: everything that its bytes depend on."""

    model: Model
    order: Order  # of all shards together
    strict: bool
    folder: Path
    format: str
    size: int  # series a shard

    def __len__(self) -> int:
        return -(-len(self.order.index) // self.size)

    def path(self, k: int) -> Path:
        """Where shard k is."""
        width = max(5, len(str(len(self))))
        name = f"samples-{k:0{width}d}-of-{len(self):0{width}d}.{self.format}"
        return self.folder / name

    def n_series(self, k: int) -> int:
        """Series in shard k."""
        return min(self.size, len(self.order.index) - k * self.size)

    def write(self, progress: bool | None) -> Path:
        """This process's shards, without those that are there."""
        rank, n_ranks = place()
        names = label_names(self.model, np.unique(self.order.classes))
        check_writable(f"samples.{self.format}", self.model.shape, names)
        self.open()
        with typed_errors(str(self.folder)):
            mine = [k for k in range(rank, len(self), n_ranks) if not self.path(k).exists()]
        sampler = Sampler(self.model.network, strict=self.strict)
        with bar(sum(map(self.n_series, mine)), progress if rank == 0 else False) as shown:
            for k in mine:
                forget_killed(self.path(k))
                x, names = self.shard(k, sampler, shown)
                formats.write(self.path(k), x, names, first_id=k * self.size)
        return self.folder

    def shard(self, k: int, sampler: Sampler, shown: Any) -> tuple[Floats, NDArray[np.str_] | None]:
        """Series and labels of shard k."""
        first, n = k * self.size, self.n_series(k)
        request = self.order.request(slice(first, first + n))
        x = np.empty((n, *self.model.shape), np.float32)
        at_once = sampler.engine.at_once
        for i in range(0, n, at_once):
            places = np.arange(i, min(i + at_once, n))
            x[places] = self.model.series(sampler, request.at(places), self.order.settings)
            shown.update(len(places))
        return x, label_names(self.model, request.class_B)

    def manifest(self) -> dict[str, Any]:
        """What the bytes of the shards depend on, as plain JSON."""
        classes = self.order.classes
        names = label_names(self.model, classes)
        label: Any = None if names is None else str(names[0])
        if not isinstance(classes, int):
            label = {"sha256": hashlib.sha256(classes.tobytes()).hexdigest()}
        return {
            "kind": "samples",
            "tsgen": __version__,
            "model": fingerprint(self.model),
            "device": self.model.device.type,
            "n": len(self.order.index),
            "label": label,
            "seed": self.order.seed,
            "settings": dataclasses.asdict(self.order.settings),
            "strict": self.strict,
            "format": self.format,
            "shard_size": self.size,
        }

    def open(self) -> None:
        """Make the folder with its manifest, or find it and be sure that it is this call's."""
        path, wanted = self.folder / MANIFEST, json.loads(json.dumps(self.manifest()))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # listed before the manifest is looked for: other ranks may be writing both
            strangers = [file.name for file in self.folder.glob("samples-*")]
        except OSError as error:
            raise FileError(f"{self.folder}: wanted a folder to write to: {error}") from error
        if not path.exists():
            if strangers:
                what = f"a folder without shards, or with their {MANIFEST}"
                raise bad_value("out", what, f"{self.folder}, which has {min(strangers)}")
            forget_killed(path)
            with atomic(path) as file:
                file.write(f"{json.dumps(wanted, indent=2)}\n".encode())
        found = read_manifest(path)
        keys = [key for key in wanted | found if wanted.get(key) != found.get(key)]
        if keys:
            there = "; ".join(
                f"{key}: {found.get(key)} there, {wanted.get(key)} here" for key in keys
            )
            raise bad_value("out", f"a new folder, or one of the same call ({self.folder})", there)


def read_manifest(path: Path) -> dict[str, Any]:
    """The content of a manifest."""
    with typed_errors(str(path)), path.open("rb") as file:
        values = json.loads(file.read(MAX_MANIFEST))
    if not isinstance(values, dict):
        raise FileError(f"{path}: wanted a manifest of shards, got something else")
    return values


def place() -> tuple[int, int]:
    """Rank and number of ranks, as torchrun says; no rank ever waits for another."""
    rank, n_ranks = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and n_ranks.isdecimal() and int(rank) < int(n_ranks)):
        raise bad_value(
            "RANK, WORLD_SIZE", "a rank below the number of ranks", f"{rank}, {n_ranks}"
        )
    return int(rank), int(n_ranks)


def check_writable(name: str, shape: tuple[int, int], labels: NDArray[np.str_] | None) -> None:
    """Refuse a file that cannot hold series of a shape and their labels, before any is drawn."""
    labels = None if labels is None or not len(labels) else np.unique(labels)
    x = np.zeros((1 if labels is None else len(labels), *shape), np.float32)
    # where there is no room for temporary files the first shard has to show it
    with contextlib.suppress(OSError), tempfile.TemporaryDirectory() as folder:
        try:
            formats.write(Path(folder) / name, x, labels)
        except ArgumentError as error:
            raise ArgumentError(str(error).replace(f"{folder}/", "")) from error


def forget_killed(path: Path) -> None:
    """Delete what processes that were killed while they wrote this shard have left."""
    with contextlib.suppress(OSError):  # if it matters, the write that follows says why
        for file in path.parent.glob(f".{path.name}.*.tmp"):
            pid = file.name.removeprefix(f".{path.name}.").partition(".")[0]
            if not Path(f"/proc/{pid}").exists():
                file.unlink(missing_ok=True)


def fingerprint(model: Model) -> str:
    """sha256 of all that a model's series depend on: weights, sizes, scale and names."""
    labels = model.labels.to_dict() if model.labels else None
    plain = [model.config.to_dict(), model.scaler.to_dict(), labels]
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    for name, tensor in sorted(model.network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
