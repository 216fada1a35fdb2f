"""Checkpoints that lie: each is refused with a FileError, soon, and nothing in it is run."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from checkpoints import same

from tsgen.checkpoint import CONFIG, WEIGHTS, read_folder, write_folder
from tsgen.errors import FileError
from tsgen.weights import MAX_HEADER, MAX_TENSORS, encode

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


def forge(path, data, **changes):
    """A folder whose config.json vouches for `data`."""
    path.mkdir(exist_ok=True)
    weights = {"file": WEIGHTS, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    document = {"schema": 1, "kind": "model", "tsgen": "0", "weights": weights, "config": {"a": 1}}
    for key, value in changes.items():
        (weights if key in weights else document)[key] = value
    (path / CONFIG).write_text(json.dumps(document))
    (path / WEIGHTS).write_bytes(data)
    return path


def read(path):
    """The checkpoint or its FileError, in time, and not for a mistake of ours."""
    start = time.perf_counter()
    try:
        return read_folder(path, kind="model")
    except FileError as error:
        causes = (OSError, ValueError, RecursionError, type(None))
        assert isinstance(error.__cause__, causes), repr(error.__cause__)
        assert len(str(error)) < 1000
        str(error).encode()
        return error
    finally:
        assert time.perf_counter() - start < 2


def refused(path, *parts):
    error = read(path)
    assert isinstance(error, FileError), error
    for part in parts:
        assert part in str(error), error


def test_forged_but_true(tmp_path):
    config, tensors = read(forge(tmp_path / "m", GOOD))
    assert config == {"a": 1}
    assert same(tensors, TENSORS)


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
            (path / WEIGHTS).write_bytes(GOOD[:n])
        refused(path)


def test_truncated_config(tmp_path):
    path = forge(tmp_path / "m", GOOD)
    text = (path / CONFIG).read_bytes()
    for n in range(len(text)):
        (path / CONFIG).write_bytes(text[:n])
        refused(path)


def test_every_flipped_bit_of_the_weights_is_found(tmp_path):
    path = forge(tmp_path / "m", GOOD)
    rng = np.random.default_rng(1)
    for bit in rng.permutation(8 * len(GOOD))[:1500]:
        data = bytearray(GOOD)
        data[bit // 8] ^= 1 << bit % 8
        (path / WEIGHTS).write_bytes(data)
        refused(path)


def test_flipped_bits_of_the_config(tmp_path):
    path = forge(tmp_path / "m", GOOD)
    text = (path / CONFIG).read_bytes()
    for bit in range(8 * len(text)):
        data = bytearray(text)
        data[bit // 8] ^= 1 << bit % 8
        (path / CONFIG).write_bytes(data)
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


def entry(shape=(2,), offsets=(0, 8), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


LIES = {
    "overlap": ({"a": entry(), "b": entry(offsets=(4, 12))}, 12, "overlap"),
    "same place": ({"a": entry(), "b": entry()}, 8, "overlap"),
    "gap": ({"a": entry(), "b": entry(offsets=(12, 20))}, 20, "gap"),
    "begins late": ({"a": entry(offsets=(4, 12))}, 12, "gap"),
    "ends early": ({"a": entry()}, 12, "wanted 8 bytes of data"),
    "ends late": ({"a": entry()}, 4, "wanted 8 bytes of data"),
    "backwards": ({"a": entry(offsets=(8, 0))}, 8, "data_offsets"),
    "negative": ({"a": entry(offsets=(-8, 0))}, 8, "data_offsets"),
    "wide offsets": ({"a": entry((2**58,), (0, 2**60))}, 8, "wanted 1152921504606846976 bytes"),
    "overflow": ({"a": entry((2**32, 2**32), (0, 0))}, 0, "shape"),
    "overflow beside 0": ({"a": entry((0, 2**40, 2**40), (0, 0))}, 0, "shape"),
    "negative size": ({"a": entry((-2,))}, 8, "shape"),
    "too many dims": ({"a": entry((1,) * 33, (0, 4))}, 4, "shape"),
    "whole float": ({"a": entry((2.0,))}, 8, "shape"),
    "bool": ({"a": entry((True, 2))}, 8, "shape"),
    "unknown dtype": ({"a": entry(dtype="F7")}, 8, "dtype"),
    "dtype is a list": ({"a": entry(dtype=[])}, 8, "dtype"),
    "extra field": ({"a": entry() | {"x": 1}}, 8, "wanted dtype, shape"),
    "no object": ({"a": 3}, 8, "wanted dtype, shape"),
    "metadata": ({"a": entry(), "__metadata__": {"a": 1}}, 8, "__metadata__"),
    "bool bytes": ({"a": entry((8,), dtype="BOOL")}, 8, "bytes 0 and 1"),
    "twice": (b'{"a":%b,"a":%b}' % (2 * (json.dumps(entry()).encode(),)), 8, "twice"),
    "NaN": (b'{"a":NaN}', 0, "not finite"),
    "not UTF-8": (b'{"\xff":1}', 0, "wanted JSON"),
    "deep": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, 0, "nested too deep"),
    "long number": (b'{"a":%b}' % (b"1" * 10**6), 0, "wanted JSON"),
    "list": (b"[]", 0, "wanted a safetensors header"),
    "blank first": (b" {}", 0, "wanted a safetensors header"),
    "too many": ({str(i): entry((0,), (0, 0)) for i in range(MAX_TENSORS + 1)}, 0, "10000"),
}


@pytest.mark.parametrize("name", LIES)
def test_lies_of_a_header(tmp_path, name):
    header, n_data, part = LIES[name]
    refused(forge(tmp_path / "m", packed(header, b"\x07" * n_data)), WEIGHTS, part)


@pytest.mark.parametrize("n", [0, 1, MAX_HEADER + 1, 100_000_001, 2**63, 2**64 - 1, len(GOOD) - 7])
def test_lies_about_the_length_of_the_header(tmp_path, n):
    refused(forge(tmp_path / "m", n.to_bytes(8, "little") + GOOD[8:]), "header")


CONFIGS = [
    ({"schema": 2, "tsgen": "9.1"}, "upgrade tsgen"),
    ({"schema": 2**80}, "upgrade"),
    ({"schema": 0}, "schema"),
    ({"schema": True}, "schema"),
    ({"schema": "1"}, "schema"),
    ({"schema": None}, "schema"),
    ({"kind": "training"}, "kind 'model', got 'training'"),
    ({"kind": None}, "kind"),
    ({"weights": []}, "wanted objects"),
    ({"config": []}, "wanted objects"),
    *(
        ({"file": name}, "as file")
        for name in (
            "../model.safetensors",
            "/etc/passwd",
            "x/../model.safetensors",
            "./model.safetensors",
            "model.safetensors\0",
            "..",
            "",
            None,
            ["model.safetensors"],
            "model.pt",
        )
    ),
    ({"sha256": "0" * 63}, "64 hex"),
    ({"sha256": f"{'0' * 64}\n"}, "64 hex"),
    ({"sha256": "../" + "0" * 61}, "64 hex"),
    ({"sha256": None}, "64 hex"),
    ({"sha256": "0" * 64}, "sha256"),
    ({"bytes": len(GOOD) + 1}, "it is damaged"),
    ({"bytes": 2**62}, "it is damaged"),
    ({"bytes": -1}, "size"),
    ({"bytes": 2**70}, "size"),
    ({"bytes": float(len(GOOD))}, "size"),
]


@pytest.mark.parametrize(("changes", "part"), CONFIGS)
def test_lies_of_config_json(tmp_path, changes, part):
    refused(forge(tmp_path / "m", GOOD, **changes), str(tmp_path / "m"), part)


TEXTS = [
    (b"", "wanted JSON"),
    (b"[]", "wanted a JSON object"),
    (b"{" + b" " * 10**6 + b"}", "at most 1000000 bytes"),
    (b'{"schema":1,"schema":1}', "twice"),
    (b'{"config":{"a":{"b":1,"b":1}}}', "twice"),
    (b'{"a":NaN}', "not finite"),
    (b'{"a":-Infinity}', "not finite"),
    (b'{"a":1e999}', "not finite"),
    (b'{"a":' * 32 + b"{}" + b"}" * 32, "at most 32 deep"),
    (b'{"a":' + b"[" * 32 + b"]" * 32 + b"}", "at most 32 deep"),
    (b'{"a":' + b"[" * 400_000 + b"]" * 400_000 + b"}", "deep"),
    (b"[" * 900_000, "deep"),
    (b'{"a":%b}' % (b"9" * 900_000), "wanted JSON"),
    ("{}".encode("utf-16"), "wanted JSON"),
    (b"\xef\xbb\xbf{}", "wanted JSON"),
    (b'{"a":"\xff"}', "wanted JSON"),
    (b"{}", "schema"),
]


@pytest.mark.parametrize(("text", "part"), TEXTS)
def test_config_json_that_is_not_strict(tmp_path, text, part):
    path = forge(tmp_path / "m", GOOD)
    (path / CONFIG).write_bytes(text)
    refused(path, CONFIG, part)


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("dump", [pickle.dumps, "zip", "old"])
def test_pickles_are_not_read(tmp_path, dump):
    marker, file = tmp_path / "marker", tmp_path / "model.pt"
    if callable(dump):
        file.write_bytes(dump(Payload(marker)))
    else:
        torch.save(Payload(marker), file, _use_new_zipfile_serialization=dump == "zip")
    content = file.read_bytes()
    refused(file, "pickles (.pt, .pth, .ckpt, .pkl) are never read")
    refused(forge(tmp_path / "a", content), WEIGHTS)
    refused(forge(tmp_path / "b", packed(content)), WEIGHTS)
    (forge(tmp_path / "c", GOOD) / CONFIG).write_bytes(content)
    refused(tmp_path / "c", CONFIG)
    (tmp_path / "d").mkdir()
    file.rename(tmp_path / "d" / "pytorch_model.bin")
    refused(tmp_path / "d", CONFIG)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Payload(marker)))
    assert marker.exists()  # it would have worked


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
@pytest.mark.parametrize("where", ["outside", "inside", "nowhere"])
def test_links_are_refused(tmp_path, name, where):
    path = forge(tmp_path / "m", GOOD)
    target = path / "other" if where == "inside" else tmp_path / "other"
    (path / name).rename(target)
    if where == "nowhere":
        target.unlink()
    (path / name).symlink_to(target)
    refused(path, name, "symbolic link")
    with pytest.raises(FileError, match="symbolic link"):
        write_folder(path, {}, {}, kind="model") if name == CONFIG else read_folder(
            path, kind="model"
        )


def test_a_link_to_the_folder_is_the_users_choice(tmp_path):
    forge(tmp_path / "m", GOOD)
    (tmp_path / "latest").symlink_to("m")
    assert same(read(tmp_path / "latest")[1], TENSORS)
    write_folder(tmp_path / "latest", {}, {}, kind="model")
    assert (tmp_path / "latest").is_symlink()
    assert read(tmp_path / "m") == ({}, {})


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_pipes_folders_and_nothing(tmp_path, name):
    path = forge(tmp_path / "m", GOOD)
    (path / name).unlink()
    refused(path, name)
    os.mkfifo(path / name)
    refused(path, name, "regular file")
    (path / name).unlink()
    (path / name).mkdir()
    refused(path, name, "regular file")


def test_no_such_folder(tmp_path):
    refused(tmp_path / "m", "got nothing of that name")
    refused(tmp_path, f"without {CONFIG}")
    refused("a\0b", "null")
    refused("/dev/zero", "got a file")


def test_max_bytes(tmp_path):
    path = forge(tmp_path / "m", GOOD)
    read_folder(path, kind="model", max_bytes=len(GOOD))
    with pytest.raises(FileError, match="wanted at most"):
        read_folder(path, kind="model", max_bytes=len(GOOD) - 1)


MEMORY = """
import hashlib, json, os, sys, time
from pathlib import Path
import torch
from test_checkpoint_hostile import MAX_HEADER, GOOD, encode, forge, packed, read, WEIGHTS

def peak():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])

def measure(name):
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before, start = peak(), time.perf_counter()
    out = read(name)
    print(name, peak() - before, (name / WEIGHTS).stat().st_size, type(out).__name__)

folder = Path(sys.argv[1])
forge(folder / "large", encode({str(i): torch.zeros(2**20) for i in range(32)}))
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
    print(done.stdout)
    for line in done.stdout.splitlines():
        name, n_more, n_file, kind = line.split()
        assert (kind == "tuple") == name.endswith("large"), line
        assert int(n_more) < 2 * int(n_file) + 64e6, line
        assert int(n_more) < 300e6, line
