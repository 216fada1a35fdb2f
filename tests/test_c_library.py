"""The C ABI's models: the same bits as Python's, and a status with a text for all that is wrong."""

import ctypes
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from c_library import (
    BUILD,
    HEADER,
    ROOT,
    Failed,
    Settings,
    built,
    call,
    cmake,
    declared,
    decode,
    encode,
    generate,
    info,
    library,
    loaded,
    no_gpu,
    settings,
)
from engines import SHAPES
from tiny_models import smooth_series, tiny_model

import tsgen
from tsgen.bundled import FOLDER, names
from tsgen.config import SCHEDULES
from tsgen.engine_cpu import CpuEngine

pytestmark = pytest.mark.skipif(
    CpuEngine.obstacle(tiny_model().network) is not None, reason="needs engine cpu to compare with"
)
THREADS = (1, 2, 5)


@pytest.fixture
def same_isa(isa):
    """The library's instruction set goes with that of tsgen._C."""
    call("limit_instruction_set", isa.encode())
    yield
    call("limit_instruction_set", b"avx512")


@pytest.fixture(params=names())
def bundled(request):
    with loaded(FOLDER / request.param) as model:
        yield tsgen.load(request.param), model


def noisy(model, n):
    """Series like those that the model draws, and not the same."""
    noise = np.random.default_rng(0).normal(0, 0.05, (n, *model.shape))
    return (model.generate(n, seed=3) + noise).astype(np.float32)


def test_generates_the_same_bits_as_python(bundled):
    python, model = bundled
    label = np.arange(70) % python.config.n_classes
    wanted = python.generate(70, seed=2**64 - 1, label=label)
    for threads in THREADS:
        out = generate(model, 70, seed=2**64 - 1, classes=label, threads=threads)
        np.testing.assert_array_equal(out, wanted)
    np.testing.assert_array_equal(generate(model, 100, seed=1), python.generate(100, seed=1))


def test_index_names_samples(bundled):
    python, model = bundled
    index, classes = [299, 0, 2**40, 0], [0, -1, 1, 1]
    out = generate(model, 4, index=index, classes=classes, seed=9)
    for i, (at, label) in enumerate(zip(index, classes, strict=True)):
        wanted = python.generate(indices=[at], label=None if label < 0 else label, seed=9)
        np.testing.assert_array_equal(out[i], wanted[0])


def test_encodes_and_decodes_as_python(bundled):
    python, model = bundled
    x = noisy(python, 100)
    ids = python.encode(x)
    for threads in THREADS:
        np.testing.assert_array_equal(encode(model, x, threads), ids)
        np.testing.assert_array_equal(decode(model, ids, threads), python.decode(ids))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_settings_mean_what_they_mean_in_python(schedule):
    python = tsgen.load("cbf")
    changes = {"temperature": 0.9, "guidance": 1.7, "top_k": 40, "top_p": 0.9}
    bands = {"steps": (7, 3), "choice_temperature": (2.5, 0.5)}
    wanted = python.generate(20, label="bell", schedule=schedule, **changes, **bands)
    with loaded(FOLDER / "cbf") as model:
        how = settings(model)
        assert (how.steps[:], how.top_p) == ([10, 10], 1.0)
        for name, value in changes.items():
            setattr(how, name, value)
        for name, values in bands.items():
            getattr(how, name)[:] = values
        how.schedule = SCHEDULES.index(schedule)
        out = generate(model, 20, classes=[0] * 20, how=how)
    np.testing.assert_array_equal(out, wanted)


@pytest.mark.usefixtures("same_isa")
@pytest.mark.parametrize("sizes", SHAPES, ids=str)
@pytest.mark.parametrize("kind", [{"tables": "free"}, {"tables": "codes"}], ids=str)
def test_every_kind_of_layer(sizes, kind, tmp_path):
    flat = {"band_alignment": "flat"} if kind["tables"] == "free" else {}
    python = tiny_model(**sizes, prior=kind, **flat)
    python.save(tmp_path / "model")
    x = smooth_series(40, *python.shape)
    with loaded(tmp_path / "model") as model:
        label = np.arange(40) % 3
        out = generate(model, 40, classes=label, seed=5)
        np.testing.assert_array_equal(out, python.generate(40, label=label, seed=5))
        ids = encode(model, x)
        np.testing.assert_array_equal(ids, python.encode(x))
        np.testing.assert_array_equal(decode(model, ids), python.decode(ids))


