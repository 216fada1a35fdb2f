"""Checkpoints through full disks, power loss and kill -9: always the old one or the new one."""

import errno
import io
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import PLAIN, names, version, version_of

from tsgen.checkpoint import CONFIG, WEIGHTS, read_folder, write_folder
from tsgen.errors import FileError


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
                message = str(error)
            else:
                assert disk.steps < at
                assert version_of(path) == 2
                break
        assert str(path) in message
        assert "No space left" in message
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
import torch
torch.set_num_threads(1)  # a thread pool does not survive a fork
from checkpoints import PLAIN, names, version, version_of
from tsgen.checkpoint import write_folder

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
    time.sleep(rng.uniform(0.001, 0.08))
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
    newest, n_left, n_seen = map(int, done.stdout.split())
    assert newest > 0
    assert n_left > 0  # kills did hit in the middle of a write
    assert n_seen > 1
