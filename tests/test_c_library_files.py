"""Damaged and hostile folders at the C ABI: TSGEN_BAD_FILE with a text, or the truth; no crash."""

import contextlib
import hashlib
import json
import os

import numpy as np
import pytest
from c_library import Failed, encode, generate, info, library, loaded
from checkpoints import put
from tiny_models import tiny_model

import tsgen
from tsgen.checkpoint import CONFIG, WEIGHTS
from tsgen.errors import FileError

MODEL = tiny_model()


@pytest.fixture
def folder(tmp_path):
    MODEL.save(tmp_path / "model")
    return tmp_path / "model"


def refused(folder, *parts):
    """The text of the error."""
    with pytest.raises(Failed) as failed, loaded(folder):
        pass
    text = str(failed.value)
    assert failed.value.status == "BAD_FILE", text
    assert len(text) < 1000
    assert text.isprintable()
    for part in parts:
        assert part in text
    return text


def vouched(folder, data):
    """Weights that config.json vouches for."""
    put(folder / WEIGHTS, data)
    document = json.loads((folder / CONFIG).read_text())
    document["weights"] |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    put(folder / CONFIG, json.dumps(document).encode())


def changed(folder, path, value):
    """config.json with one value changed, given by its keys."""
    document = json.loads((folder / CONFIG).read_text())
    *parents, last = path.split(".")
    inner = document
    for key in parents:
        inner = inner[int(key) if key.isdigit() else key]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    put(folder / CONFIG, json.dumps(document).encode())


def test_what_is_no_folder(tmp_path):
    refused(tmp_path / "nothing", "wanted a folder, got nothing of that name")
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", "wanted a folder, got a file")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "got one without config.json")


def test_missing_or_replaced_files(folder):
    weights = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).unlink()
    refused(folder, "wanted model.safetensors beside config.json, got none")
    (folder / WEIGHTS).symlink_to(folder / "elsewhere")
    refused(folder, "got a symbolic link")
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)
    refused(folder, "wanted a regular file")
    (folder / WEIGHTS).unlink()
    pending = f"model-{hashlib.sha256(weights).hexdigest()[:16]}.safetensors"
    (folder / pending).write_bytes(weights)  # as a writer leaves it that was killed in between
    with loaded(folder) as model:
        np.testing.assert_array_equal(generate(model, 2), MODEL.generate(2))


def test_wrong_hash_and_size(folder):
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    put(folder / WEIGHTS, data)
    refused(folder, "wanted the sha256 ", "it is damaged")
    put(folder / WEIGHTS, data[:-1])
    refused(folder, f"wanted {len(data)} bytes as config.json says, got {len(data) - 1}")


CHANGES = [
    ("schema", 2, "wanted schema 1, got 2: upgrade tsgen"),
    ("schema", True, "wanted a model of tsgen with a schema number, got true"),
    ("kind", "training", "wanted a model, kind 'model', got 'training'"),
    ("weights.file", "../model.safetensors", "wanted 'model.safetensors' as file"),
    ("weights.sha256", "F" * 64, "wanted 64 hex digits as sha256"),
    ("weights.bytes", -1, "wanted a size as bytes, got -1"),
    ("weights", [], "wanted an object as weights, got a list of 0"),
    ("config.scaler", {"mean": [1.0], "std": [0.0]}, "std: wanted a finite number above 0"),
    ("config.scaler.mean", [1.0, 2.0], "scaler: wanted 1 channels"),
    ("config.labels.names", ["a", "b"], "labels: wanted 3 names"),
    ("config.labels.names", ["a", "b", "a"], "labels: wanted 3 names, each once"),
    ("config.labels.names", ["a", "b", 3], "labels: wanted texts, got 3"),
    ("config.model.tokenizer", None, "model: wanted 'tokenizer', got none"),
    ("config.model.tokenizer.length", None, "tokenizer: wanted 'length', got none"),
    ("config.model.tokenizer.length", 24.0, "length: wanted a whole number, got 24"),
    ("config.model.tokenizer.n_fft", 10**9, "n_fft: wanted a whole number from 2 to 48"),
    ("config.model.tokenizer.bands", 1, "token_width: wanted 1, one a band, got 2"),
    ("config.model.tokenizer.codebook", "lookup", "codebook: wanted one of euclidean cosine"),
    ("config.model.tokenizer.quantiser", "fsq", "tokenizer: wanted fields that this version knows"),
    ("config.model.tokenizer.hidden_dim", 9, "project_out.bias: wanted (9), got (8)"),
    ("config.model.tokenizer.token_width", [10**7, 8], "wanted"),
    ("config.model.priors.0.n_layers", 3, "priors.0.blocks.2.attention.norm_in.weight: wanted a"),
    ("config.model.priors.1.tables", "free", "priors.1.embed.free: wanted (41, 8), got (1, 8)"),
    ("config.model.sampling.steps", [5], "steps: wanted 2, one a band, got 1"),
    ("config.model.sampling.schedule", 3, "schedule: wanted one of cosine linear"),
    ("config.model.n_classes", 2, "labels: wanted 2 names"),
]


