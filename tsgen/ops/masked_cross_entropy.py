"""Loss of the masked-token prior: the head and cross-entropy, on the masked rows only.

    loss = mean over r of  -log softmax(h[rows[r]] Wᵀ + b)[target[r]]

Chang et al. 2022 (MaskGIT), eq. 1. M rows in all, R of them masked, D width, K codes.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from tsgen import dispatch
from tsgen.errors import bad_value
from tsgen.ops.stft import compute_dtype, relative_error


def masked_cross_entropy(
    h_MD: Tensor,
    weight_KD: Tensor,
    bias_K: Tensor | None,
    rows_R: Tensor,
    target_R: Tensor,
    *,
    backend: str | None = None,
) -> Tensor:
    """Mean cross-entropy over the given rows, in nats; 0 where there are none.

    h_MD:       (M, D) float hidden rows
    weight_KD:  (K, D) same dtype, and bias_K (K,) or None: the head
    rows_R:     (R,) int64 in [0, M), distinct
    target_R:   (R,) int64 in [0, K)
    returns:    () float32, or float64. Differentiable in h, weight and bias
    raises:     ArgumentError for shapes or dtypes that do not fit; on the CPU for wrong ids too
    """
    if torch.is_autocast_enabled(h_MD.device.type):  # as linear layers do; sums are in float32
        dtype = torch.get_autocast_dtype(h_MD.device.type)
        h_MD, weight_KD = h_MD.to(dtype), weight_KD.to(dtype)
    args = (h_MD, weight_KD, bias_K, rows_R, target_R)
    check(*args)
    how: dict[str, Any] = {"backend": backend, "like": h_MD, "gradient": Gradient}
    return cast(Tensor, dispatch.call("masked_cross_entropy", baseline, *args, **how))


def _fake(h_MD: Tensor, *args: Tensor | None, backend: str | None = None) -> Tensor:
    return h_MD.new_empty((), dtype=compute_dtype(h_MD))


def _fake_backward(
    h_MD: Tensor, weight_KD: Tensor, bias_K: Tensor | None, *args: Any, backend: str | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    bias_grad = h_MD.new_empty(0 if bias_K is None else len(weight_KD))
    return (
        h_MD.new_empty((), dtype=compute_dtype(h_MD)),
        h_MD.new_empty(h_MD.shape),
        h_MD.new_empty(weight_KD.shape),
        bias_grad,
    )


dispatch.register(
    "masked_cross_entropy(Tensor h, Tensor weight, Tensor? bias, Tensor rows, Tensor target, *,"
    " str? backend=None) -> Tensor",
    fake=_fake,
)
dispatch.register(
    "masked_cross_entropy_backward(Tensor h, Tensor weight, Tensor? bias, Tensor rows,"
    " Tensor target, *, str? backend=None) -> (Tensor, Tensor, Tensor, Tensor)",
    fake=_fake_backward,
)


class Gradient(torch.autograd.Function):
    """dl = (softmax(l) - onehot(target)) / R, dh = dl W, dW = dlᵀ h, db = sum of dl.

    Computed along with the loss, while the logits are at hand, and only scaled by backward.
    """

    @staticmethod
    def forward(
        ctx: Any, h_MD: Any, weight_KD: Any, bias_K: Any, rows_R: Any, target_R: Any, backend: Any
    ) -> Any:
        # named, not *args: torch.compile counts them
        args = h_MD, weight_KD, bias_K, rows_R, target_R
        if not any(ctx.needs_input_grad):
            return torch.ops.tsgen.masked_cross_entropy.default(*args, backend=backend)
        with_gradients = torch.ops.tsgen.masked_cross_entropy_backward.default
        loss, *gradients = with_gradients(*args, backend=backend)
        ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        dh, dW, db = (grad * saved for saved in ctx.saved_tensors)
        return dh, dW, db if ctx.needs_input_grad[2] else None, None, None, None


def check(
    h_MD: Tensor, weight_KD: Tensor, bias_K: Tensor | None, rows_R: Tensor, target_R: Tensor
) -> None:
    """Everything a backend may rely on."""
    if h_MD.dim() != 2 or weight_KD.dim() != 2 or h_MD.shape[1] != weight_KD.shape[1]:
        got = f"{tuple(h_MD.shape)} and {tuple(weight_KD.shape)}"
        raise bad_value("h, weight", "(M, D) and (K, D)", got)
    if bias_K is not None and bias_K.shape != weight_KD.shape[:1]:
        raise bad_value("bias", f"({len(weight_KD)},)", tuple(bias_K.shape))
    if rows_R.dim() != 1 or rows_R.shape != target_R.shape:
        got = f"{tuple(rows_R.shape)} and {tuple(target_R.shape)}"
        raise bad_value("rows, target", "two of (R,)", got)
    if rows_R.dtype != torch.int64 or target_R.dtype != torch.int64:
        raise bad_value("rows, target", "torch.int64", (rows_R.dtype, target_R.dtype))


def reference(
    h_MD: Tensor, weight_KD: Tensor, bias_K: Tensor | None, rows_R: Tensor, target_R: Tensor
) -> Tensor:
    """The definition, for tests. Never optimise this."""
    logits_RK = h_MD[rows_R] @ weight_KD.T + (0 if bias_K is None else bias_K)
    chosen_R = logits_RK.log_softmax(-1).gather(1, target_R[:, None])
    return -chosen_R.sum() / max(1, len(rows_R))


def baseline(
    h_MD: Tensor, weight_KD: Tensor, bias_K: Tensor | None, rows_R: Tensor, target_R: Tensor
) -> Tensor:
    """The head on gathered rows, and torch's fused log-softmax and loss."""
    dtype = compute_dtype(h_MD)
    h_RD = h_MD.index_select(0, rows_R).to(dtype)
    logits_RK = F.linear(h_RD, weight_KD.to(dtype), None if bias_K is None else bias_K.to(dtype))
    return F.cross_entropy(logits_RK, target_R, reduction="sum") / max(1, len(rows_R))


