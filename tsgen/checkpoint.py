"""Folders of config.json and model.safetensors: models, and states of training.

config.json holds {"schema", "kind", "tsgen", "weights": {"file", "sha256", "bytes"}, "config"}.
No pickle is ever read or written.

A write never touches what is there until all of the new is on the disk and loads:

1. weights as model-<16 hex digits of their sha256>.safetensors, synced, and loaded once;
2. config.json, synced, replaces the old one by a rename: from here on the new checkpoint counts;
3. the weights are renamed to model.safetensors, over the old ones.

A reader looks for both names, so a process killed or a machine stopped between 2 and 3 costs
nothing, and the next write tidies up. The usual form has the fixed name that tools for models know;
a name with the hash for good, or a swap of folders, would cost that name, or the atomic switch,
and would not work for a folder that holds other things too, as the one of `tsgen.fit` does.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tsgen import strict_json, weights
from tsgen.checks import one_of
from tsgen.errors import FileError, bad_value
from tsgen.folder import exists, locked, open_inside, opened, writing
from tsgen.formats_io import atomic, typed_errors
from tsgen.version import __version__
from tsgen.weights import short

SCHEMA = 1
KINDS = {"model": "a model", "training": "a state of training"}
CONFIG, WEIGHTS = "config.json", "model.safetensors"
MAX_CONFIG = 10**6  # bytes of config.json
MAX_DEPTH = 32
MAX_BYTES = 16 * 2**30  # of weights
READS = 100  # attempts, each because another process has just written

PENDING = r"model-[0-9a-f]{16}\.safetensors"
LEFTOVER = re.compile(rf"{PENDING}|\.(config\.json|{PENDING})\.\d+\.[0-9a-f]{{8}}\.tmp")

FilePath = str | os.PathLike[str]


@dataclass(frozen=True)
class Record:
    """What config.json says."""

    config: dict[str, Any]
    sha256: str  # of the weights
    n_bytes: int  # of the weights

    @property
    def pending(self) -> str:
        """Name of the weights until they replace the ones before."""
        return f"model-{self.sha256[:16]}.safetensors"


def write_folder(
    path: FilePath, config: dict[str, Any], tensors: dict[str, Tensor], *, kind: str
) -> None:
    """Write a checkpoint; whoever reads meanwhile, or after a crash, sees the old or the new one.

    path: a folder to make, or one that may hold a checkpoint of this kind, which is replaced, and
        other files, which stay.
    config: plain JSON values, at most 1 MB and 32 levels; a tuple comes back as a list.
    tensors: any shape and device; they may share memory.
    kind: "model" or "training".
    raises:  FileError where it cannot be written, with the old checkpoint, or the new where only
        tidying up failed, still there; ArgumentError for what a file cannot hold
    """
    one_of("kind", kind, tuple(KINDS))
    path, data = Path(path), weights.encode(tensors)
    record = Record(config, hashlib.sha256(data).hexdigest(), len(data))
    text = config_text(record, kind)
    parse_config(text, path, kind)  # what is written can be read
    with writing(path), locked(path) as folder:
        if exists(path / CONFIG) or exists(path / WEIGHTS):  # never destroy what is not ours
            parse_config(read_config(folder, path), path, kind)
        try:
            with atomic(path / record.pending) as file:
                file.write(data)
            del data  # the check below needs as much memory
            read_weights(folder, record, path, MAX_BYTES)
            with atomic(path / CONFIG) as file:
                file.write(text)
        finally:
            settle(folder, path, kind)


def read_folder(
    path: FilePath, *, kind: str, max_bytes: int = MAX_BYTES
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a checkpoint: its config, and its tensors on the CPU. Nothing in it is executed.

    path: a folder that `write_folder` wrote.  kind: "model" or "training".
    max_bytes: the most bytes of weights to read; they take as much memory.
    raises:  FileError for anything but a whole, unaltered checkpoint of this kind
    """
    one_of("kind", kind, tuple(KINDS))
    path = Path(path)
    with typed_errors(str(path)), opened(path) as folder:
        text = read_config(folder, path)
        for _ in range(READS):
            record = parse_config(text, path, kind)
            try:
                return record.config, read_weights(folder, record, path, max_bytes)
            except FileError:
                again = read_config(folder, path)
                if again == text:
                    raise
                text = again  # replaced while it was read
        raise FileError(f"{path}: wanted a checkpoint, got {READS} new ones while reading")


