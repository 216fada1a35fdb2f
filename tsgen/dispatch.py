"""Which code runs for an op: one table, one rule.

`TABLE` is the whole list; `tests/test_table.py` holds it to the files on disk.
"torch" is the op's `baseline`: plain PyTorch, differentiated and fused by PyTorch itself.
Every other backend is a kernel behind the opaque `torch.ops.tsgen.<op>`.
"""

import functools
import importlib
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from tsgen.errors import bad_value
from tsgen.measured import CUDA_IS_FASTER
from tsgen.spans import span

F64, F32, F16, BF16 = torch.float64, torch.float32, torch.float16, torch.bfloat16
FLOATS = (F64, F32, BF16, F16)
HALVES = (F32, BF16, F16)

TABLE: dict[str, dict[str, tuple[torch.dtype, ...]]] = {
    # op: {backend: the dtypes of its first tensor}
    "stft": {"torch": FLOATS, "cpu": (F32,), "triton": HALVES, "cuda": HALVES},
    "istft": {"torch": FLOATS, "cpu": (F32,), "triton": HALVES, "cuda": HALVES},
    "nearest_code": {"torch": FLOATS, "cpu": (F32,), "triton": HALVES, "cuda": HALVES},
    "attention": {"torch": FLOATS, "cpu": (F32,), "triton": HALVES, "cuda": HALVES},
    "norm_linear": {"torch": FLOATS, "triton": HALVES},
    "linear_norm": {"torch": FLOATS, "triton": HALVES},
    "feed_forward": {"torch": FLOATS, "triton": HALVES},
    "transformer_block": {"torch": FLOATS, "cuda": (BF16, F16)},
    "sample_code": {"torch": FLOATS, "cpu": (F32,), "triton": HALVES, "cuda": HALVES},
    "keep_confident": {
        "torch": (F64, F32),
        "cpu": (F64, F32),
        "triton": (F64, F32),
        "cuda": (F64, F32),
    },
    "masked_cross_entropy": {"torch": FLOATS, "cpu": (F32,), "triton": HALVES, "cuda": HALVES},
    "embed_tokens": {"torch": FLOATS, "triton": HALVES},
    "draw_uniforms": {"torch": (torch.int64,), "triton": (torch.int64,)},
    "remask_tokens": {"torch": (torch.int64,), "triton": (torch.int64,)},
    "separable_conv": {"torch": FLOATS, "cpu": (F32,), "triton": HALVES},
    "snake": {"torch": FLOATS, "cpu": (F32,), "triton": HALVES, "cuda": HALVES},
    "sum_taps": {"torch": FLOATS, "cpu": (F32,), "triton": HALVES},
    "dropout": {"torch": FLOATS, "cpu": (F32,), "triton": HALVES, "cuda": HALVES},
    "philox": {
        "torch": (torch.int64,),
        "cpu": (torch.int64,),
        "triton": (torch.int64,),
        "cuda": (torch.int64,),
    },
}

# With no backend named: the first of these with no obstacle; "cuda" before "triton" for what it has
# been measured to be faster at.
PREFERENCE = {"cuda": ("triton", "cuda", "torch"), "cpu": ("cpu", "torch")}

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # then Triton runs on the CPU

FORCED = os.environ.get("TSGEN_BACKEND")  # a name for every call that gives none

LIBRARY = torch.library.Library("tsgen", "DEF")  # torch.ops.tsgen.*


def call(
    op: str,
    baseline: Callable[..., Any],
    *args: Any,
    backend: str | None,
    like: Tensor,
    unable: tuple[str, ...] = (),
    gradient: type[torch.autograd.Function] | None = None,
) -> Any:
    """Run `op` on `args`.

    like:      the tensor whose device and dtype decide
    unable:    backends that do not take these sizes: passed over unless asked for by name
    gradient:  the kernels' derivative, a Function of (*args, backend); PyTorch has the baseline's
    """
    device = like.device.type
    chosen = choose(op, backend, device, like.dtype, unable)
    if unable:
        backend = chosen  # the op chooses again, and knows no sizes
    if chosen == "torch":
        with span(op):
            if not torch.is_autocast_enabled(device):
                return baseline(*args)
            with torch.autocast(device, enabled=False):  # it would lower what ops keep in float32
                return baseline(*args)
    if gradient is not None and torch.is_grad_enabled() and any(map(wants_gradient, args)):
        return gradient.apply(*args, backend)
    return getattr(torch.ops.tsgen, op).default(*args, backend=backend)


def wants_gradient(arg: Any) -> bool:
    return isinstance(arg, Tensor) and arg.requires_grad