@pytest.mark.parametrize(("path", "value", "text"), CHANGES, ids=lambda v: str(v)[:40])
def test_configurations_that_do_not_fit(folder, path, value, text):
    changed(folder, path, value)
    refused(folder, text)
    with pytest.raises(FileError):
        tsgen.load(folder)


TEXTS = [
    (b"", "no number at byte 0"),
    (b"[]", "wanted a model of tsgen"),
    (b'{"a": 1, "a": 2}', "no key but 'a' twice"),
    (b'{"a": 1e999}', "no number of float64"),
    (b'{"a": NaN}', "no number at byte 6"),
    (b'{"a": 01}', "no number without zeros in front"),
    (b'{"a": "\\ud800"}', "no second half of a surrogate pair"),
    (b'{"a": "\xff"}', "no UTF-8"),
    (b'{"a": "\x01"}', "no end of a text"),
    (b'{"a": "', "no end of a text"),
    (b'{"a": 1} x', "no end at byte 9"),
    (b'{"a": ' * 40, "nested at most 32 deep"),
    (b"[" * 999_999, "nested at most 32 deep"),
    (b" " * 1_000_001, "wanted at most 1000000 bytes"),
]


@pytest.mark.parametrize(("raw", "text"), TEXTS, ids=lambda v: str(v)[:20])
def test_what_is_no_json(folder, raw, text):
    put(folder / CONFIG, raw)
    refused(folder, text)


def test_names_in_any_script(tmp_path):
    names = ("a\nb", "é", "中", "😀", '"\\')
    tiny_model(names=tuple(sorted(names))).save(tmp_path / "model")
    with loaded(tmp_path / "model") as model:
        found = [library().tsgen_class_name(model, i).decode() for i in range(len(names))]
    assert found == sorted(names)


LIES = [  # of a header with one tensor, and what is said of them
    (lambda h: h["x"].update(dtype="F31"), "wanted a dtype, got 'F31'"),
    (lambda h: h["x"].update(shape=[2**40, 2**40]), "wanted a shape that fits in memory"),
    (lambda h: h["x"].update(shape=[-1]), "wanted a shape, got a list of 1"),
    (lambda h: h["x"].update(shape=[7]), "wanted data_offsets 28 bytes apart"),
    (lambda h: h["x"].update(more=1), "wanted dtype, shape and data_offsets"),
    (lambda h: h["x"].update(data_offsets=[4, 36]), "a gap at byte 0"),
    (lambda h: h.update(y=h["x"]), "overlap at byte 32"),
    (lambda h: h.pop("x"), "wanted 0 bytes of data as its header says, got 32"),
    (lambda h: h.clear(), "wanted 0 bytes of data as its header says, got 32"),
]


@pytest.mark.parametrize(("lie", "text"), LIES, ids=lambda v: v if isinstance(v, str) else "")
def test_weights_whose_header_lies(folder, lie, text):
    header = {"x": {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]}}
    lie(header)
    raw = json.dumps(header).encode()
    vouched(folder, len(raw).to_bytes(8, "little") + raw + bytes(32))
    refused(folder, text)


@pytest.mark.parametrize("n", [0, 7, 8, 9, 40])
def test_weights_that_are_cut_and_vouched_for(folder, n):
    vouched(folder, (folder / WEIGHTS).read_bytes()[:n])
    refused(folder, "wanted" if n < 10 else "header")


def tried(folder):
    """The status of loading it; if it loads, it works, or says why not."""
    try:
        with loaded(folder) as model:
            assert np.isfinite(generate(model, 2)).all()
            series = np.zeros((1, info(model).n_channels, info(model).length), dtype=np.float32)
            assert encode(model, series).min() >= 0
    except Failed as error:
        return error.status
    return "OK"


def test_flipped_bits_and_cuts(folder):
    """Of config.json and of weights that are vouched for: whatever Python reads, C reads."""
    rng, text = np.random.default_rng(0), (folder / CONFIG).read_bytes()
    weights = (folder / WEIGHTS).read_bytes()
    n_header = 8 + int.from_bytes(weights[:8], "little")
    n_read = 0
    for trial in range(300):
        data = bytearray(text if trial % 2 else weights)
        end = len(data) if trial % 2 else n_header
        at = int(rng.integers(end))
        if trial % 10 < 8:
            data[at] ^= 1 << rng.integers(8)
        else:
            del data[at:]
        put(folder / CONFIG, text)
        if trial % 2:
            put(folder / WEIGHTS, weights)
            put(folder / CONFIG, data)
        else:
            vouched(folder, bytes(data))
        status = tried(folder)
        assert status in ("OK", "BAD_FILE", "BAD_ARGUMENT", "NOT_FINITE", "UNSUPPORTED")
        with contextlib.suppress(FileError):
            tsgen.load(folder)
            assert status in ("OK", "UNSUPPORTED")
            n_read += 1
    assert 0 < n_read < 150
