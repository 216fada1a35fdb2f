"""Depthwise-separable convolution, with the activation before it and the statistics after it.

    y = W D(s(gain x + shift)) + b        mean, var = statistics of y for a batch normalisation

s is Snake, D convolves each channel by itself, W mixes channels at every position (Chollet 2017).
One pass over x for what a convolutional block of the tokenizer would need five for.
B batch, C channels in, O channels out, H rows, W columns.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tsgen import dispatch
from tsgen.errors import bad_value
from tsgen.ops import snake
from tsgen.ops.stft import compute_dtype, relative_error

KINDS = {"none": 0, "same": 3, "halve": 4, "twice": 4}  # columns of the taps


class Convolved(NamedTuple):
    """What `separable_conv` gives; mean and var are empty unless asked for."""

    y: Tensor  # (B, O, H, W'), as x
    mean_O: Tensor  # float32 or float64, over everything but the channels
    var_O: Tensor  # the same, of the biased variance


def separable_conv(
    x: Tensor,
    taps: Tensor | None,
    tap_bias_C: Tensor | None,
    weight: Tensor,
    bias_O: Tensor,
    *,
    kind: str,
    a_C: Tensor | None = None,
    gain_C: Tensor | None = None,
    shift_C: Tensor | None = None,
    stats: bool = False,
    backend: str | None = None,
) -> Convolved:
    """Activate, convolve each channel, mix the channels.

    x:        (B, C, H, W) float
    taps:     (C, 1, h, w), the weight of a depthwise nn.Conv2d, or nn.ConvTranspose2d for "twice";
              h is 1 or 3, and `tap_bias_C` (C,) its bias. Neither for kind "none"
    weight:   (O, C, 1, 1), the weight of a pointwise nn.Conv2d, and `bias_O` (O,) its bias
    kind:     "none": W' = W, no depthwise convolution. "same": w = 3, zeros outside, W' = W.
              "halve": w = 4, stride 2 in W, edges repeated, W' = W // 2. "twice": w = 4, its
              transpose with zeros outside, W' = 2 W
    a_C:      (C,) frequencies of Snake, which is left out without them
    gain_C:   (C,) and `shift_C` (C,), both or neither, as in `ops.snake`
    stats:    whether to take mean and variance of y
    returns:  Convolved. Differentiable in every tensor, through the statistics too
    raises:   ArgumentError for shapes that do not fit
    """
    check(x, a_C, gain_C, shift_C, taps, tap_bias_C, weight, bias_O, kind)
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))  # as convolutions do
    args = (x, a_C, gain_C, shift_C, taps, tap_bias_C, weight, bias_O, kind, stats)
    how: dict[str, Any] = {"backend": backend, "like": x, "gradient": Gradient}
    return Convolved(*dispatch.call("separable_conv", baseline, *args, **how))


def out_width(width: int, kind: str) -> int:
    """W' of W."""
    return {"halve": width // 2, "twice": 2 * width}.get(kind, width)


def _fake(
    x: Tensor,
    a_C: Tensor | None,
    gain_C: Tensor | None,
    shift_C: Tensor | None,
    taps: Tensor | None,
    tap_bias_C: Tensor | None,
    weight: Tensor,
    bias_O: Tensor,
    kind: str,
    stats: bool,
    backend: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    (B, _, H, W), O = x.shape, len(weight)
    mean_O = x.new_empty(O if stats else 0, dtype=compute_dtype(x))
    return x.new_empty(B, O, H, out_width(W, kind)), mean_O, torch.empty_like(mean_O)


def _fake_backward(
    grad: Tensor,
    grad_mean_O: Tensor,
    grad_var_O: Tensor,
    y: Tensor,
    mean_O: Tensor,
    *args: Any,
    backend: str | None = None,
) -> list[Tensor]:
    # an op cannot return None
    return [grad.new_empty(0) if t is None else t.new_empty(t.shape) for t in args[:8]]


dispatch.register(
    "separable_conv(Tensor x, Tensor? a, Tensor? gain, Tensor? shift, Tensor? taps,"
    " Tensor? tap_bias, Tensor weight, Tensor bias, str kind, bool stats, *, str? backend=None)"
    " -> (Tensor, Tensor, Tensor)",
    fake=_fake,
)
dispatch.register(
    "separable_conv_backward(Tensor grad, Tensor grad_mean, Tensor grad_var, Tensor y, Tensor mean,"
    " Tensor x, Tensor? a, Tensor? gain, Tensor? shift, Tensor? taps, Tensor? tap_bias,"
    " Tensor weight, Tensor bias, str kind, bool stats, *, str? backend=None) -> Tensor[]",
    fake=_fake_backward,
)


class Gradient(torch.autograd.Function):
    """The statistics' gradients are added to that of y: (dmean + 2 (y - mean) dvar) / n."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        a_C: Tensor | None,
        gain_C: Tensor | None,
        shift_C: Tensor | None,
        taps: Tensor | None,
        tap_bias_C: Tensor | None,
        weight: Tensor,
        bias_O: Tensor,
        kind: str,
        stats: bool,
        backend: str | None,
    ) -> Any:
        # as in attention.py: named for torch.compile, and no setup_context, which is slow
        inputs = (x, a_C, gain_C, shift_C, taps, tap_bias_C, weight, bias_O)
        out = torch.ops.tsgen.separable_conv.default(*inputs, kind, stats, backend=backend)
        ctx.save_for_backward(out[0], out[1], *inputs)
        ctx.how, ctx.backend = (kind, stats), backend
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        saved = ctx.saved_tensors
        run = torch.ops.tsgen.separable_conv_backward.default
        out = run(*grads, *saved, *ctx.how, backend=ctx.backend)
        given = zip(out, saved[2:], strict=True)
        return *(None if t is None else grad for grad, t in given), None, None, None


def check(
    x: Tensor,
    a_C: Tensor | None,
    gain_C: Tensor | None,
    shift_C: Tensor | None,
    taps: Tensor | None,
    tap_bias_C: Tensor | None,
    weight: Tensor,
    bias_O: Tensor,
    kind: str,
) -> None:
    """Everything a backend may rely on."""
    if x.dim() != 4:
        raise bad_value("x", "(B, C, H, W)", tuple(x.shape))
    if kind not in KINDS:
        raise bad_value("kind", f"one of {', '.join(KINDS)}", kind)
    if (gain_C is None) != (shift_C is None) or (a_C is None and gain_C is not None):
        raise bad_value("gain, shift", "both, with a, or neither", "others")
    C = x.shape[1]
    shapes: list[tuple[str, Tensor | None, tuple[int, ...]]] = [
        ("a", a_C, (C,)),
        ("gain", gain_C, (C,)),
        ("shift", shift_C, (C,)),
        ("tap_bias", tap_bias_C, (C,)),
        ("weight", weight, (len(weight), C, 1, 1)),
        ("bias", bias_O, (len(weight),)),
    ]
    for name, t, shape in shapes:
        if t is not None and t.shape != shape:
            raise bad_value(name, str(shape), tuple(t.shape))
    if (taps is None) != (kind == "none") or (taps is None) != (tap_bias_C is None):
        raise bad_value("taps, tap_bias", "both, or neither for kind none", f"others for {kind}")
    if taps is not None and taps.shape not in {(C, 1, h, KINDS[kind]) for h in (1, 3)}:
        raise bad_value("taps", f"({C}, 1, 1 or 3, {KINDS[kind]})", tuple(taps.shape))


def reference(
    x: Tensor,
    a_C: Tensor | None,
    gain_C: Tensor | None,
    shift_C: Tensor | None,
    taps: Tensor | None,
    tap_bias_C: Tensor | None,
    weight: Tensor,
    bias_O: Tensor,
    kind: str,
    stats: bool,
) -> Convolved:
    """The definition, for tests: every output a sum over its taps. Never optimise this."""
    if a_C is not None:
        x = snake.reference(x, a_C, gain_C, shift_C)
    if taps is not None and tap_bias_C is not None:
        (B, C, H, W), (rows, columns) = x.shape, taps.shape[2:]
        out = tap_bias_C[None, :, None, None].expand(B, C, H, out_width(W, kind)).clone()
        for h in range(H):
            for w in range(out.shape[3]):
                for i in range(rows):
                    for j in range(columns):
                        if kind == "twice":  # 2 column - 1 + j = w, row - rows // 2 + i = h
                            row, (column, odd) = h + rows // 2 - i, divmod(w + 1 - j, 2)
                            if odd:
                                continue
                        else:
                            row = h - rows // 2 + i
                            column = (2 * w if kind == "halve" else w) - 1 + j
                        if kind == "halve":
                            row, column = min(max(row, 0), H - 1), min(max(column, 0), W - 1)
                        if 0 <= row < H and 0 <= column < W:
                            out[:, :, h, w] += taps[:, 0, i, j] * x[:, :, row, column]
        x = out
    y = torch.einsum("oc,bchw->bohw", weight[:, :, 0, 0], x) + bias_O[:, None, None]
    return Convolved(y, *statistics(y, stats))


def statistics(y: Tensor, stats: bool) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over everything but the channels."""
    if not stats:
        return y.new_empty(0, dtype=compute_dtype(y)), y.new_empty(0, dtype=compute_dtype(y))
    var_O, mean_O = torch.var_mean(y.to(compute_dtype(y)), (0, 2, 3), correction=0)
    return mean_O, var_O


def edges_repeated(x: Tensor, rows: int) -> Tensor:
    """One column more on each side, and as many rows: 0 or 1.

    The gradient of F.pad(mode="replicate") adds up in an order of chance on a GPU.
    """
    x = torch.cat([x[..., :1], x, x[..., -1:]], 3)
    return torch.cat([x[:, :, :1], x, x[:, :, -1:]], 2) if rows else x


def baseline(
    x: Tensor,
    a_C: Tensor | None,
    gain_C: Tensor | None,
    shift_C: Tensor | None,
    taps: Tensor | None,
    tap_bias_C: Tensor | None,
    weight: Tensor,
    bias_O: Tensor,
    kind: str,
    stats: bool,
) -> Convolved:
    """PyTorch's convolutions, one after the other, in x's dtype."""
    if a_C is not None:
        x = snake.baseline(x, a_C, gain_C, shift_C)
    if taps is not None and tap_bias_C is not None:
        taps, tap_bias_C, C = taps.to(x.dtype), tap_bias_C.to(x.dtype), x.shape[1]
        pad = (taps.shape[2] // 2, 1)
        if kind == "twice":
            x = F.conv_transpose2d(x, taps, tap_bias_C, (1, 2), pad, groups=C)
        elif kind == "halve":
            x = F.conv2d(edges_repeated(x, pad[0]), taps, tap_bias_C, (1, 2), groups=C)
        else:
            x = F.conv2d(x, taps, tap_bias_C, padding=pad, groups=C)
    y = F.conv2d(x, weight.to(x.dtype), bias_O.to(x.dtype))
    return Convolved(y, *statistics(y, stats))


# Read by tests/test_ops.py and benchmarks.

TEST_SHAPES = [  # (B, C, H, W, O, kernel rows, kind, activation, stats)
    (0, 3, 2, 4, 2, 3, "same", "norm", False),
    (1, 1, 1, 1, 1, 1, "same", "none", True),
    (2, 3, 2, 5, 4, 3, "same", "norm", True),
    (17, 5, 3, 7, 33, 3, "same", "snake", True),
    (3, 2, 1, 9, 4, 1, "same", "norm", False),
    (16, 2, 2, 11, 5, 3, "halve", "none", True),
    (5, 3, 1, 8, 17, 1, "halve", "snake", True),
    (19, 4, 2, 6, 3, 3, "twice", "norm", True),
    (2, 9, 1, 7, 2, 1, "twice", "none", False),
    (33, 7, 2, 3, 6, 3, "none", "norm", True),
    (4, 400, 1, 5, 3, 1, "none", "none", False),
]
BENCH_SHAPES = [
    (128, 8, 1, 32, 8, 1, "same", "norm", True),
    (128, 8, 2, 32, 128, 3, "same", "snake", True),
    (128, 128, 2, 32, 8, 3, "same", "norm", True),
    (128, 4, 2, 64, 8, 3, "halve", "none", True),
    (128, 32, 1, 8, 16, 1, "twice", "none", True),
]
GPU_SHAPES = [
    (8192, 8, 2, 32, 128, 3, "same", "snake", True),
    (8192, 128, 2, 32, 8, 3, "same", "norm", True),
    (8192, 4, 2, 64, 8, 3, "halve", "none", True),
    (8192, 32, 1, 8, 16, 1, "twice", "none", True),
]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 5e-2, torch.float16: 5e-3}
DIFFERENTIABLE = (0, 1, 2, 3, 4, 5, 6, 7)

Shape = tuple[int, int, int, int, int, int, str, str, bool]


def make_inputs(
    shape: Shape, device: str, dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor | str | bool | None, ...]:
    B, C, H, W, O, rows, kind, activation, stats = shape
    rng = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=rng).to(device, dtype)

    x, a_C = normal(B, C, H, W), normal(C).abs() + 0.2
    columns = KINDS[kind]
    taps = (normal(C, 1, rows, columns), normal(C)) if columns else (None, None)
    weight, bias_O = normal(O, C, 1, 1) / C**0.5, normal(O)
    norm = (normal(C), normal(C)) if activation == "norm" else (None, None)
    return x, None if activation == "none" else a_C, *norm, *taps, weight, bias_O, kind, stats


def error(out: Convolved, ref: Convolved, *inputs: object) -> float:
    """Largest difference, relative to the largest value; the worst of y, mean and variance."""
    return max(relative_error(a, b) for a, b in zip(out, ref, strict=True))


def bytes_moved(shape: Shape, dtype: torch.dtype) -> int:
    """The least traffic possible: read x once, write y once."""
    B, C, H, W, O, _, kind, *_ = shape
    return B * H * (C * W + O * out_width(W, kind)) * dtype.itemsize
