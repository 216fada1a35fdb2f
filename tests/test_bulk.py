"""Bulk sampling: files equal to arrays, whatever is killed, resumed, shared out or refused."""

import errno
import hashlib
import json
import multiprocessing
import os
import random
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from bulk_worker import LABELLED, write, write_until
from tiny_models import tiny_model

import tsgen
from tsgen import bulk, bundled, formats
from tsgen.errors import ArgumentError, ArgumentTypeError, FileError

N = 300


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def processes():
    """Processes of their own, forked from a server that has torch loaded."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tsgen.bulk", "torch._dynamo"])
    return context


def shards(folder):
    return sorted(Path(folder).glob("samples-*"))


def digests(folder):
    """Hash of every file, hidden ones too."""
    files = sorted(file for file in Path(folder).iterdir())
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bulk") / "model"
    model.save(folder)
    return folder


@pytest.fixture(scope="module")
def whole(saved):
    """The files of `write`, made by one process in one go."""
    threads = torch.get_num_threads()
    write(saved, saved.with_name("whole"))
    torch.set_num_threads(threads)
    return digests(saved.with_name("whole"))


@pytest.mark.parametrize("format", bulk.FORMATS)
def test_shards_hold_what_the_array_holds(model, tmp_path, format):
    how = LABELLED if format != "npy" else LABELLED | {"label": None}
    out = tsgen.generate(
        model, N, out=tmp_path / "new" / "out", format=format, shard_size=100, **how
    )
    assert [file.name for file in shards(out)] == [
        f"samples-0000{k}-of-00003.{format}" for k in range(3)
    ]
    read = [formats.read(file) for file in shards(out)]
    assert [len(c.X) for c in read] == [128, 128, 44]  # 100 rounded up to a multiple of 64
    np.testing.assert_array_equal(np.concatenate([c.X for c in read]), model.generate(N, **how))
    assert all((c.y is None) if format == "npy" else (c.y == "bell").all() for c in read)
    assert {file.name for file in out.iterdir()} == {
        "manifest.json",
        *(file.name for file in shards(out)),
    }
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["n"], manifest["seed"], manifest["shard_size"]) == (N, 3, 128)


def test_no_folder_no_files(model):
    x = tsgen.generate(model, 5, seed=1, label="funnel")
    np.testing.assert_array_equal(x, model.generate(5, seed=1, label="funnel"))
    np.testing.assert_array_equal(
        tsgen.generate(model, indices=[3], seed=1, label="funnel"), x[3:4]
    )
    batches = list(tsgen.stream(model, 5, seed=1, label="funnel", batch_size=2))
    assert [len(b) for b in batches] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(batches), x)


def test_labels_are_read_once_for_all_shards(tmp_path):
    """0 is no name here, so all are indices: also in the shard where each would be a name."""
    model = tiny_model(names=("1", "2", "3"))
    label = np.array([1] * 128 + [0] * 64)
    out = tsgen.generate(
        model, 192, out=tmp_path / "out", shard_size=128, label=label, format="csv"
    )
    read = [formats.read(file) for file in shards(out)]
    assert np.concatenate([c.y for c in read]).tolist() == ["2"] * 128 + ["1"] * 64
    x = model.generate(192, label=label)
    np.testing.assert_array_equal(np.concatenate([c.X for c in read]), x)


def test_settings_reach_the_sampler(model, tmp_path):
    how = {"steps": 2, "temperature": 0.5, "guidance": 2.0, "label": "bell", "strict": False}
    out = tsgen.generate(model, 70, out=tmp_path / "out", **how)
    np.testing.assert_array_equal(formats.read(shards(out)[0]).X, model.generate(70, **how))


def test_nothing_asked_for(model, tmp_path):
    out = tsgen.generate(model, 0, out=tmp_path / "out")
    assert [file.name for file in out.iterdir()] == ["manifest.json"]


def test_global_state_is_left_alone(model, tmp_path):
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    tsgen.generate(model, 70, out=tmp_path / "out")
    assert torch.equal(torch.get_rng_state(), states[0])
    assert str(np.random.get_state()) == str(states[1])  # noqa: NPY002
    assert random.getstate() == states[2]


@pytest.mark.parametrize("format", ["npz", "parquet"])
def test_resume_writes_what_is_missing(model, tmp_path, format):
    how = LABELLED | {"out": tmp_path / "out", "format": format, "shard_size": 64}
    out = tsgen.generate(model, N, **how)
    before, inodes = digests(out), [file.stat().st_ino for file in shards(out)]
    shards(out)[2].unlink()
    killed = out / ".samples-00002-of-00005.npz.99999999.0123abcd.tmp"
    killed = killed.with_name(killed.name.replace("npz", format))
    killed.write_bytes(b"half a shard of a process that is no more")
    tsgen.generate(model, N, **how)
    assert digests(out) == before
    after = [file.stat().st_ino for file in shards(out)]
    assert after[:2] + after[3:] == inodes[:2] + inodes[3:]


def test_killed_again_and_again(saved, whole, processes, tmp_path):
    """kill -9 at 20 random steps: what is finished stays, and the end is the same bytes."""
    out, rng, kept = tmp_path / "out", random.Random(0), {}
    for _ in range(20):
        n_steps = rng.randint(1, 12)
        process = processes.Process(target=write_until, args=(saved, out, n_steps))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        now = {file.name: file.stat().st_ino for file in shards(out)}
        assert kept.items() <= now.items()
        kept = now
    assert kept
    write(saved, out)
    assert digests(out) == whole


def test_ranks_share_the_shards(saved, whole, processes, tmp_path):
    out = tmp_path / "out"
    ranks = [{"RANK": str(r), "WORLD_SIZE": "3"} for r in range(3)]
    running = [processes.Process(target=write, args=(saved, out, env)) for env in ranks]
    for process in running:
        process.start()
    for process in running:
        process.join(60)
    assert [process.exitcode for process in running] == [0, 0, 0]
    assert digests(out) == whole


def test_a_rank_writes_its_own_and_waits_for_none(model, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    out = tsgen.generate(model, N, out=tmp_path / "out", shard_size=64)
    assert [int(file.name.split("-")[1]) for file in shards(out)] == [1, 3]
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(ArgumentError, match="a rank below the number of ranks, got 2, 2"):
        tsgen.generate(model, N, out=out, shard_size=64)


CHANGES = {
    "seed": {"seed": 4},
    "n": {"n": N + 1},
    "label": {"label": "funnel"},
    "settings": {"temperature": 0.5},
    "shard_size": {"shard_size": 64},
    "format": {"format": "csv"},
    "strict": {"strict": False},
    "model": {},
}


@pytest.mark.parametrize("key", CHANGES)
def test_another_call_is_refused(model, tmp_path, key):
    call = {"model": model, "n": N, "out": tmp_path / "out", **LABELLED}
    out = tsgen.generate(**call)
    before = digests(out)
    other = {"model": tiny_model(seed=1)} if key == "model" else CHANGES[key]
    with pytest.raises(ArgumentError, match=rf"a new folder.*\b{key}: .* there, .* here"):
        tsgen.generate(**call | other)
    assert digests(out) == before


def test_folders_that_are_not_ours(model, tmp_path):
    (tmp_path / "samples-00000-of-00005.npz").write_bytes(b"mine")
    with pytest.raises(ArgumentError, match=r"which has samples-00000-of-00005\.npz"):
        tsgen.generate(model, N, out=tmp_path, shard_size=64)
    assert [file.name for file in tmp_path.iterdir()] == ["samples-00000-of-00005.npz"]
    for content in (b"", b"{", b"[]", b"\xff", b"[" * 10**5):
        (tmp_path / "manifest.json").write_bytes(content)
        with pytest.raises(FileError, match=r"manifest\.json"):
            tsgen.generate(model, N, out=tmp_path, shard_size=64)


REFUSED = {
    "n": ({"n": -1}, ArgumentError),
    "n float": ({"n": 1.5}, ArgumentTypeError),
    "n none": ({"n": None}, ArgumentError),
    "format": ({"format": "pickle"}, ArgumentError),
    "shard_size": ({"shard_size": 0}, ArgumentError),
    "seed": ({"seed": -1}, ArgumentError),
    "label": ({"label": "nobody"}, ArgumentError),
    "labels": ({"label": ["bell"] * 3}, ArgumentError),
    "n indices": ({"indices": [1, 2]}, ArgumentError),
    "out": ({"out": "a\0b"}, ArgumentError),
    "settings": ({"stepz": 3}, ArgumentError),
    "labels: .npy": ({"label": "bell", "format": "npy"}, ArgumentError),
    "model": ({"model": "nobody"}, ArgumentError),
    "model type": ({"model": 3}, ArgumentTypeError),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_arguments_leave_nothing(model, tmp_path, case):
    change, error = REFUSED[case]
    with pytest.raises(error, match=case.split(" ")[0]):
        tsgen.generate(**{"model": model, "n": 10, "out": tmp_path / "out"} | change)
    assert not list(tmp_path.iterdir())


def test_a_format_that_cannot_hold_the_labels(tmp_path):
    model = tiny_model(names=("upward shift", "normal"))
    with pytest.raises(ArgumentError, match="without spaces"):
        tsgen.generate(model, 10, out=tmp_path / "out", label="upward shift", format="ts")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["/proc/self/out", "/proc/self", "file", "file/out"])
def test_folders_that_cannot_be_written(model, tmp_path, where):
    (tmp_path / "file").write_text("a file")
    with pytest.raises(FileError):
        tsgen.generate(model, 10, out=tmp_path / where)


def test_disk_full_while_writing(model, tmp_path):
    """A file size limit stands for a full disk: the write itself fails half way."""
    how = {"out": tmp_path / "out", "shard_size": 64, "format": "npz"}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(FileError, match="samples-00000"):
            tsgen.generate(model, 70, **how)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [file.name for file in how["out"].iterdir()] == ["manifest.json"]
    tsgen.generate(model, 70, **how)
    assert len(shards(how["out"])) == 2


@pytest.mark.parametrize("format", bulk.FORMATS)
def test_disk_full_at_the_end(model, tmp_path, monkeypatch, format):
    how = {"out": tmp_path / "out", "shard_size": 64, "format": format}
    tsgen.generate(model, 70, **how)
    shards(how["out"])[1].unlink()
    before, fsync = digests(how["out"]), os.fsync

    def full(descriptor):
        if "-of-" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match="No space left"):
        tsgen.generate(model, 70, **how)
    assert digests(how["out"]) == before


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """A package folder with one bundled model."""
    monkeypatch.setattr(bundled, "FOLDER", tmp_path / "bundled")
    tiny_model().save(bundled.FOLDER / "cbf")
    return bundled.FOLDER


def test_bundled_models(bundle, monkeypatch, tmp_path):
    (bundle / "leftover").mkdir()
    assert bundled.names() == ("cbf",)
    model = bundled.open_model("cbf")
    assert bundled.open_model("cbf") is model
    assert bundled.open_model(model) is model
    assert tsgen.load("cbf") is not model  # the caller's own, to move or train
    np.testing.assert_array_equal(tsgen.generate("cbf", 3), tiny_model().generate(3))
    tiny_model(seed=1).save(tmp_path / "cbf")
    monkeypatch.chdir(tmp_path)
    assert bulk.fingerprint(tsgen.load("cbf")) == bulk.fingerprint(model)
    assert bulk.fingerprint(tsgen.load("./cbf")) == bulk.fingerprint(tiny_model(seed=1))
    assert bulk.fingerprint(tsgen.load(tmp_path / "cbf")) != bulk.fingerprint(model)


def test_models_that_are_not_there(bundle, tmp_path):
    with pytest.raises(ArgumentError, match=r"a bundled model \(cbf\), got 'cfb'"):
        tsgen.load("cfb")
    with pytest.raises(ArgumentTypeError, match="model: wanted a path, got int"):
        tsgen.load(3)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match=r"config\.json"):
        tsgen.load(tmp_path / "empty")


def test_fingerprint_tells_models_apart(model):
    others = [tiny_model(seed=1), tiny_model(names=("a", "b", "c")), tiny_model(length=25)]
    assert bulk.fingerprint(model) == bulk.fingerprint(tiny_model())
    assert len({bulk.fingerprint(m) for m in (model, *others)}) == 4
