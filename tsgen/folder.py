"""A folder on disk: opened, locked, made, its files opened; what goes wrong is a FileError."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tsgen.errors import FileError, TsgenError


def exists(path: Path) -> bool:
    """Whether anything has this name, be it a link to nothing."""
    return os.path.lexists(path)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Make the folder; turn the system's errors into FileError; leave no empty folder behind."""
    made = False
    try:
        if not exists(path):
            path.mkdir(parents=True, exist_ok=True)
            made = True
            with opened(path.parent) as parent:
                os.fsync(parent)
        yield
    except BaseException as error:
        if made:
            with contextlib.suppress(OSError):
                path.rmdir()
        if isinstance(error, Exception) and not isinstance(error, TsgenError):
            raise FileError(f"{path}: cannot be written: {error}") from error
        raise


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """The descriptor of a folder."""
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise FileError(f"{path}: wanted a folder, got nothing of that name") from error
    except NotADirectoryError as error:
        pickles = "pickles (.pt, .pth, .ckpt, .pkl) are never read"
        raise FileError(f"{path}: wanted a folder, got a file; {pickles}") from error
    try:
        yield folder
    finally:
        os.close(folder)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[int]:
    """The descriptor of a folder that one process at a time writes to, where locks exist."""
    with opened(path) as folder:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(folder, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            with contextlib.suppress(OSError):  # closing is not enough: a forked child may have it
                fcntl.flock(folder, fcntl.LOCK_UN)


def open_inside(folder: int, name: str, path: Path) -> IO[bytes]:
    """Open a regular file of a folder; a link, pipe or device raises FileError."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe must not block
    try:
        descriptor = os.open(name, flags, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.ELOOP:
            wanted = "wanted a file, got a symbolic link; copy what it points to"
            raise FileError(f"{path / name}: {wanted}") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileError(f"{path / name}: wanted a regular file")
    return os.fdopen(descriptor, "rb")
