"""The native kernels: tensors in, addresses out.

tsgen._C is built without PyTorch and sees only integers. What it takes for granted about its
tensors, their callers have checked: a dtype, a device, a contiguous layout.
"""

import functools
import importlib
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor


def philox(
    backend: str, sample_B: Tensor, key: int, n_positions: int, stream: int, step: int, band: int
) -> Tensor:
    sample_B = sample_B.contiguous()
    B = sample_B.shape[0]
    words_BN4 = torch.empty(B, n_positions, 4, dtype=torch.int64, device=sample_B.device)
    sizes = B, n_positions, stream, step, band
    run = kernels(backend).philox
    run(key % 2**64, sample_B.data_ptr(), *sizes, words_BN4.data_ptr())
    return words_BN4


def load(op: str, backend: str) -> Callable[..., Tensor]:
    """The function of this file that runs `op`; ImportError says why there is none."""
    if not hasattr(kernels(backend), op):
        raise ImportError(f"tsgen._C has no {backend}.{op}: it is older than tsgen, build it again")
    run: Callable[..., Tensor] = globals()[op]
    return functools.partial(run, backend)


@functools.cache
def kernels(backend: str) -> ModuleType:
    """The part of tsgen._C for a backend."""
    try:
        extension = importlib.import_module("tsgen._C")
    except ImportError as error:
        raise ImportError(f"tsgen._C is not built, or does not load here: {error}") from error
    if not hasattr(extension, backend):
        raise ImportError(f"tsgen._C was built without {backend}")
    part: ModuleType = getattr(extension, backend)
    return part
