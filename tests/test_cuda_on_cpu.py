"""csrc/cuda_on_cpu runs right kernels right, and tells what is wrong with others."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CXX = shutil.which("g++")
N = 96
KERNELS = [
    *("turn round", "turn round without a barrier", "sum", "barrier for some"),
    *("shuffle for some", "shuffle among some", "copy", "copy not waited for"),
    *("copy never waited for", "beyond the end", "product", "panels"),
]

pytestmark = pytest.mark.skipif(CXX is None, reason="no g++")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("cuda_on_cpu") / "program"
    flags = ["-std=c++17", "-O1", "-g1", "-fsanitize=address,undefined", "-Wno-unknown-pragmas"]
    flags += ["-DTSGEN_CUDA_ON_CPU", f"-I{ROOT}/csrc", f"-I{ROOT}/csrc/cuda_on_cpu"]
    sources = [ROOT / "csrc/cuda_on_cpu/fibers.cpp", Path(__file__).with_name("cuda_on_cpu.cu")]
    subprocess.run([CXX, *flags, "-x", "c++", *sources, "-o", path], check=True)
    return path


def run(program: Path, kernel: str) -> subprocess.CompletedProcess[str]:
    command = [program, str(KERNELS.index(kernel))]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("kernel", "wanted"),
    [
        ("turn round", [N - 1 - t for t in range(N)]),
        ("sum", [N * (N - 1) // 2] * N),
        ("shuffle among some", [t ^ 1 if t % 2 else t + 1 + 3 for t in range(N)]),
        ("copy", [4] * N),
        ("product", [0] * N),
        ("panels", [0] * N),
    ],
)
def test_right_kernels(program, kernel, wanted):
    done = run(program, kernel)
    assert done.returncode == 0, done.stderr
    assert [float(x) for x in done.stdout.split()] == wanted


@pytest.mark.parametrize("kernel", ["turn round without a barrier", "copy not waited for"])
def test_what_is_read_too_early_is_nan(program, kernel):
    """Shared memory is NaN when a block begins, and threads run in several orders."""
    done = run(program, kernel)
    assert done.returncode == 0, done.stderr
    assert "nan" in done.stdout


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        ("barrier for some", "some threads wait for the block, others ended"),
        ("shuffle for some", "some lanes of a warp wait for lanes that do not come"),
        ("copy never waited for", "copies that nobody waited for"),
        ("beyond the end", "heap-buffer-overflow"),
    ],
)
def test_wrong_kernels_end_the_process(program, kernel, said):
    done = run(program, kernel)
    assert done.returncode != 0
    assert said in done.stderr
