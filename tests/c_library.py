"""libtsgen built from this checkout, and its functions as ctypes has them, typed by tsgen.h."""

import contextlib
import ctypes
import fcntl
import functools
import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
HEADER = ROOT / "csrc" / "tsgen.h"
HEADERS = [HEADER, HEADER.with_name("tsgen_ops.h")]
BUILD = ROOT / "build" / "c_library"  # kept: whoever comes next compiles what has changed alone

STATUS = {
    name: int(value)
    for name, value in re.findall(r"TSGEN_(\w+) = (\d)", HEADER.read_text().split("};")[0])
}
TYPES = {
    "tsgen_status": ctypes.c_int32,
    "tsgen_device": ctypes.c_int32,
    "int32_t": ctypes.c_int32,
    "int64_t": ctypes.c_int64,
    "tsgen_taps": ctypes.c_int64,
    "uint32_t": ctypes.c_uint32,
    "uint64_t": ctypes.c_uint64,
    "double": ctypes.c_double,
    "const char*": ctypes.c_char_p,
    "void": None,
}


class Info(ctypes.Structure):
    """tsgen_info."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        *((name, ctypes.c_int64) for name in ("n_channels", "length", "n_classes", "n_bands")),
        ("n_tokens", ctypes.c_int64 * 2),
        ("n_codes", ctypes.c_int64 * 2),
    )


class Settings(ctypes.Structure):
    """tsgen_settings."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("steps", ctypes.c_int64 * 2),
        ("temperature", ctypes.c_double),
        ("choice_temperature", ctypes.c_double * 2),
        ("guidance", ctypes.c_double),
        ("schedule", ctypes.c_int32),
        ("top_k", ctypes.c_int64),
        ("top_p", ctypes.c_double),
    )


class Failed(Exception):
    """A status that is not TSGEN_OK, by name, and the text with it."""

    def __init__(self, status: int, text: str) -> None:
        self.status = next(name for name, value in STATUS.items() if value == status)
        super().__init__(f"{self.status}: {text}")


def cmake(*words: object) -> None:
    """Run CMake, which may come from the environment without being active."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    if not shutil.which("cmake", path=path) or not shutil.which("c++", path=path):
        pytest.skip("needs cmake and a C++ compiler")
    command = ["cmake", *map(str, words)]
    generator = "Ninja" if shutil.which("ninja", path=path) else "Unix Makefiles"
    environment = os.environ | {"PATH": path, "CMAKE_GENERATOR": generator}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


@functools.cache
def built() -> Path:
    """The folder with the library: the one that TSGEN_LIBRARY names, or our own, up to date."""
    if given := os.environ.get("TSGEN_LIBRARY"):
        return Path(given).resolve()
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several workers of a test run may come at once
        cmake("-S", ROOT, "-B", BUILD, "-DTSGEN_PYTHON=OFF", "-DTSGEN_CUDA=OFF")
        cmake("--build", BUILD, "--parallel", os.cpu_count())
    return BUILD


def declared() -> dict[str, tuple[str, list[str]]]:
    """What the headers declare: result and arguments' types by name."""
    text = "".join(header.read_text() for header in HEADERS)
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    out = {}
    pattern = r"TSGEN_API ([^;{]*?[ *])(tsgen_\w+)\(([^;]*?)\);"
    for result, name, arguments in re.findall(pattern, text, re.DOTALL):
        words = [" ".join(a.split()).rpartition(" ")[0] for a in arguments.split(",")]
        out[name] = result.strip(), [] if words == [""] else words
    return out


@functools.cache
def library() -> ctypes.CDLL:
    """The library, every function typed."""
    found = ctypes.CDLL(str(built() / "libtsgen.so"))
    for name, (result, arguments) in declared().items():
        function = getattr(found, name)
        function.restype = TYPES[result]
        function.argtypes = [TYPES.get(a, ctypes.c_void_p) for a in arguments]
    return found


def call(name: str, *arguments: object) -> None:
    """Call tsgen_<name> with arrays, numbers, texts and structures; raises Failed."""
    given = [address(a) if isinstance(a, np.ndarray) else a for a in arguments]
    status = getattr(library(), f"tsgen_{name}")(*given)
    if status != 0:
        raise Failed(status, library().tsgen_last_error().decode())


def address(array: np.ndarray) -> int:
    assert array.flags.c_contiguous
    return array.ctypes.data


@contextlib.contextmanager
def loaded(folder: Path, threads: int = 1, device: int = 0):
    """A model of the library; device 1 is the first GPU."""
    model = ctypes.c_void_p()
    call("model_load", os.fsencode(folder), device, threads, ctypes.byref(model))
    try:
        yield model
    finally:
        library().tsgen_model_free(model)


@functools.cache
def no_gpu() -> str:
    """Why the library cannot use the first GPU; empty if it can."""
    try:
        call("model_load", b"nothing of that name", 1, 1, ctypes.byref(ctypes.c_void_p()))
    except Failed as error:
        return "" if error.status == "BAD_FILE" else str(error)
    raise AssertionError("read a model out of nothing")


def info(model: ctypes.c_void_p) -> Info:
    out = Info(size=ctypes.sizeof(Info))
    call("model_info", model, ctypes.byref(out))
    return out


def settings(model: ctypes.c_void_p) -> Settings:
    out = Settings(size=ctypes.sizeof(Settings))
    call("settings_of", model, ctypes.byref(out))
    return out


def generate(
    model: ctypes.c_void_p,
    n: int,
    *,
    index: object = None,
    classes: object = None,
    seed: int = 0,
    how: Settings | None = None,
    threads: int = 1,
) -> np.ndarray:
    """As tsgen_generate draws them: (n, channels, length)."""
    sizes = info(model)
    out = np.full((n, sizes.n_channels, sizes.length), np.nan, dtype=np.float32)
    arrays = [None if a is None else np.array(a, dtype=np.int64) for a in (index, classes)]
    changed = None if how is None else ctypes.byref(how)
    call("generate", model, n, *arrays, seed, changed, threads, out)
    return out


def encode(model: ctypes.c_void_p, series: np.ndarray, threads: int = 1) -> np.ndarray:
    ids = np.full((len(series), sum(info(model).n_tokens)), -1, dtype=np.int64)
    call("encode", model, len(series), series, threads, ids)
    return ids


def decode(model: ctypes.c_void_p, ids: np.ndarray, threads: int = 1) -> np.ndarray:
    sizes = info(model)
    out = np.full((len(ids), sizes.n_channels, sizes.length), np.nan, dtype=np.float32)
    call("decode", model, len(ids), ids, threads, out)
    return out
