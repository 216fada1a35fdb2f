"""The native ops of tokens: what a kernel is given, and what is made of what it gives.

Each function has the signature of its op after `run`, the kernel with whatever starts it
(native.py). Kernels see only addresses: what they take for granted, a dtype, a device, a contiguous
layout, callers have checked or functions here see to.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tsgen import native
from tsgen.errors import bad_value
from tsgen.native import Kernel, as_first, float32, new_float32
from tsgen.ops.attention import dense_rows
from tsgen.ops.dropout import n_dropped
from tsgen.ops.transformer_block import LayerWeights


def attention(
    run: Kernel,
    q_BHMD: Tensor,
    k_BHND: Tensor,
    v_BHND: Tensor,
    null_kv_2HD: Tensor | None,
    q_scale_D: Tensor | None,
    k_scale_D: Tensor | None,
    lengths_B: Tensor | None,
) -> Tensor:
    q, k, v = map(dense_rows, (q_BHMD, k_BHND, v_BHND))
    shared = float32(null_kv_2HD, q_scale_D, k_scale_D)
    lengths = None if lengths_B is None else lengths_B.contiguous()
    (B, H, M, D), N = q.shape, k.shape[2]
    out = q.new_empty(B, M, H, D)
    strides = [step for t in (q, k, v) for step in t.stride()[:3]]
    run([q, k, v, *shared, lengths, out], [*strides, B, H, M, N, D])
    return out.transpose(1, 2)


def attention_backward(
    run: Kernel,
    grad_BHMD: Tensor,
    q_BHMD: Tensor,
    k_BHND: Tensor,
    v_BHND: Tensor,
    null_kv_2HD: Tensor | None,
    q_scale_D: Tensor | None,
    k_scale_D: Tensor | None,
    lengths_B: Tensor | None,
) -> tuple[Tensor, ...]:
    rows = [dense_rows(t) for t in (grad_BHMD, q_BHMD, k_BHND, v_BHND)]
    shared = float32(null_kv_2HD, q_scale_D, k_scale_D)
    lengths = None if lengths_B is None else lengths_B.contiguous()
    (B, H, M, D), N = q_BHMD.shape, k_BHND.shape[2]
    outs = [grad_BHMD.new_empty(B, n, H, D) for n in (M, N, N)]
    shared_outs = [None if t is None else torch.empty_like(t) for t in shared]
    strides = [step for t in rows for step in t.stride()[:3]]
    run([*rows, *shared, lengths, *outs, *shared_outs], [*strides, B, H, M, N, D])
    given = zip(shared_outs, (null_kv_2HD, q_scale_D, k_scale_D), strict=True)
    # an op cannot return None
    back = [grad_BHMD.new_empty(0) if g is None or t is None else g.to(t.dtype) for g, t in given]
    return *(t.transpose(1, 2) for t in outs), *back


def sample_code(
    run: Kernel,
    h_RD: Tensor,
    u_R: Tensor,
    weight_KD: Tensor | None,
    bias_K: Tensor | None,
    temperature: float,
    top_k: int,
    top_p: float,
) -> tuple[Tensor, Tensor]:
    R, D = h_RD.shape
    ids_R, logp_R = h_RD.new_empty(R, dtype=torch.int64), new_float32(h_RD, R)
    head = [None if weight_KD is None else as_first(h_RD, weight_KD), *float32(bias_K)]
    tensors = [h_RD.contiguous(), u_R.contiguous(), *head, ids_R, logp_R]
    sizes = R, D, D if weight_KD is None else len(weight_KD)
    run(tensors, (*sizes, temperature, top_k, top_p))
    return ids_R, logp_R


def keep_confident(run: Kernel, confidence_BN: Tensor, n_masked_B: Tensor) -> Tensor:
    confidence_BN = confidence_BN.contiguous()
    masked_BN = torch.empty_like(confidence_BN, dtype=torch.bool)
    tensors = [confidence_BN, n_masked_B.contiguous(), masked_BN]
    run(tensors, (*confidence_BN.shape, confidence_BN.itemsize))
    return masked_BN


def masked_cross_entropy(
    run: Kernel,
    h_MD: Tensor,
    weight_KD: Tensor,
    bias_K: Tensor | None,
    rows_R: Tensor,
    target_R: Tensor,
) -> Tensor:
    loss = new_float32(h_MD)
    inputs, sizes = head_inputs(h_MD, weight_KD, bias_K, rows_R, target_R)
    run([*inputs, loss], sizes)
    return loss


def masked_cross_entropy_backward(
    run: Kernel,
    h_MD: Tensor,
    weight_KD: Tensor,
    bias_K: Tensor | None,
    rows_R: Tensor,
    target_R: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    K, D = weight_KD.shape
    loss, grad_h_MD = new_float32(h_MD), h_MD.new_empty(h_MD.shape)
    grad_weight_KD = new_float32(h_MD, K, D)
    grad_bias_K = new_float32(h_MD, 0 if bias_K is None else K)
    inputs, sizes = head_inputs(h_MD, weight_KD, bias_K, rows_R, target_R)
    outputs = [loss, grad_h_MD, grad_weight_KD, None if bias_K is None else grad_bias_K]
    run([*inputs, *outputs], sizes)
    return loss, grad_h_MD, grad_weight_KD.to(h_MD.dtype), grad_bias_K.to(h_MD.dtype)


def head_inputs(
    h_MD: Tensor, weight_KD: Tensor, bias_K: Tensor | None, rows_R: Tensor, target_R: Tensor
) -> tuple[list[Tensor | None], tuple[int, int, int, int]]:
    """What both kernels take, and M, R, K, D."""
    sizes = len(h_MD), len(rows_R), *weight_KD.shape
    for name, ids_R, n in (("rows", rows_R, sizes[0]), ("target", target_R, sizes[2])):
        if ids_R.is_cuda:  # the kernel skips what does not exist: asking would wait for the device
            continue
        if len(ids_R) and (int(ids_R.min()) < 0 or int(ids_R.max()) >= n):
            raise bad_value(name, f"ids from 0 to {n - 1}", f"{ids_R.min()} to {ids_R.max()}")
    inputs = [h_MD.contiguous(), as_first(h_MD, weight_KD), *float32(bias_K)]
    return [*inputs, rows_R.contiguous(), target_R.contiguous()], sizes


def nearest_code(
    run: Kernel, x_ND: Tensor, codes_KD: Tensor, stats: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (N, D), K = x_ND.shape, len(codes_KD)
    n = K if stats else 0
    ids_N, counts_K = (torch.empty(m, dtype=torch.int64, device=x_ND.device) for m in (N, n))
    distance_N, sums_KD = new_float32(x_ND, N), new_float32(x_ND, n, D)
    wanted = [counts_K, sums_KD] if stats else [None, None]
    inputs = [x_ND.contiguous(), as_first(x_ND, codes_KD)]
    run([*inputs, ids_N, distance_N, *wanted], (N, K, D))
    return ids_N, distance_N, counts_K, sums_KD


def aligned(x: Tensor) -> Tensor:
    """Dense, at an address that pieces of 16 bytes can be read from."""
    x = x.contiguous()
    return x.clone() if x.data_ptr() % 16 else x


def transformer_block(run: Kernel, x_STD: Tensor, *args: Any) -> Tensor:
    w, eps = LayerWeights(*args[:-1]), args[-1]
    (S, T, D), (_, H, Dh), n_features = x_STD.shape, w.null_kv_2HC.shape, len(w.up_FD)
    if why := transformer_block_obstacle(x_STD.device, T, D, H, Dh, n_features):
        raise bad_value("x, weights", "what the CUDA kernel takes", why)
    out, down = torch.empty_like(x_STD, memory_format=torch.contiguous_format), w.down_DF
    if down.stride(1) != 1 or down.stride(0) % 8 or down.data_ptr() % 16:  # its loads are of 8
        down = F.pad(down, (0, -n_features % 8))
    matrices = {"qkv_ED": w.qkv_ED, "out_DI": w.out_DI, "up_FD": w.up_FD}
    w = w._replace(**{name: aligned(t) for name, t in matrices.items()}, down_DF=down)
    given = [t if t.dim() == 2 else float32(t)[0] for t in w]
    sizes = S, T, D, H, Dh, n_features, down.stride(0), eps
    run([x_STD.contiguous(), *given, out], sizes)
    return out


def transformer_block_obstacle(
    device: torch.device, T: int, D: int, H: int, Dh: int, n_features: int
) -> str | None:
    """Why the CUDA kernel cannot take such a layer, or None if it can."""
    if D % 16 or Dh % 16:
        return f"a width of {D} and heads of {Dh}, which are not multiples of 16"
    part = native.kernels("cuda")
    n_bytes = part.transformer_block_shared(T, D, H, Dh, n_features)
    if n_bytes > part.most_shared(device.index or 0):
        return f"{T} tokens of width {D}, which do not fit the shared memory of a block"
    return None


def dropout(run: Kernel, x: Tensor, p: float, seed: Tensor, residual: Tensor | None) -> Tensor:
    x, residual = x.contiguous(), None if residual is None else residual.contiguous()
    out = torch.empty_like(x)
    run([x, seed.contiguous(), residual, out], (x.numel(), n_dropped(p)))
    return out


def philox(
    run: Kernel, sample_B: Tensor, key: int, n_positions: int, stream: int, step: int, band: int
) -> Tensor:
    sample_B = sample_B.contiguous()
    B = sample_B.shape[0]
    words_BN4 = torch.empty(B, n_positions, 4, dtype=torch.int64, device=sample_B.device)
    run([sample_B, words_BN4], (key % 2**64, B, n_positions, stream, step, band))
    return words_BN4
