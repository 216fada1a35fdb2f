"""Checkpoints that show whether they are whole, and forged ones."""

import hashlib
import json

import torch

from tsgen.checkpoint import CONFIG, WEIGHTS, read_folder
from tsgen.errors import FileError
from tsgen.weights import encode

PLAIN = {CONFIG, WEIGHTS}


def same(a, b):
    """Whether two dicts of tensors are equal to the bit."""
    return a.keys() == b.keys() and all(
        (a[k].shape, a[k].dtype) == (b[k].shape, b[k].dtype)
        and torch.equal(a[k].reshape(-1).view(torch.uint8), b[k].reshape(-1).view(torch.uint8))
        for k in a
    )


def version(i, n=1000):
    """A checkpoint that shows if it was mixed with another."""
    return {"version": i}, {"x": torch.full((n,), float(i)), "i": torch.tensor(i)}


def version_of(path):
    """Which one is there; fails unless it is whole."""
    config, tensors = read_folder(path, kind="model")
    i = config["version"]
    assert tensors["i"] == i
    assert (tensors["x"] == i).all()
    return i


def names(path):
    return {file.name for file in path.iterdir()}


TENSORS = {
    "a.weight": torch.arange(12.0).reshape(3, 4),
    "b": torch.tensor([True, False, True, True]),
    "c": torch.tensor(7),
    "d": torch.zeros(0, 5, dtype=torch.bfloat16),
    "e": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3),
}
GOOD = encode(TENSORS)
N_HEADER = int.from_bytes(GOOD[:8], "little")
HEADER = json.loads(GOOD[8 : 8 + N_HEADER])
DATA = GOOD[8 + N_HEADER :]


def packed(header, data=DATA):
    """A safetensors file with this header: bytes, or what becomes JSON."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data


def put(file, data):
    """Write anew: file systems sync a file that is cut and rewritten, which takes long."""
    file.unlink(missing_ok=True)
    file.write_bytes(data)


def forge(path, data, **changes):
    """A folder whose config.json vouches for `data`."""
    path.mkdir(exist_ok=True)
    weights = {"file": WEIGHTS, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    document = {"schema": 1, "kind": "model", "tsgen": "0", "weights": weights, "config": {"a": 1}}
    for key, value in changes.items():
        (weights if key in weights else document)[key] = value
    put(path / CONFIG, json.dumps(document).encode())
    put(path / WEIGHTS, data)
    return path


def read(path):
    """The checkpoint or its FileError, and not for a mistake of ours."""
    try:
        out = read_folder(path, kind="model")
    except FileError as error:
        out = error
    if isinstance(out, FileError):
        causes = (OSError, ValueError, RecursionError, type(None))
        assert isinstance(out.__cause__, causes), repr(out.__cause__)
        assert len(str(out)) < 1000
        assert str(out).isprintable()
    return out


def refused(path, *parts):
    error = read(path)
    assert isinstance(error, FileError), error
    for part in parts:
        assert part in str(error), error
