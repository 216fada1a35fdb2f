"""Snake activation, with the folded normalisation that stands before it.

    y = gain[c] x + shift[c]        out = y + sin²(a[c] y) / a[c]

Ziyin et al. 2020, eq. 3. B batch, C channels, then any number of dims.
"""

from typing import Any, cast

import torch
from torch import Tensor

from tsgen import dispatch
from tsgen.errors import bad_value
from tsgen.ops.stft import compute_dtype, relative_error

SMALLEST_A = 1e-9  # sin²(ay)/a is a y² there: the limit at a = 0 instead of 0/0


def snake(
    x: Tensor,
    a_C: Tensor,
    gain_C: Tensor | None = None,
    shift_C: Tensor | None = None,
    *,
    backend: str | None = None,
) -> Tensor:
    """Periodic activation with one learned frequency per channel.

    x:        (B, C, ...) float
    a_C:      (C,) float, the frequency
    gain_C:   (C,) float and shift_C (C,), both or neither: applied first, a folded normalisation
    returns:  as x. Differentiable in everything
    raises:   ArgumentError for shapes that do not fit
    """
    check(x, a_C, gain_C, shift_C)
    args = (x, a_C, gain_C, shift_C)
    how: dict[str, Any] = {"backend": backend, "like": x, "gradient": Gradient}
    return cast(Tensor, dispatch.call("snake", baseline, *args, **how))


def _fake(x: Tensor, *args: Tensor | None, backend: str | None = None) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _fake_backward(
    grad: Tensor,
    x: Tensor,
    a_C: Tensor,
    gain_C: Tensor | None,
    shift_C: Tensor | None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n = 0 if gain_C is None else len(a_C)
    return _fake(x), a_C.new_empty(len(a_C)), a_C.new_empty(n), a_C.new_empty(n)


dispatch.register(
    "snake(Tensor x, Tensor a, Tensor? gain, Tensor? shift, *, str? backend=None) -> Tensor",
    fake=_fake,
)
dispatch.register(
    "snake_backward(Tensor grad, Tensor x, Tensor a, Tensor? gain, Tensor? shift, *,"
    " str? backend=None) -> (Tensor, Tensor, Tensor, Tensor)",
    fake=_fake_backward,
)


class Gradient(torch.autograd.Function):
    """With y = gain x + shift: dx = g gain (1 + sin 2ay), da = g (y sin 2ay - sin² ay / a) / a."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        a_C: Tensor,
        gain_C: Tensor | None,
        shift_C: Tensor | None,
        backend: str | None,
    ) -> Any:
        # as in attention.py: named for torch.compile, and no setup_context, which is slow
        ctx.save_for_backward(x, a_C, gain_C, shift_C)
        ctx.backend = backend
        return torch.ops.tsgen.snake.default(x, a_C, gain_C, shift_C, backend=backend)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        saved = ctx.saved_tensors
        dx, da, *affine = torch.ops.tsgen.snake_backward.default(grad, *saved, backend=ctx.backend)
        return dx, da, *(affine if saved[2] is not None else (None, None)), None


def check(x: Tensor, a_C: Tensor, gain_C: Tensor | None, shift_C: Tensor | None) -> None:
    """Everything a backend may rely on."""
    if x.dim() < 2:
        raise bad_value("x", "(B, C, ...)", tuple(x.shape))
    if (gain_C is None) != (shift_C is None):
        raise bad_value("gain, shift", "both or neither", "one of them")
    for name, t in (("a", a_C), ("gain", gain_C), ("shift", shift_C)):
        if t is not None and t.shape != x.shape[1:2]:
            raise bad_value(name, f"({x.shape[1]},)", tuple(t.shape))


def reference(x: Tensor, a_C: Tensor, gain_C: Tensor | None, shift_C: Tensor | None) -> Tensor:
    """The definition, for tests. Never optimise this."""
    a = over_channels(a_C, x)
    if gain_C is not None and shift_C is not None:
        x = over_channels(gain_C, x) * x + over_channels(shift_C, x)
    return x + (a * x).sin().square() / a


def baseline(x: Tensor, a_C: Tensor, gain_C: Tensor | None, shift_C: Tensor | None) -> Tensor:
    """Five passes over x; sin² by one product, not pow."""
    dtype = compute_dtype(x)
    a = over_channels(a_C.to(dtype), x)
    a = torch.where(a == 0, SMALLEST_A, a)
    y = x.to(dtype)
    if gain_C is not None and shift_C is not None:
        y = torch.addcmul(
            over_channels(shift_C.to(dtype), x), y, over_channels(gain_C.to(dtype), x)
        )
    sine = (a * y).sin()
    return torch.addcmul(y, sine, sine / a).to(x.dtype)


def over_channels(t_C: Tensor, x: Tensor) -> Tensor:
    """(C,) made to stand beside (B, C, ...)."""
    return t_C.view(-1, *[1] * (x.dim() - 2))


# Read by tests/test_ops.py and benchmarks.

TEST_SHAPES = [  # (B, C, H, W, with gain and shift)
    (0, 3, 2, 4, True),
    (1, 1, 1, 1, False),
    (2, 5, 3, 7, True),
    (3, 17, 1, 33, True),
    (2, 8, 2, 64, False),
]
BENCH_SHAPES = [(128, 8, 1, 64, True), (128, 32, 2, 32, True), (128, 4, 2, 128, False)]
GPU_SHAPES = [(8192, 64, 2, 64, True), (128, 32, 2, 32, True)]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}
DIFFERENTIABLE = (0, 1, 2, 3)

Shape = tuple[int, int, int, int, bool]


def make_inputs(
    shape: Shape, device: str, dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    B, C, H, W, affine = shape
    rng = torch.Generator().manual_seed(seed)
    x = (torch.randn(B, C, H, W, generator=rng) * 3).to(device, dtype)
    a_C = (torch.rand(C, generator=rng) + 0.2).to(device, dtype)
    if not affine:
        return x, a_C, None, None
    gain_C = torch.randn(C, generator=rng).to(device, dtype)
    shift_C = torch.randn(C, generator=rng).to(device, dtype)
    return x, a_C, gain_C, shift_C


def error(out: Tensor, ref: Tensor, *inputs: object) -> float:
    """Largest difference, relative to the largest value."""
    return relative_error(out, ref)


def bytes_moved(shape: Shape, dtype: torch.dtype) -> int:
    """The least traffic possible: read x once, write as much."""
    B, C, H, W, _ = shape
    return 2 * B * C * H * W * dtype.itemsize
