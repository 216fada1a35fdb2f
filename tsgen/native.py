"""The native kernels: tensors in, addresses out.

tsgen._C is built without PyTorch and sees only integers. What it takes for granted about its
tensors, their callers have checked or `launch` sees to: a dtype, a device, a contiguous layout.
"""

import functools
import importlib
import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

Kernel = Callable[..., None]


def nearest_code(
    run: Kernel, x_ND: Tensor, codes_KD: Tensor, stats: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x_ND, codes_KD = x_ND.contiguous(), codes_KD.contiguous()
    (N, D), K = x_ND.shape, len(codes_KD)
    n = K if stats else 0
    ids_N, counts_K = (torch.empty(m, dtype=torch.int64, device=x_ND.device) for m in (N, n))
    distance_N = torch.empty(N, dtype=x_ND.dtype, device=x_ND.device)
    sums_KD = torch.empty_like(codes_KD[:n])
    wanted = [counts_K, sums_KD] if stats else [None, None]
    launch(run, [x_ND, codes_KD, ids_N, distance_N, *wanted], (N, K, D))
    return ids_N, distance_N, counts_K, sums_KD


def snake(
    run: Kernel, x: Tensor, a_C: Tensor, gain_C: Tensor | None, shift_C: Tensor | None
) -> Tensor:
    x = x.contiguous()
    out = torch.empty_like(x)
    launch(run, [x, *float32(a_C, gain_C, shift_C), out], rows_of_channels(x))
    return out


def snake_backward(
    run: Kernel,
    grad: Tensor,
    x: Tensor,
    a_C: Tensor,
    gain_C: Tensor | None,
    shift_C: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, grad = x.contiguous(), grad.contiguous()
    channels, n = float32(a_C, gain_C, shift_C), 0 if gain_C is None else len(a_C)
    grads = torch.empty_like(x), a_C.new_empty(len(a_C)), a_C.new_empty(n), a_C.new_empty(n)
    outputs = [out if out.numel() else None for out in grads]
    launch(run, [grad, x, *channels, *outputs], rows_of_channels(x))
    return grads


def rows_of_channels(x: Tensor) -> tuple[int, int, int]:
    """(B, C, ...) as B x C rows of S numbers."""
    return x.shape[0], x.shape[1], math.prod(x.shape[2:])


def philox(
    run: Kernel, sample_B: Tensor, key: int, n_positions: int, stream: int, step: int, band: int
) -> Tensor:
    sample_B = sample_B.contiguous()
    B = sample_B.shape[0]
    words_BN4 = torch.empty(B, n_positions, 4, dtype=torch.int64, device=sample_B.device)
    sizes = B, n_positions, stream, step, band
    run(key % 2**64, sample_B.data_ptr(), *sizes, words_BN4.data_ptr())
    return words_BN4


def float32(*tensors: Tensor | None) -> list[Tensor | None]:
    """Contiguous and in float32, as kernels take what stands beside their first tensor."""
    return [None if t is None else t.to(torch.float32).contiguous() for t in tensors]


def launch(run: Kernel, tensors: Sequence[Tensor | None], sizes: Sequence[int | float]) -> None:
    """Call a CPU kernel: addresses (0 for None), sizes, and how many threads it may use."""
    run(*(0 if t is None else t.data_ptr() for t in tensors), *sizes, torch.get_num_threads())


def load(op: str, backend: str) -> Callable[..., Any]:
    """The function of this file that runs `op`; ImportError says why there is none."""
    if not hasattr(kernels(backend), op):
        raise ImportError(f"tsgen._C has no {backend}.{op}: it is older than tsgen, build it again")
    return functools.partial(globals()[op], getattr(kernels(backend), op))


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
