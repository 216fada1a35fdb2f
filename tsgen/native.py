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
    key: int,
    sample_B: Tensor,
    n_positions: int,
    *,
    stream: int,
    step: int,
    band: int,
    backend: str = "cpu",
) -> Tensor:
    B = sample_B.shape[0]
    words_BN4 = torch.empty(B, n_positions, 4, dtype=torch.int64, device=sample_B.device)
    addresses = sample_B.data_ptr(), words_BN4.data_ptr()
    kernels(backend).philox(key, addresses[0], B, n_positions, stream, step, band, addresses[1])
    return words_BN4


def load(op: str, backend: str) -> Callable[..., Tensor]:
    """The function of this file that runs `op`; ImportError says why there is none."""
    if not hasattr(kernels(backend), op):
        raise ImportError(f"tsgen._C has no {backend}.{op}: it is older than tsgen, build it again")
    run: Callable[..., Tensor] = globals()[op]
    return functools.partial(run, backend=backend)


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
