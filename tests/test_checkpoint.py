"""Folders of config.json and model.safetensors: round trip, faults, kill -9."""

import errno
import io
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from tsgen.checkpoint import CONFIG, MAX_DEPTH, WEIGHTS, check_tensors, read_folder, write_folder
from tsgen.errors import ArgumentError, FileError
from tsgen.version import __version__
from tsgen.weights import DTYPES

SETTINGS = {"a": [1, 2.5, None, True], "b": {"name": "é\u2028\x00"}, "c": ""}
PLAIN = {CONFIG, WEIGHTS}


def some(dtype, shape):
    """A tensor of random bits."""
    n = torch.Size(shape).numel() * dtype.itemsize
    rng = torch.Generator().manual_seed(n)
    return (
        torch.randint(2 if dtype == torch.bool else 256, (n,), generator=rng)
        .byte()
        .view(dtype)
        .reshape(shape)
    )


TENSORS = {
    f"{name}.{len(shape)}.{0 in shape}": some(dtype, shape)
    for name, dtype in DTYPES.items()
    for shape in ((), (3,), (0,), (2, 3, 5), (4, 0, 7))
}


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


@pytest.mark.parametrize("kind", ["model", "training"])
def test_round_trip(tmp_path, kind):
    path = tmp_path / "new" / "model"
    write_folder(path, SETTINGS, TENSORS, kind=kind)
    config, tensors = read_folder(str(path), kind=kind)
    assert config == SETTINGS
    assert same(tensors, TENSORS)
    assert names(path) == PLAIN
    with pytest.raises(FileError, match="kind"):
        read_folder(path, kind="training" if kind == "model" else "model")


def test_tensors_have_memory_of_their_own(tmp_path):
    write_folder(tmp_path, {}, TENSORS, kind="model")
    tensors = read_folder(tmp_path, kind="model")[1]
    assert len({t.untyped_storage().data_ptr() for t in tensors.values() if t.numel()}) == sum(
        t.numel() > 0 for t in tensors.values()
    )
    assert all(t.data_ptr() % 64 == 0 for t in tensors.values())


def test_config_json_says_what_is_promised_and_others_read_the_weights(tmp_path):
    write_folder(tmp_path, SETTINGS, TENSORS, kind="model")
    document = json.loads((tmp_path / CONFIG).read_text())
    assert (document["schema"], document["kind"], document["tsgen"]) == (1, "model", __version__)
    assert document["weights"]["file"] == WEIGHTS
    assert document["weights"]["bytes"] == (tmp_path / WEIGHTS).stat().st_size
    assert same(safetensors.torch.load_file(tmp_path / WEIGHTS), TENSORS)


def test_views_and_shared_memory_are_written_in_full(tmp_path):
    x = torch.arange(12.0).reshape(3, 4).requires_grad_()
    tensors = {"x": x, "again": x, "row": x[1], "turned": x.T, "wide": x[:1].expand(5, 4)}
    write_folder(tmp_path, {}, tensors, kind="training")
    assert same(
        read_folder(tmp_path, kind="training")[1],
        {k: v.detach().contiguous() for k, v in tensors.items()},
    )


def test_nothing_at_all_can_be_written(tmp_path):
    write_folder(tmp_path, {}, {}, kind="model")
    assert read_folder(tmp_path, kind="model") == ({}, {})