def register(schema: str, fake: Callable[..., Any]) -> None:
    """Make torch.ops.tsgen.<op>: opaque to torch.compile, which asks `fake` for the shapes.

    Not torch.library.custom_op, which costs three times as much a call. <op>_backward is a second
    function of the same cell of the table; only kernels have one.
    """
    op = schema.partition("(")[0]
    row = op.removesuffix("_backward")

    def impl(*args: Any, backend: str | None = None) -> Any:
        like = next(arg for arg in args if isinstance(arg, Tensor))
        run = load(op, choose(row, backend, like.device.type, like.dtype))
        if like.is_cuda and like.device.index != torch.cuda.current_device():
            with torch.cuda.device(like.device):  # Triton launches on the current one
                return run(*args)
        return run(*args)

    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    for key in ("CPU", "CUDA"):
        LIBRARY.impl(op, impl, key)
    torch.library.register_fake(f"tsgen::{op}", fake, lib=LIBRARY)


def choose(
    op: str,
    backend: str | None,
    device: str,
    dtype: torch.dtype,
    unable: tuple[str, ...] = (),
) -> str:
    """The backend asked for, or else the first with no obstacle."""
    return _choose(op, backend or FORCED, device, dtype, unable)


def by_gpu_kernel(op: str, like: Tensor) -> bool:
    """Whether a kernel for GPUs computes this: then what stands beside it avoids cuDNN.

    cuDNN may round to TF32, in an order that depends on the batch and on the run.
    """
    return choose(op, None, like.device.type, like.dtype) in ("triton", "cuda")


# What torch.compiler.assume_constant_result does, without its import of torch._dynamo: 2 s
choose._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def _choose(
    op: str, backend: str | None, device: str, dtype: torch.dtype, unable: tuple[str, ...]
) -> str:
    if backend is None:
        wanted = (b for b in PREFERENCE.get(device, ()) if b not in unable)
        able = [b for b in wanted if not obstacle(op, b, device, dtype)]
        faster = "cuda" in able and measured_faster(op, dtype)
        backend = "cuda" if faster else next(iter(able), "torch")
    if why := obstacle(op, backend, device, dtype):
        raise bad_value("backend", f"one that can run {op}", f"{backend!r}, which {why}")
    return backend


def measured_faster(op: str, dtype: torch.dtype) -> bool:
    """Whether the CUDA kernel won over Triton's, or over the ops that it is made of."""
    return str(dtype).removeprefix("torch.") in CUDA_IS_FASTER.get(op, ())


def obstacle(op: str, backend: str, device: str, dtype: torch.dtype) -> str | None:
    """Why this cell of the table cannot run here, or None if it can."""
    if backend not in TABLE[op]:
        return f"does not exist; there are {', '.join(TABLE[op])}"
    if dtype not in TABLE[op][backend]:
        return f"takes {' or '.join(map(str, TABLE[op][backend]))}, not {dtype}"
    try:
        load(op, backend)
        devices = devices_of(backend)
    except ImportError as error:
        return f"does not load: {error}"
    if device not in devices:
        return f"was given {device} tensors"
    if backend == "triton" and INTERPRETED and dtype in (BF16, F16):
        return "is interpreted, and the interpreter takes the raw bits of bfloat16 for numbers"
    return None


def devices_of(backend: str) -> tuple[str, ...]:
    """The kinds of device whose tensors it takes. Raises ImportError where it does not load."""
    if backend == "torch":
        return tuple(PREFERENCE)
    if backend == "triton":
        return ("cuda", "cpu") if INTERPRETED else ("cuda",)
    if backend == "cuda":
        return ("cpu",) if importlib.import_module("tsgen.native").on_cpu("cuda") else ("cuda",)
    return (backend,)


@functools.cache
def module(op: str) -> ModuleType:
    """The file of an op."""
    return importlib.import_module(f"tsgen.ops.{op}")


@functools.cache
def load(op: str, backend: str) -> Callable[..., Any]:
    """The function in one cell of the table, or the derivative of a kernel in one."""
    row = op.removesuffix("_backward")
    if backend == "torch":
        if op != row:
            raise bad_value("backend", f"a kernel: PyTorch derives {row} itself", backend)
        return module(op).baseline  # type: ignore[no-any-return]
    if backend == "triton":
        return getattr(importlib.import_module(f"tsgen.kernels.{row}"), op)  # type: ignore[no-any-return]
    return importlib.import_module("tsgen.native").load(op, backend)  # type: ignore[no-any-return]