def check_tensors(
    tensors: dict[str, Tensor], wanted: dict[str, tuple[torch.Size, torch.dtype]], path: FilePath
) -> None:
    """Refuse tensors that are not exactly the wanted ones.

    tensors: as read from `path`.  wanted: shape and dtype by name.
    raises:  FileError that lists up to 5 of the differences
    """
    problems = [f"{short(name)} is missing" for name in wanted if name not in tensors]
    problems += [f"{short(name)} is unexpected" for name in tensors if name not in wanted]
    for name, (shape, dtype) in wanted.items():
        if name in tensors and (tensors[name].shape, tensors[name].dtype) != (shape, dtype):
            got = tensors[name]
            problems.append(
                f"{short(name)}: wanted {tuple(shape)} of {dtype}, "
                f"got {short(tuple(got.shape))} of {got.dtype}"
            )
    if problems:
        listed = "; ".join(problems[:5]) + ("; ..." if len(problems) > 5 else "")
        raise FileError(f"{path}: {len(problems)} tensors are not as config.json asks: {listed}")


def config_text(record: Record, kind: str) -> bytes:
    """The content of config.json."""
    document = {
        "schema": SCHEMA,
        "kind": kind,
        "tsgen": __version__,
        "weights": {"file": WEIGHTS, "sha256": record.sha256, "bytes": record.n_bytes},
        "config": record.config,
    }
    try:
        return f"{json.dumps(document, indent=2, allow_nan=False)}\n".encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise bad_value("config", "plain JSON values, numbers finite", error) from error


def parse_config(text: bytes, path: Path, kind: str) -> Record:
    """What config.json says, checked."""
    where = str(path / CONFIG)
    if len(text) > MAX_CONFIG:
        raise FileError(f"{where}: wanted at most {MAX_CONFIG} bytes, got more")
    values = strict_json.parse(text, where)
    strict_json.check_depth(values, MAX_DEPTH, where)
    schema = values.get("schema")
    if type(schema) is not int or schema < 1:
        raise FileError(f"{where}: wanted a checkpoint of tsgen, got no schema number")
    if schema != SCHEMA:
        wanted = f"schema {SCHEMA}, got {short(schema)} of tsgen {short(values.get('tsgen'))}"
        raise FileError(f"{where}: wanted {wanted}: upgrade tsgen, this is {__version__}")
    if values.get("kind") != kind:
        got = short(values.get("kind"))
        raise FileError(f"{where}: wanted {KINDS[kind]}, kind {kind!r}, got {got}")
    entry, config = values.get("weights"), values.get("config")
    if not isinstance(entry, dict) or not isinstance(config, dict):
        raise FileError(f"{where}: wanted objects as weights and config, got something else")
    if entry.get("file") != WEIGHTS:  # one name: nothing to escape from the folder with
        raise FileError(f"{where}: wanted {WEIGHTS!r} as file, got {short(entry.get('file'))}")
    sha256, n_bytes = entry.get("sha256"), entry.get("bytes")
    if not isinstance(sha256, str) or not re.fullmatch("[0-9a-f]{64}", sha256):
        raise FileError(f"{where}: wanted 64 hex digits as sha256, got {short(sha256)}")
    if type(n_bytes) is not int or not 0 <= n_bytes < 2**63:
        raise FileError(f"{where}: wanted a size as bytes, got {short(n_bytes)}")
    return Record(config, sha256, n_bytes)


def read_config(folder: int, path: Path) -> bytes:
    """The content of config.json, or as much of it as shows that it is too long."""
    try:
        with open_inside(folder, CONFIG, path) as file:
            return file.read(MAX_CONFIG + 1)
    except FileNotFoundError as error:
        wanted = f"a folder with {CONFIG} and {WEIGHTS}"
        raise FileError(f"{path}: wanted {wanted}, got one without {CONFIG}") from error


def read_weights(folder: int, record: Record, path: Path, max_bytes: int) -> dict[str, Tensor]:
    """The tensors that config.json speaks of, under either name."""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open_inside(folder, record.pending, path))
        except FileNotFoundError:
            try:
                file = stack.enter_context(open_inside(folder, WEIGHTS, path))
            except FileNotFoundError as error:
                raise FileError(f"{path}: wanted {WEIGHTS} beside {CONFIG}, got none") from error
        n_bytes = os.fstat(file.fileno()).st_size
        if n_bytes != record.n_bytes:
            wanted = f"{record.n_bytes} bytes as {CONFIG} says"
            raise FileError(f"{path / WEIGHTS}: wanted {wanted}, got {n_bytes}: it is damaged")
        if n_bytes > max_bytes:
            raise FileError(f"{path / WEIGHTS}: wanted at most {max_bytes} bytes, got {n_bytes}")
        return weights.load(file, n_bytes, record.sha256, str(path / WEIGHTS))


def settle(folder: int, path: Path, kind: str) -> None:
    """Give the weights that count their final name; delete what this or a killed write left."""
    current = ""
    if exists(path / CONFIG):
        current = parse_config(read_config(folder, path), path, kind).pending
    for file in list(path.iterdir()):
        if file.name == current:
            file.replace(path / WEIGHTS)
        elif LEFTOVER.fullmatch(file.name):
            file.unlink()
    os.fsync(folder)