# Read by tests/test_ops.py and benchmarks.

TEST_SHAPES = [  # (M, R, K, D, bias)
    (4, 0, 5, 3, True),
    (1, 1, 1, 1, False),
    (7, 3, 5, 2, True),
    (130, 67, 131, 17, True),
    (64, 64, 32, 8, False),
    (60, 50, 70, 390, True),
    (1300, 1100, 33, 5, True),
]
BENCH_SHAPES = [(8192, 5242, 1024, 128, True), (1024, 655, 1024, 128, True)]
GPU_SHAPES = [(524_288, 335_544, 1024, 128, True), (8192, 5242, 1024, 128, True)]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}
DIFFERENTIABLE = (0, 1, 2)

Shape = tuple[int, int, int, int, bool]
Inputs = tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor]


def make_inputs(shape: Shape, device: str, dtype: torch.dtype, seed: int = 0) -> Inputs:
    M, R, K, D, bias = shape
    rng = torch.Generator().manual_seed(seed)
    h_MD = torch.randn(M, D, generator=rng).to(device, dtype)
    weight_KD = torch.randn(K, D, generator=rng).to(device, dtype)
    bias_K = torch.randn(K, generator=rng).to(device, dtype) if bias else None
    rows_R = torch.randperm(M, generator=rng)[:R].to(device)
    target_R = torch.randint(0, K, (R,), generator=rng).to(device)
    return h_MD, weight_KD, bias_K, rows_R, target_R


def error(out: Tensor, ref: Tensor, *inputs: object) -> float:
    """Difference, relative to the loss."""
    return relative_error(out, ref)


def bytes_moved(shape: Shape, dtype: torch.dtype) -> int:
    """The least traffic possible: read the masked rows, their targets and the head once."""
    _, R, K, D, _ = shape
    return (R + K) * D * dtype.itemsize + R * 16


def flops(shape: Shape) -> int:
    """Multiplications and additions of the products."""
    _, R, K, D, *_ = shape
    return 2 * R * K * D
