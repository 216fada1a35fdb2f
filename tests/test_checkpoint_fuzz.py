"""Thousands of damaged checkpoints: a FileError or the truth, in bounded memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
from checkpoints import (
    GOOD,
    HEADER,
    N_HEADER,
    TENSORS,
    forge,
    packed,
    put,
    read,
    refused,
    same,
)

from tsgen.checkpoint import CONFIG, WEIGHTS
from tsgen.errors import FileError


def cuts():
    rng = np.random.default_rng(0)
    return [*range(8 + N_HEADER + 1), *rng.integers(0, len(GOOD), 200)]


@pytest.mark.parametrize("vouched", [False, True])
def test_truncated_weights(tmp_path, vouched):
    path = forge(tmp_path / "m", GOOD)
    for n in cuts():
        if vouched:
            forge(path, GOOD[:n])
        else:
            put(path / WEIGHTS, GOOD[:n])
        refused(path)


def test_truncated_config(tmp_path):
    path = forge(tmp_path / "m", GOOD)
    text = (path / CONFIG).read_bytes()
    for n in range(len(text)):
        put(path / CONFIG, text[:n])
        refused(path)


def test_every_flipped_bit_of_the_weights_is_found(tmp_path):
    path = forge(tmp_path / "m", GOOD)
    rng = np.random.default_rng(1)
    for bit in rng.permutation(8 * len(GOOD))[:1500]:
        data = bytearray(GOOD)
        data[bit // 8] ^= 1 << bit % 8
        put(path / WEIGHTS, data)
        refused(path)


def test_flipped_bits_of_the_config(tmp_path):
    path = forge(tmp_path / "m", GOOD)
    text = (path / CONFIG).read_bytes()
    for bit in range(8 * len(text)):
        data = bytearray(text)
        data[bit // 8] ^= 1 << bit % 8
        put(path / CONFIG, data)
        out = read(path)
        assert isinstance(out, FileError) or same(out[1], TENSORS)


NUMBERS = [-1, 0, 1, 2, 3, 7, 8, 48, 49, 2**31, 2**32, 2**62, 2**63, 2**64, 10**30, 1.0, True, None]
VALUES = [*NUMBERS, "", "F32", "F4", "f32", [], [0], {}, [[]], {"a": []}, "x" * 999, "\ud800", "\0"]


def mutated(rng):
    """A file whose header lies in one or two places."""
    header = json.loads(json.dumps(HEADER))
    for _ in range(rng.integers(1, 3)):
        name = str(rng.choice([n for n in header if n != "__metadata__"] or ["b"]))
        entry = header.setdefault(name, {})
        field = str(rng.choice(["dtype", "shape", "data_offsets"]))
        match rng.integers(7):
            case 0 | 1 if entry.get(field) and isinstance(entry[field], list):
                entry[field][rng.integers(len(entry[field]))] = VALUES[rng.integers(len(NUMBERS))]
            case 2:
                entry[field] = VALUES[rng.integers(len(VALUES))]
            case 3:
                header[f"new{rng.integers(2)}"] = dict(entry)
            case 4:
                header.pop(name)
            case 5:
                entry.pop(field, None)
            case _:
                header["__metadata__"] = VALUES[rng.integers(len(VALUES))]
    return packed(header)


def shaken(rng):
    """A file with bits flipped, bytes lost or doubled in its header, or another length."""
    data = bytearray(GOOD)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(8 + N_HEADER))
        match rng.integers(4):
            case 0:
                data[at] ^= 1 << rng.integers(8)
            case 1:
                del data[at : at + rng.integers(1, 9)]
            case 2:
                data[at:at] = data[at : at + rng.integers(1, 99)]
            case _:
                n = int.from_bytes(data[:8], "little") + int(rng.integers(-9, 10))
                data[:8] = (n % 2**64).to_bytes(8, "little")
    return bytes(data)


@pytest.mark.parametrize("make", [mutated, shaken])
def test_mutations_that_the_config_vouches_for(tmp_path, make):
    """Whatever is accepted, the reference reader accepts too, and reads the same."""
    rng = np.random.default_rng(2)
    n_accepted = 0
    for _ in range(2500):
        data = make(rng)
        out = read(forge(tmp_path / "m", data))
        if not isinstance(out, FileError):
            n_accepted += 1
            assert same(out[1], safetensors.torch.load(data))
    assert 0 < n_accepted < 1500


MEMORY = """
import os, sys
from pathlib import Path
import torch
from checkpoints import GOOD, WEIGHTS, encode, forge, packed, read
from tsgen.weights import MAX_HEADER

def peak():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])

def measure(name):
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = peak()
    out = read(name)
    print(name, peak() - before, (name / WEIGHTS).stat().st_size, type(out).__name__)

folder = Path(sys.argv[1])
forge(folder / "large", encode({str(i): torch.zeros(2**20) for i in range(16)}))
parts = {"objects": b"{},", "lists": b"[],", "floats": b"1.,", "integers": b"99999,"}
for name, part in parts.items():
    raw = b'{"a":[' + part * (MAX_HEADER // len(part) - 9) + b"1]}"
    forge(folder / name, packed(raw, b""))
forge(folder / "wide", packed('{"a":"😀%b"}'.encode() % (b"x" * (MAX_HEADER - 99)), b""))
forge(folder / "sparse", GOOD, bytes=2**40)
os.truncate(folder / "sparse" / WEIGHTS, 2**40)
forge(folder / "hollow", GOOD, bytes=2**33)
os.truncate(folder / "hollow" / WEIGHTS, 2**33)
for name in ("large", *parts, "wide", "sparse", "hollow"):
    measure(folder / name)
"""


def test_memory_is_bounded(tmp_path):
    """Twice the file and 64 MB: also for headers that grow when parsed, and files of holes."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)],
        cwd=Path(__file__).parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        name, n_more, n_file, kind = line.split()
        assert (kind == "tuple") == name.endswith("large"), line
        assert int(n_more) < 2 * int(n_file) + 64e6, line
        assert int(n_more) < 300e6, line
