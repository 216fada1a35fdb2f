"""Head and cross-entropy on some rows, Triton: logits live in a tile of rows x codes at a time.

The gradient of h comes with the loss, as in attention: weights are summed up unnormalised while
the largest logit is searched. That of W computes the logits again, codes staying where they are.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

LOWEST = tl.constexpr(-3.4028235e38)  # below every logit, yet differences to it are no NaN
ROWS_OF_PART = 512  # of the gradient of W, at least
MOST_PARTS = 16
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}


@triton.jit
def product(a, row, n_a, b, k, n_b, start, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """start + rows `row` of a times rows k of b, below n_a and n_b: float32 [rows, k]."""
    d = tl.arange(0, BLOCK_D)
    a_at = a + row[:, None] * D + d[None, :]
    b_at = b + k[None, :] * D + d[:, None]
    known_a, known_b = (row >= 0) & (row < n_a), (k >= 0) & (k < n_b)
    for d0 in range(0, D, BLOCK_D):
        a_rd = tl.load(a_at + d0, mask=known_a[:, None] & (d0 + d[None, :] < D), other=0.0)
        b_dk = tl.load(b_at + d0, mask=known_b[None, :] & (d0 + d[:, None] < D), other=0.0)
        start = tl.dot(a_rd, b_dk, start, input_precision="ieee")
    return start


@triton.jit
def rows_kernel(
    h,  # (M, D)
    weight,  # (K, D)
    bias,  # (K,) or None
    rows,  # (R,) int64
    target,  # (R,) int64
    losses,  # (R,)
    normaliser,  # (R,), log of the sum of e^l, with GRAD
    grad_h,  # (M, D), zeros, with GRAD
    M,
    R,
    K,
    D: tl.constexpr,
    GRAD: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
):
    tiles = tl.cdiv(max(D, 1), BLOCK_OUT) if GRAD else 1
    program = tl.program_id(0).to(tl.int64)
    r = program // tiles * ROWS + tl.arange(0, ROWS)
    row = tl.load(rows + r, mask=r < R, other=-1)
    wanted = tl.load(target + r, mask=r < R, other=-1)
    out = program % tiles * BLOCK_OUT + tl.arange(0, BLOCK_OUT)

    top = tl.full([ROWS], LOWEST, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    chosen = tl.zeros([ROWS], tl.float32)
    grad = tl.zeros([ROWS, BLOCK_OUT], tl.float32)
    for k0 in range(0, K, BLOCK_K):
        k = (k0 + tl.arange(0, BLOCK_K)).to(tl.int64)
        l = tl.zeros([ROWS, BLOCK_K], tl.float32)
        if bias is not None:
            l += tl.load(bias + k, mask=k < K, other=0.0).to(tl.float32)[None, :]
        l = product(h, row, M, weight, k, K, l, D, BLOCK_D)
        chosen += tl.sum(tl.where(k[None, :] == wanted[:, None], l, 0.0), axis=1)
        l = tl.where(k[None, :] < K, l, float("-inf"))
        higher = tl.maximum(top, tl.max(l, axis=1))
        p = tl.exp(l - higher[:, None])
        shrink = tl.exp(top - higher)
        total = total * shrink + tl.sum(p, axis=1)
        top = higher
        if GRAD:
            at = weight + k[:, None] * D + out[None, :]
            w = tl.load(at, mask=(k[:, None] < K) & (out[None, :] < D), other=0.0)
            grad = tl.dot(p.to(w.dtype), w, grad * shrink[:, None], input_precision="ieee")

    # NaN for a row or target that does not exist: neither is read
    exists = (row >= 0) & (row < M) & (wanted >= 0) & (wanted < K)
    log_total = top + tl.log(total)
    loss = tl.where(exists, log_total - chosen, float("nan"))
    mine = tl.where(program % tiles == 0, R, 0)  # one program of a row says its loss
    tl.store(losses + r, loss, mask=r < mine)
    if GRAD:
        tl.store(normaliser + r, log_total, mask=r < mine)
        mask = exists[:, None] & (out[None, :] < D)
        w = tl.load(weight + wanted[:, None] * D + out[None, :], mask=mask, other=0.0)
        grad = (grad / total[:, None] - w.to(tl.float32)) / R
        to = grad_h + row[:, None] * D + out[None, :]
        tl.store(to, grad.to(grad_h.dtype.element_ty), mask=mask)


@triton.jit
def codes_kernel(
    h,  # (M, D)
    weight,  # (K, D)
    bias,  # (K,) or None
    rows,  # (R,) int64
    target,  # (R,) int64
    normaliser,  # (R,)
    parts,  # (n_parts, K, D), gradient of W from some rows
    bias_parts,  # (n_parts, K)
    M,
    R,
    K,
    rows_of_part,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
):
    tiles, groups = tl.cdiv(max(D, 1), BLOCK_OUT), tl.cdiv(K, BLOCK_K)
    program = tl.program_id(0).to(tl.int64)
    out = program % tiles * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    k = program // tiles % groups * BLOCK_K + tl.arange(0, BLOCK_K)
    part = program // tiles // groups
    start = tl.zeros([BLOCK_K], tl.float32)
    if bias is not None:
        start += tl.load(bias + k, mask=k < K, other=0.0).to(tl.float32)

    grad = tl.zeros([BLOCK_K, BLOCK_OUT], tl.float32)
    grad_bias = tl.zeros([BLOCK_K], tl.float32)
    end = tl.minimum(R, (part + 1) * rows_of_part)
    for r0 in range(part * rows_of_part, end, ROWS):
        r = r0 + tl.arange(0, ROWS)
        row = tl.load(rows + r, mask=r < end, other=-1)
        wanted = tl.load(target + r, mask=r < end, other=-1)
        # where there is no row, p is 0
        log_total = tl.load(normaliser + r, mask=r < end, other=float("inf"))
        l = tl.zeros([BLOCK_K, ROWS], tl.float32) + start[:, None]
        l = product(weight, k, K, h, row, M, l, D, BLOCK_D)
        p = tl.exp(l - log_total[None, :]) - (k[:, None] == wanted[None, :]).to(tl.float32)
        grad_bias += tl.sum(p, axis=1)
        at = h + row[:, None] * D + out[None, :]
        mask = ((row >= 0) & (row < M))[:, None] & (out[None, :] < D)
        h_ro = tl.load(at, mask=mask, other=0.0)
        grad = tl.dot(p.to(h_ro.dtype), h_ro, grad, input_precision="ieee")

    to = parts + (part * K + k[:, None]) * D + out[None, :]
    tl.store(to, grad / R, mask=(k[:, None] < K) & (out[None, :] < D))
    mine = tl.where(program % tiles == 0, K, 0)
    tl.store(bias_parts + part * K + k, grad_bias / R, mask=k < mine)


def tile(D: int, itemsize: int, kernel: Any) -> dict[str, int]:
    """Rows, codes and dims of a tile, and those of a gradient: as many as fit into registers."""
    dims = triton.next_power_of_2(max(16, D))
    rows, codes = (64, 64) if itemsize == 2 else (32, 32)
    if dims > 128 and kernel is rows_kernel:
        codes = 32
    return {
        "ROWS": rows,
        "BLOCK_K": codes,
        "BLOCK_D": 64 // itemsize if dims > 32 else 16,
        "BLOCK_OUT": dims if dims * itemsize <= 256 else 64,
    }


def head_of(h_MD: Tensor, *tensors: Tensor | None) -> list[Tensor | None]:
    """Contiguous, the weight in the dtype of h."""
    weight, bias, *ids = (None if t is None else t.contiguous() for t in tensors)
    assert weight is not None
    return [h_MD.contiguous(), weight.to(h_MD.dtype), bias, *ids]


def mean(losses_R: Tensor) -> Tensor:
    return (losses_R.double().sum() / max(1, len(losses_R))).float()


def masked_cross_entropy(
    h_MD: Tensor, weight_KD: Tensor, bias_K: Tensor | None, rows_R: Tensor, target_R: Tensor
) -> Tensor:
    R = len(rows_R)
    losses_R = torch.empty(R, device=h_MD.device)
    if R:  # an empty grid is an error
        size = tile(h_MD.shape[1], h_MD.itemsize, rows_kernel)
        inputs = head_of(h_MD, weight_KD, bias_K, rows_R, target_R)
        sizes = len(h_MD), R, *weight_KD.shape
        grid = (triton.cdiv(R, size["ROWS"]),)
        how = {"GRAD": False} | size | OPTIONS
        rows_kernel[grid](*inputs, losses_R, losses_R, losses_R, *sizes, **how)
    return mean(losses_R)


def masked_cross_entropy_backward(
    h_MD: Tensor, weight_KD: Tensor, bias_K: Tensor | None, rows_R: Tensor, target_R: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (K, D), R = weight_KD.shape, len(rows_R)
    losses_R, normaliser_R = torch.empty(2, R, device=h_MD.device)
    grad_h_MD = torch.zeros_like(h_MD, memory_format=torch.contiguous_format)
    n_parts = max(1, min(MOST_PARTS, R // ROWS_OF_PART))
    parts = torch.zeros(n_parts, K, D, device=h_MD.device)
    bias_parts = torch.zeros(n_parts, K, device=h_MD.device)
    if R:
        inputs = head_of(h_MD, weight_KD, bias_K, rows_R, target_R)
        sizes = len(h_MD), R, K

        size = tile(D, h_MD.itemsize, rows_kernel)
        tiles = triton.cdiv(max(1, D), size["BLOCK_OUT"])
        grid = (triton.cdiv(R, size["ROWS"]) * tiles,)
        outputs = losses_R, normaliser_R, grad_h_MD
        rows_kernel[grid](*inputs, *outputs, *sizes, D, GRAD=True, **size, **OPTIONS)

        size = tile(D, h_MD.itemsize, codes_kernel)
        tiles = triton.cdiv(max(1, D), size["BLOCK_OUT"])
        grid = (triton.cdiv(K, size["BLOCK_K"]) * tiles * n_parts,)
        outputs = normaliser_R, parts, bias_parts
        codes_kernel[grid](*inputs, *outputs, *sizes, -(-R // n_parts), D, **size, **OPTIONS)
    grad_bias = bias_parts.sum(0) if bias_K is not None else bias_parts.new_empty(0)
    # an op cannot return None
    return mean(losses_R), grad_h_MD, parts.sum(0).to(h_MD.dtype), grad_bias.to(h_MD.dtype)


# Read by tests/test_triton_compile.py: kernel, argument types ({} is h's), constants, and the only
# dtype of h if there is one.
HEAD = {"h": "*{}", "weight": "*{}", "bias": "*{}", "rows": "*i64", "target": "*i64"}
SIZES = dict.fromkeys(("M", "R", "K"), "i32")
SHIPPED = [
    (kernel, HEAD | types, constants | {"D": D} | tile(D, itemsize, kernel), dtype)
    for dtype, itemsize in (("fp32", 4), ("bf16", 2))
    for D in (32, 128, 256)
    for kernel, types, constants in (
        *(
            (
                rows_kernel,
                {"losses": "*fp32", "normaliser": "*fp32", "grad_h": "*{}"} | SIZES,
                {"GRAD": grad},
            )
            for grad in (False, True)
        ),
        (
            codes_kernel,
            {"normaliser": "*fp32", "parts": "*fp32", "bias_parts": "*fp32"}
            | SIZES
            | {"rows_of_part": "i32"},
            {},
        ),
    )
]
