"""Every Triton kernel compiles for GPUs this machine need not have, and keeps to their limits."""

import importlib
import os
import re
import subprocess
import tempfile
from typing import Any

import pytest

from tsgen import dispatch

OPS = [op for op, row in dispatch.TABLE.items() if "triton" in row]
TARGETS = {  # Triton's name of it, and the shared memory that a program may have
    "sm_80": (("cuda", 80, 32), 163 << 10),
    "sm_90": (("cuda", 90, 32), 227 << 10),
    "gfx942": (("hip", "gfx942", 64), 64 << 10),
}
DTYPES = ["fp32", "bf16"]
MATRIX = {"cuda": r"\b(mma\.sync|wgmma\.mma_async)", "hip": r"\bv_mfma_"}  # on tensor cores


def compiled(op: str, dtype: str, target: str) -> list[dict[str, Any]]:
    """What the compiler made of each kernel of an op."""
    import triton
    from triton.backends.compiler import GPUTarget

    kernels = importlib.import_module(f"tsgen.kernels.{op}")
    backend, *_ = TARGETS[target][0]
    found = []
    for kernel, types, constants, *only in kernels.SHIPPED:
        if only and dtype not in only:
            continue
        types = {name: kind.format(dtype) for name, kind in types.items()}
        source = triton.compiler.ASTSource(
            kernel,
            signature=types | dict.fromkeys(constants, "constexpr"),
            constexprs=constants,
            # what a launch would find out: addresses divide by 16, and q_stride_b and its like
            attrs={
                (i,): [["tt.divisibility", 16]]
                for i, (name, t) in enumerate(types.items())
                if "*" in t or "_stride_" in name
            },
        )
        gpu = GPUTarget(*TARGETS[target][0])
        try:
            out = triton.compile(source, target=gpu, options=kernels.OPTIONS)
        except triton.CompilationError as error:
            found.append({"kernel": kernel.__name__, "error": str(error)})
            continue
        if backend == "cuda":
            text, local = out.asm["ptx"], 0
            if local_bytes(out.asm["cubin"]):  # or a frame that nothing is kept in
                local = len(re.findall(r"\b(?:STL|LDL)\b", out.asm["sass"]))
        else:
            text = out.asm["amdgcn"]
            local = int(re.search(r"\.private_segment_fixed_size:\s*(\d+)", text)[1])
        found.append(
            {
                "kernel": kernel.__name__,
                "local": local,
                "shared": out.metadata.shared,
                "matrix": bool(re.search(MATRIX[backend], text)),
                "tf32": "tf32" in text,
                "dot": "tt.dot" in out.asm["ttir"],
            }
        )
    return found


def local_bytes(cubin: bytes) -> int:
    """Local memory of a thread; to disassemble for it would take half as long as to compile."""
    import triton

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    stack, local = re.search(r"STACK:(\d+) .*LOCAL:(\d+)", text).groups()
    return int(stack) + int(local)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", OPS)
def test_compiles_within_the_limits(op, dtype, target):
    pytest.importorskip("triton")
    if os.environ.get("TRITON_INTERPRET"):
        pytest.skip("interpreted kernels do not compile")
    for kernel in compiled(op, dtype, target):
        assert "error" not in kernel, kernel["error"]
        assert kernel["local"] == 0, kernel  # registers have spilled, or an array is indexed
        assert kernel["shared"] <= TARGETS[target][1], kernel
        assert not kernel["tf32"], kernel  # float32 products are never rounded silently
        if dtype == "bf16":
            assert kernel["matrix"] == kernel["dot"], kernel
