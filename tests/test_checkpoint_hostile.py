"""Checkpoints that lie: each is refused with a FileError, soon, and nothing in it is run."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from checkpoints import GOOD, TENSORS, forge, packed, put, read, refused, same

from tsgen.checkpoint import CONFIG, WEIGHTS, read_folder, write_folder
from tsgen.errors import FileError
from tsgen.weights import MAX_HEADER, MAX_TENSORS


def test_forged_but_true(tmp_path):
    config, tensors = read(forge(tmp_path / "m", GOOD))
    assert config == {"a": 1}
    assert same(tensors, TENSORS)


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
    put(path / CONFIG, text)
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
    with pytest.raises(FileError, match="null"):
        read_folder("a\0b", kind="model")
    refused("/dev/zero", "got a file")


def test_max_bytes(tmp_path):
    path = forge(tmp_path / "m", GOOD)
    read_folder(path, kind="model", max_bytes=len(GOOD))
    with pytest.raises(FileError, match="wanted at most"):
        read_folder(path, kind="model", max_bytes=len(GOOD) - 1)
