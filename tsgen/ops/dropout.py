"""Dropout that remembers a seed, not a mask, and may add what it is added to.

    out[i] = residual[i] + x[i] / (1 - q)  where draw[i] >= 2^16 q,  residual[i] elsewhere

Srivastava et al. 2014. draw[i] are 16 bits of a Philox block, see philox.py: a function of seed and
i alone, so that the gradient draws again, on any backend and any number of threads. One block
serves 8 elements, 16 apart: draws 128 g to 128 g + 15 are the lower halves of word 0 of blocks 16 g
to 16 g + 15, the next 16 those of word 1, and after word 3 come the upper halves likewise. q is p
rounded to a multiple of 2^-16, at most 2^-17 off but below 1; x / (1 - q) makes the mean exactly x.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tsgen import dispatch
from tsgen.errors import bad_value
from tsgen.ops.philox import LOW, philox4x32
from tsgen.ops.stft import compute_dtype, relative_error

DRAWS = 1 << 16  # that there are
ABREAST = 16  # blocks


def dropout(
    x: Tensor,
    p: float,
    seed: Tensor,
    residual: Tensor | None = None,
    *,
    backend: str | None = None,
) -> Tensor:
    """x with a share of p of its elements 0 and the others larger, added to `residual`.

    x:         any shape, float
    p:         in [0, 1)
    seed:      (1,) int64, a tensor so that nothing waits for its value
    residual:  as x, or None for 0
    returns:   as x, or as both promoted. Differentiable in x and residual
    raises:    ArgumentError for anything else
    """
    check(x, p, seed, residual)
    if residual is not None and residual.dtype != x.dtype:
        dtype = torch.promote_types(x.dtype, residual.dtype)
        x, residual = x.to(dtype), residual.to(dtype)
    args = (x, p, seed, residual)
    how: dict[str, Any] = {"backend": backend, "like": x, "gradient": Gradient}
    return cast(Tensor, dispatch.call("dropout", baseline, *args, **how))


def _fake(x: Tensor, *args: Any, backend: str | None = None) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


dispatch.register(
    "dropout(Tensor x, float p, Tensor seed, Tensor? residual, *, str? backend=None) -> Tensor",
    fake=_fake,
)


class Gradient(torch.autograd.Function):
    """dx = dropout(g) with the same seed, dresidual = g."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, p: float, seed: Tensor, residual: Tensor | None, backend: str | None
    ) -> Any:
        # as in attention.py: named for torch.compile, and no setup_context, which is slow
        ctx.save_for_backward(seed)
        ctx.p, ctx.backend = p, backend
        return torch.ops.tsgen.dropout.default(x, p, seed, residual, backend=backend)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        (seed,) = ctx.saved_tensors
        dx = None
        if ctx.needs_input_grad[0]:
            dx = torch.ops.tsgen.dropout.default(grad, ctx.p, seed, None, backend=ctx.backend)
        return dx, None, None, grad if ctx.needs_input_grad[3] else None, None


def check(x: Tensor, p: float, seed: Tensor, residual: Tensor | None) -> None:
    """Everything a backend may rely on."""
    if not 0 <= p < 1:
        raise bad_value("p", "a number from 0 and below 1", p)
    if seed.shape != (1,) or seed.dtype != torch.int64:
        raise bad_value("seed", "(1,) torch.int64", f"{tuple(seed.shape)} {seed.dtype}")
    if residual is not None and residual.shape != x.shape:
        raise bad_value("residual", str(tuple(x.shape)), tuple(residual.shape))


def n_dropped(p: float) -> int:
    """How many of the 2^16 draws drop an element: 2^16 q."""
    return min(round(p * DRAWS), DRAWS - 1)


def gain(p: float) -> float:
    """1 / (1 - q)."""
    return DRAWS / (DRAWS - n_dropped(p))


def reference(x: Tensor, p: float, seed: Tensor, residual: Tensor | None) -> Tensor:
    """The definition, for tests: one block after the other. Never optimise this."""
    draws: list[int] = []
    while len(draws) < x.numel():
        first = len(draws) // 8
        blocks = [philox4x32(first + i, 0, 0, 0, int(seed) % 2**64) for i in range(ABREAST)]
        for bits in range(2):
            for word in range(4):
                draws += [block[word] >> 16 * bits & 0xFFFF for block in blocks]
    kept = torch.tensor([draw >= n_dropped(p) for draw in draws[: x.numel()]], dtype=torch.bool)
    out = torch.where(kept.view(x.shape), x * gain(p), 0)
    return out if residual is None else residual + out


def baseline(x: Tensor, p: float, seed: Tensor, residual: Tensor | None) -> Tensor:
    """The same on int64 tensors."""
    n_groups = -(-x.numel() // (8 * ABREAST))
    block = torch.arange(n_groups * ABREAST, device=x.device)
    words = torch.stack(philox4x32(block & LOW, block >> 32, 0, 0, seed))
    draws = torch.stack([words & 0xFFFF, words >> 16]).view(8, n_groups, ABREAST)
    kept = (draws >= n_dropped(p)).transpose(0, 1).flatten()[: x.numel()].view(x.shape)
    out = torch.where(kept, x.to(compute_dtype(x)) * gain(p), 0).to(x.dtype)
    return out if residual is None else residual + out


# Read by tests/test_ops.py and benchmarks.

TEST_SHAPES = [  # (B, C, L, p, with residual)
    (0, 3, 2, 0.5, True),
    (1, 1, 1, 0.0, False),
    (2, 3, 7, 0.3, True),
    (1, 1, 128, 0.7, False),
    (3, 17, 33, 0.999999, True),
    (5, 7, 607, 0.1, False),
    (2, 8, 2048, 0.3, True),
]
BENCH_SHAPES = [(128, 64, 128, 0.3, False), (128, 32, 64, 0.3, True)]
GPU_SHAPES = [(8192, 64, 128, 0.3, True), (128, 64, 128, 0.3, False)]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}
DIFFERENTIABLE = (0, 3)

Shape = tuple[int, int, int, float, bool]


def make_inputs(
    shape: Shape, device: str, dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor, float, Tensor, Tensor | None]:
    B, C, L, p, added = shape
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(B, C, L, generator=rng).to(device, dtype)
    residual = torch.randn(B, C, L, generator=rng).to(device, dtype) if added else None
    key = torch.randint(-(2**63), 2**63 - 1, (1,), generator=rng).to(device)
    return x, p, key, residual


def error(out: Tensor, ref: Tensor, *inputs: object) -> float:
    """Largest difference, relative to the largest value."""
    return relative_error(out, ref)


def bytes_moved(shape: Shape, dtype: torch.dtype) -> int:
    """The least traffic possible: read x and the residual once, write as much as x."""
    B, C, L, _, added = shape
    return (3 if added else 2) * B * C * L * dtype.itemsize