def test_says_what_a_model_is():
    with loaded(FOLDER / "ecg") as model:
        sizes = info(model)
        python = tsgen.load("ecg")
        config = python.config.tokenizer
        assert (sizes.n_channels, sizes.length, sizes.n_bands) == (2, 256, 2)
        assert sizes.n_tokens[:] == [config.n_tokens(band) for band in range(2)]
        assert sizes.n_codes[:] == list(config.n_codes)
        for i, name in enumerate(python.labels.names):
            assert library().tsgen_class_name(model, i) == name.encode()
            found = ctypes.c_int64()
            call("class_id", model, name.encode(), ctypes.byref(found))
            assert found.value == i
        for outside in (-1, 3):
            assert library().tsgen_class_name(model, outside) is None


def test_many_threads_use_one_model():
    """And each has its own last error: ctypes lets go of the interpreter meanwhile."""
    with loaded(FOLDER / "cbf") as model:
        wanted = [generate(model, 8, seed=seed) for seed in range(8)]

        def work(seed):
            with pytest.raises(Failed, match=f"got {seed + 3}$"):
                generate(model, 1, classes=[seed + 3])
            return generate(model, 8, seed=seed, threads=2)

        with ThreadPoolExecutor(4) as pool:
            for out, alone in zip(pool.map(work, range(8)), wanted, strict=True):
                np.testing.assert_array_equal(out, alone)


def test_structures_of_an_older_and_a_newer_header():
    class Newer(Settings):
        _fields_ = (("more", ctypes.c_int64),)

    with loaded(FOLDER / "cbf") as model:
        newer = Newer(size=ctypes.sizeof(Newer), more=5)
        call("settings_of", model, ctypes.byref(newer))
        assert newer.more == 0
        out = generate(model, 2, how=newer)
        np.testing.assert_array_equal(out, generate(model, 2))
        newer.more = 1
        with pytest.raises(Failed, match=r"BAD_ARGUMENT: settings: wanted its size in `size`"):
            generate(model, 2, how=newer)
        older = Settings(size=16)
        with pytest.raises(Failed, match="BAD_ARGUMENT: settings: wanted its size"):
            call("settings_of", model, ctypes.byref(older))


WRONG = {
    "n: wanted a whole number from 0": lambda m: generate_into(m, n=-1),
    "n: wanted a whole number from 0 to .*, got 4611686018427387904": lambda m: generate_into(
        m, n=2**62
    ),
    "class_id: wanted a whole number from -1 to 2, got 3": lambda m: generate(m, 1, classes=[3]),
    "index: wanted a whole number from 0 to .*, got -1": lambda m: generate(m, 1, index=[-1]),
    "n_threads: wanted .*, got -1": lambda m: generate(m, 1, threads=-1),
    "steps: wanted .*, got 0": lambda m: generate(m, 1, how=with_(m, steps=(0, 1))),
    "temperature: wanted .*, got nan": lambda m: generate(m, 1, how=with_(m, temperature=np.nan)),
    "choice_temperature: wanted": lambda m: generate(
        m, 1, how=with_(m, choice_temperature=(-1, 1))
    ),
    "guidance: wanted .*, got inf": lambda m: generate(m, 1, how=with_(m, guidance=np.inf)),
    "schedule: wanted .*, got 7": lambda m: generate(m, 1, how=with_(m, schedule=7)),
    "top_k: wanted .*, got -1": lambda m: generate(m, 1, how=with_(m, top_k=-1)),
    "top_p: wanted .*, got 0": lambda m: generate(m, 1, how=with_(m, top_p=0.0)),
    "ids: wanted 0 to 1023 in band 0, got -1": lambda m: decode(m, np.full((1, 72), -1)),
    "ids: wanted 0 to 1023 in band 1, got 1024": lambda m: decode(m, np.array([[0] * 71 + [1024]])),
    "series: wanted finite numbers": lambda m: encode(
        m, np.full((1, 1, 128), np.nan, dtype=np.float32)
    ),
    "series: wanted an address, got null": lambda m: call("encode", m, 1, None, 1, None),
    "model: wanted an address, got null": lambda m: call("encode", None, 1, None, 1, None),
    "name: wanted one of 'bell' 'cylinder' 'funnel', got 'bel": lambda m: call(
        "class_id", m, b"bel\xc3\xa9\n", ctypes.byref(ctypes.c_int64())
    ),
    "device: wanted a whole number from 0 to 1024, got -1": lambda m: call(
        "model_load", b"x", -1, 1, ctypes.byref(ctypes.c_void_p())
    ),
    "most: wanted portable, avx2 or avx512, got 'mmx'": lambda m: call(
        "limit_instruction_set", b"mmx"
    ),
}


