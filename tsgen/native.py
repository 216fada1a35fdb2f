"""Loading and starting the native kernels.

tsgen._C is built without PyTorch and sees only integers: addresses, sizes, a stream.
"""

import ctypes
import functools
import importlib
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from tsgen.errors import RunError

# tensors (None where there is none), then sizes
Kernel = Callable[[Sequence[Tensor | None], Sequence[int | float]], None]

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]  # as csrc/cuda/device.h


FILES = ("tsgen.native_tokens", "tsgen.native_signal")


def load(op: str, backend: str) -> Callable[..., Any]:
    """The function of FILES that runs `op`; ImportError says why there is none."""
    part = kernels(backend)
    if not hasattr(part, op):
        raise ImportError(f"tsgen._C has no {backend}.{op}: it is older than tsgen, build it again")
    run = functools.partial(with_threads if backend == "cpu" else on_stream, part, op)
    files = map(importlib.import_module, FILES)
    return functools.partial(next(getattr(file, op) for file in files if hasattr(file, op)), run)


def with_threads(
    part: ModuleType, op: str, tensors: Sequence[Tensor | None], sizes: Sequence[int | float]
) -> None:
    """Call a CPU kernel: addresses (0 for None), sizes, and how many threads it may use."""
    getattr(part, op)(*addresses(tensors), *sizes, torch.get_num_threads())


def on_stream(
    part: ModuleType, op: str, tensors: Sequence[Tensor | None], sizes: Sequence[int | float]
) -> None:
    """Start a CUDA kernel on the current stream of its first tensor's device."""
    like = next(t for t in tensors if t is not None)
    n_scratch = getattr(part, f"{op}_scratch", lambda *_: 0)(*sizes)
    scratch = like.new_empty(n_scratch, dtype=torch.uint8) if n_scratch else None
    try:
        getattr(part, op)(*launch_of(like), *addresses([scratch, *tensors]), *sizes)
    except RuntimeError as error:
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors if t is not None)
        raise RunError(f"{op} of {shapes}: {error}") from error


def launch_of(like: Tensor) -> tuple[int, int, int]:
    """The dtype, device and stream of a launch."""
    dtype = DTYPES.index(like.dtype) if like.is_floating_point() else 0
    if not like.is_cuda:
        return dtype, 0, 0
    return dtype, like.device.index, torch.cuda.current_stream(like.device).cuda_stream


def as_first(first: Tensor, t: Tensor) -> Tensor:
    """Contiguous and in the dtype of the first tensor, as products of the two want it."""
    return t.to(first.dtype).contiguous()


def new_float32(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=like.device)


def float32(*tensors: Tensor | None) -> list[Tensor | None]:
    """Contiguous and in float32, as kernels take what stands beside their first tensor."""
    return [None if t is None else t.to(torch.float32).contiguous() for t in tensors]


def addresses(tensors: Sequence[Tensor | None]) -> list[int]:
    return [0 if t is None else t.data_ptr() for t in tensors]


def instruction_set() -> str:
    """What the CPU kernels use here; ImportError where there are none."""
    return str(kernels("cpu").isa())


def extension() -> ModuleType:
    """tsgen._C."""
    try:
        return importlib.import_module("tsgen._C")
    except ImportError as error:
        raise ImportError(f"tsgen._C is not built, or does not load here: {error}") from error


@functools.cache
def kernels(backend: str) -> ModuleType:
    """The part of tsgen._C for a backend."""
    if not hasattr(extension(), backend):
        raise ImportError(f"tsgen._C was built without {backend}")
    part: ModuleType = getattr(extension(), backend)
    if hasattr(part, "lend_threads"):
        part.lend_threads(gomp_parallel())
    return part


def on_cpu(backend: str) -> bool:
    """Whether its kernels were built to be tested on a CPU, and take nothing else."""
    return backend == "cuda" and bool(kernels(backend).on_cpu)


def gomp_parallel() -> int:
    """Where PyTorch's own OpenMP starts its threads, or 0: kernels then bring theirs.

    Threads of two pools would wait for each other's cores.
    """
    try:
        # symbols are looked up in the file's dependencies too, and this one depends on its OpenMP
        function = ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (OSError, AttributeError):
        return 0
    return ctypes.cast(function, ctypes.c_void_p).value or 0
