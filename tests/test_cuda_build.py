"""What nvcc made of csrc/cuda: registers and shared memory as in a committed table, no spills.

python tests/test_cuda_build.py        writes the table, cuda_kernels.tsv
"""

import functools
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tsgen import dispatch, native

TABLE = Path(__file__).with_name("cuda_kernels.tsv")
TARGETS = {"sm_80", "sm_90a"}
Kernels = dict[tuple[str, str], list[int]]  # target, name: registers, static shared bytes


def built() -> str:
    """The extension's file; a test that wants the kernels is skipped where there are none."""
    try:
        part = native.kernels("cuda")
    except ImportError as error:
        pytest.skip(f"no CUDA kernels: {error}")
    if part.on_cpu:
        pytest.skip("the CUDA kernels are built for CPUs")
    return str(native.extension().__file__)


def cuobjdump() -> str:
    """From the toolkit, or from Triton, which brings it."""
    if found := shutil.which("cuobjdump"):
        return found
    triton = pytest.importorskip("triton", reason="no cuobjdump, and no Triton that brings it")
    return str(triton.knobs.nvidia.cuobjdump.path)


@functools.cache
def found() -> tuple[Kernels, list[tuple[str, str]]]:
    """What kernels take, and those that reach into local memory."""
    dump = subprocess.run([cuobjdump(), "-res-usage", built()], capture_output=True, check=True)
    names = subprocess.run(["c++filt"], input=dump.stdout, capture_output=True, check=True)
    kernels: Kernels = {}
    spilled = []
    for line in names.stdout.decode().splitlines():
        if line.startswith("arch = "):
            target = line.removeprefix("arch = ")
        elif line.startswith(" Function "):
            key = target, short(line.removeprefix(" Function "))
        elif line.startswith("  REG:"):
            used = {name: int(n) for name, n in re.findall(r"(\w+):(\d+)", line)}
            row = [used["REG"], used["SHARED"]]
            # the most, where several files have the same kernel
            kernels[key] = [max(pair) for pair in zip(row, kernels.get(key, row), strict=True)]
            spilled += [key] if used["STACK"] or used["LOCAL"] else []
    return dict(sorted(kernels.items())), spilled


def short(signature: str) -> str:
    """A function's name with its template arguments, without namespaces and parameters."""
    for part in ("tsgen::cuda::", "(anonymous namespace)::"):
        signature = signature.replace(part, "")
    depth = 0
    for i, letter in enumerate(signature):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            return signature[:i].removeprefix("void ")
    return signature


def test_every_kernel_is_compiled_for_every_target():
    names = {target: {name for of, name in found()[0] if of == target} for target in TARGETS}
    assert {target for target, _ in found()[0]} == TARGETS
    assert names["sm_80"] == names["sm_90a"]
    for op, row in dispatch.TABLE.items():
        if "cuda" in row:
            assert callable(getattr(native.kernels("cuda"), op))


def test_no_kernel_spills():
    assert found()[1] == []


def test_kernels_take_what_they_took():
    """One that takes more may run slower: look why, then write the table anew."""
    compiler, table = recorded()
    if compiler != native.kernels("cuda").compiler:
        pytest.skip(f"the table is of nvcc {compiler}")
    kernels, _ = found()
    assert set(kernels) == set(table)
    for key, row in kernels.items():
        assert all(n <= most for n, most in zip(row, table[key], strict=True)), key


def recorded() -> tuple[str, Kernels]:
    """The compiler of the table, and its rows."""
    (_, compiler), _, *rows = [line.split("\t") for line in TABLE.read_text().splitlines()]
    return compiler, {(target, name): [int(n) for n in used] for target, name, *used in rows}


def write() -> None:
    lines = [("nvcc", native.kernels("cuda").compiler), ("target", "kernel", "registers", "shared")]
    lines += [(*key, *map(str, row)) for key, row in found()[0].items()]
    TABLE.write_text("".join("\t".join(line) + "\n" for line in lines))


if __name__ == "__main__":
    write()