def generate_into(model, n):
    call("generate", model, n, None, None, 0, None, 1, np.empty(1, dtype=np.float32))


def with_(model, **changes):
    """The model's settings with one changed."""
    how = settings(model)
    for name, value in changes.items():
        if isinstance(value, tuple):
            getattr(how, name)[:] = value
        else:
            setattr(how, name, value)
    return how


def test_wrong_arguments():
    with loaded(FOLDER / "cbf") as model:
        for pattern, wrong in WRONG.items():
            with pytest.raises(Failed, match=f"BAD_ARGUMENT: {pattern}"):
                wrong(model)


def test_a_gpu_that_is_not_there():
    """Whether the library has no kernels or the machine no GPU, it says so."""
    model = ctypes.c_void_p(1)
    why = no_gpu() or pytest.skip("there is a GPU, or what stands for one")
    assert re.fullmatch("UNSUPPORTED: device: wanted .*, got(: .+| CUDA)", why)
    with pytest.raises(Failed, match="UNSUPPORTED: device: wanted"):
        call("model_load", os.fsencode(FOLDER / "cbf"), 1, 1, ctypes.byref(model))
    assert model.value is None
    with pytest.raises(Failed, match="UNSUPPORTED: device: wanted"):
        call("model_load", b"x", 2, 1, ctypes.byref(model))


def test_a_model_that_is_not_trained(tmp_path):
    model = tiny_model()
    with torch.no_grad():
        model.network.priors[0].head_bias.fill_(float("nan"))
    model.save(tmp_path / "model")
    with loaded(tmp_path / "model") as found, pytest.raises(Failed, match="NOT_FINITE: model: "):
        generate(found, 1)


def test_exports_what_the_header_declares_and_nothing_else():
    nm = shutil.which("nm")
    if not nm:
        pytest.skip("needs nm")
    command = [nm, "-D", "--defined-only", built() / "libtsgen.so"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {name for kind, name in re.findall(r" (\w) (\w+)", lines) if kind != "A"}
    assert found == set(declared())


def test_wants_no_driver_to_be_loaded():
    """The CUDA runtime is in it, where there are kernels, and looks for the driver by itself."""
    ldd = shutil.which("ldd")
    if not ldd:
        pytest.skip("needs ldd")
    command = [ldd, built() / "libtsgen.so"]
    needed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert not re.search("cuda|nvrtc|not found", needed)


def test_header_is_c_and_of_this_version(tmp_path):
    assert library().tsgen_version().decode() == tsgen.__version__
    assert f"ABI_VERSION {library().tsgen_abi_version()}" in HEADER.read_text()
    compiler = shutil.which("cc")
    if not compiler:
        pytest.skip("needs a C compiler")
    source = tmp_path / "header.c"
    source.write_text(
        "#include <tsgen_ops.h>\nint main(void) { return (int)sizeof(tsgen_info); }\n"
    )
    flags = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    subprocess.run([compiler, *flags, "-I", HEADER.parent, source], check=True)


def test_the_example(tmp_path):
    """Installed, found by CMake, linked by a C++ program, and without Python in it."""
    if built() != BUILD:
        pytest.skip("needs a library without sanitizers")
    cmake("--install", BUILD, "--prefix", tmp_path / "installed")
    build, prefix = tmp_path / "embed", f"-DCMAKE_PREFIX_PATH={tmp_path / 'installed'}"
    cmake("-S", ROOT / "examples" / "embed", "-B", build, prefix)
    cmake("--build", build)
    needed = subprocess.run(["ldd", build / "embed"], capture_output=True, text=True, check=True)
    assert "libtsgen.so.1 => " in needed.stdout
    assert not re.search("python|torch", needed.stdout)
    for name, label, threads in (("cbf", "funnel", 1), ("ecg", "normal", 3)):
        python = tsgen.load(name)
        words = [build / "embed", FOLDER / name, "70", "11", label, str(threads)]
        out = subprocess.run(words, capture_output=True, check=True).stdout
        wanted = python.generate(70, label=label, seed=11)
        ids = python.encode(wanted)
        again = python.decode(ids)
        assert out == wanted.tobytes() + ids.tobytes() + again.tobytes()
    wrong = subprocess.run([*words[:4], "nobody"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr.splitlines()[1].startswith("error 1: name: wanted one of 'ST elevation' ")