def test_overwriting_keeps_other_files_and_the_plain_names(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("mine")
    (tmp_path / "training").mkdir()
    for i in (1, 2, 2, 1):  # the same one twice too
        write_folder(tmp_path, *version(i), kind="model")
        assert version_of(tmp_path) == i
        assert names(tmp_path) == PLAIN | {"metrics.jsonl", "training"}


@pytest.mark.parametrize("foreign", [CONFIG, WEIGHTS])
def test_what_is_not_ours_is_not_overwritten(tmp_path, foreign):
    (tmp_path / foreign).write_text("{}")
    with pytest.raises(FileError, match="wanted"):
        write_folder(tmp_path, {}, {}, kind="model")
    assert names(tmp_path) == {foreign}
    assert (tmp_path / foreign).read_text() == "{}"


def test_another_kind_is_not_overwritten(tmp_path):
    write_folder(tmp_path, {}, {}, kind="training")
    with pytest.raises(FileError, match="kind 'model'"):
        write_folder(tmp_path, {}, {}, kind="model")
    read_folder(tmp_path, kind="training")


def nested(depth):
    return {} if depth == 1 else {"a": nested(depth - 1)}


@pytest.mark.parametrize(
    ("config", "tensors"),
    [
        ({"a": float("nan")}, {}),
        ({"a": float("inf")}, {}),
        ({"a": object()}, {}),
        ({"a": "x" * 10**6}, {}),
        (nested(MAX_DEPTH), {}),  # one more inside the document
        ({}, {"a": [1.0]}),
        ({}, {"a": torch.zeros(2, device="meta")}),
        ({}, {"a": torch.zeros(2, 2).to_sparse()}),
        ({}, {"a": torch.zeros(2, dtype=torch.complex64)}),
        ({}, {"__metadata__": torch.zeros(2)}),
        ({}, {1: torch.zeros(2)}),
        ({}, {f"{i:0200}": torch.zeros(0) for i in range(9000)}),
    ],
)
def test_what_could_not_be_read_back_is_not_written(tmp_path, config, tensors):
    write_folder(tmp_path / "old", *version(1), kind="model")
    for name in ("old", "new"):
        with pytest.raises((ArgumentError, FileError)):
            write_folder(tmp_path / name, config, tensors, kind="model")
    assert names(tmp_path) == {"old"}
    assert names(tmp_path / "old") == PLAIN
    assert version_of(tmp_path / "old") == 1


def test_deepest_config(tmp_path):
    write_folder(tmp_path, nested(MAX_DEPTH - 1), {}, kind="model")
    assert read_folder(tmp_path, kind="model")[0] == nested(MAX_DEPTH - 1)


def test_check_tensors_lists_what_differs(tmp_path):
    tensors = {"a": torch.zeros(2, 3), "b": torch.zeros(2), "c": torch.zeros(1)}
    wanted = {k: (v.shape, v.dtype) for k, v in tensors.items()}
    check_tensors(tensors, wanted, tmp_path)
    wanted |= {"a": (torch.Size((3, 2)), torch.float32), "b": (torch.Size((2,)), torch.float64)}
    wanted["d"] = wanted.pop("c")
    with pytest.raises(FileError, match="4 tensors") as error:
        check_tensors(tensors, wanted, tmp_path)
    for part in (str(tmp_path), "'a': wanted (3, 2)", "'b'", "'d' is missing", "'c' is unexp"):
        assert part in str(error.value)
    with pytest.raises(FileError, match="100 tensors") as error:
        check_tensors({f"x{i}\n": torch.zeros(1) for i in range(100)}, {}, tmp_path)
    assert str(error.value).count("unexpected") == 5
    assert "\n" not in str(error.value)


class Disk:
    """Counts every step that a disk can refuse, and refuses step `at`, or all from there on."""

    def __init__(self, monkeypatch, at, lasting):
        self.at, self.lasting, self.steps, self.log = at, lasting, 0, []
        fsync, replace, mkdir, disk = os.fsync, os.replace, os.mkdir, self

        class Writer(io.BufferedWriter):
            def write(self, data):
                half = memoryview(data)[: len(data) // 2]
                disk.step("write", self.raw.name, before=lambda: super(Writer, self).write(half))
                return super().write(data)

        def synced(descriptor):
            self.step("fsync", str(Path(f"/proc/self/fd/{descriptor}").readlink()))
            fsync(descriptor)

        def replaced(source, target, **kwargs):
            self.step("replace", str(source), str(target))
            replace(source, target, **kwargs)

        def made(path, *args, **kwargs):
            self.step("mkdir", str(path))
            mkdir(path, *args, **kwargs)

        path_open = Path.open
        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(os, "replace", replaced)
        monkeypatch.setattr(os, "mkdir", made)
        monkeypatch.setattr(
            Path,
            "open",
            lambda path, mode="r", *args, **kwargs: (
                Writer(io.FileIO(str(path), "x"))
                if mode == "xb"
                else path_open(path, mode, *args, **kwargs)
            ),
        )

    def step(self, *what, before=lambda: None):
        self.log.append(what)
        self.steps += 1
        if self.steps == self.at or (self.lasting and self.steps > self.at):
            before()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("old", [False, True])
def test_full_disk_at_every_step(tmp_path, lasting, old):
    for at in range(1, 100):
        path = tmp_path / str(at)
        if old:
            write_folder(path, *version(1), kind="model")
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(patch, at, lasting)
            try:
                write_folder(path, *version(2), kind="model")
            except FileError as error:
                assert str(path) in str(error)
                assert "No space left" in str(error)
                assert disk.steps >= at
            else:
                assert disk.steps < at
                assert version_of(path) == 2
                break
        committed = any(w[0] == "replace" and w[2].endswith(CONFIG) for w in disk.log[: at - 1])
        if old or committed:
            assert version_of(path) == (2 if committed else 1)
            others = names(path) - PLAIN
            assert len(others) <= committed, others
            assert all(re.fullmatch(r"model-[0-9a-f]{16}\.safetensors", name) for name in others)
        else:
            assert not path.exists()
        write_folder(path, *version(3), kind="model")
        assert version_of(path) == 3
        assert names(path) == PLAIN
    assert at > 8


def test_power_loss_cannot_reorder(tmp_path, monkeypatch):
    """Each rename moves a synced file, and is on the disk before the next one starts."""
    write_folder(tmp_path, *version(1), kind="model")
    disk = Disk(monkeypatch, 0, False)
    write_folder(tmp_path, *version(2), kind="model")
    synced, renames = set(), []
    for what, name, *target in disk.log:
        if what == "replace":
            assert name in synced
            assert not renames or str(tmp_path) in synced
            synced = (synced | set(target)) - {str(tmp_path)}
            renames += target
        elif what == "fsync":
            synced.add(name)
    assert [Path(name).name for name in renames][1:] == [CONFIG, WEIGHTS]
    assert disk.log[-1] == ("fsync", str(tmp_path))


def test_kernel_refuses_to_write(tmp_path):
    write_folder(tmp_path / "old", *version(1), kind="model")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        for name in ("old", "new"):
            with pytest.raises(FileError, match="cannot be written"):
                write_folder(tmp_path / name, *version(2, n=100_000), kind="model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert version_of(tmp_path / "old") == 1
    assert names(tmp_path) == {"old"}
    assert names(tmp_path / "old") == PLAIN


def test_places_that_cannot_be_written(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    for path in (file, file / "model", "/proc/tsgen", "/dev/null", "a\0b"):
        with pytest.raises(FileError):
            write_folder(path, *version(1), kind="model")
    assert file.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(tmp_path):
    path = tmp_path / "model"
    write_folder(path, *version(1), kind="model")
    path.chmod(0o500)
    try:
        with pytest.raises(FileError, match="Permission denied"):
            write_folder(path, *version(2), kind="model")
        assert version_of(path) == 1
    finally:
        path.chmod(0o700)
    (path / WEIGHTS).chmod(0)
    with pytest.raises(FileError, match="Permission denied"):
        read_folder(path, kind="model")


KILL = """
import os, random, signal, sys, time
from pathlib import Path
from test_checkpoint import PLAIN, names, version, version_of, write_folder

def writer(path, first):
    for i in range(first, 10**6):
        write_folder(path, *version(i, n=100_000), kind="model")

def forked(*args):
    if pid := os.fork():
        return pid
    try:
        writer(*args)
    finally:
        os._exit(1)

def kill(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)

path, rng, newest, left = Path(sys.argv[1]), random.Random(0), 0, set()
write_folder(path, *version(0), kind="model")
for _ in range(20):
    pid = forked(path, newest + 1)
    time.sleep(rng.uniform(0.001, 0.06))
    kill(pid)
    now = version_of(path)
    assert now >= newest, (now, newest)
    newest, left = now, left | (names(path) - PLAIN)
write_folder(path, *version(0), kind="model")
assert names(path) == PLAIN, names(path)
pids, seen, end = [forked(path, 1000), forked(path, 1000)], set(), time.time() + 1.5
while time.time() < end:
    seen.add(version_of(path))
for pid in pids:
    kill(pid)
version_of(path)
print(newest, len(left), len(seen))
"""


def test_kill_9_and_readers_beside_writers(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", KILL, str(tmp_path / "model")],
        cwd=Path(__file__).parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)  # noqa: T201  versions written, files left by kills, versions a reader saw
    newest, _, seen = map(int, done.stdout.split())
    assert newest > 0
    assert seen > 1
