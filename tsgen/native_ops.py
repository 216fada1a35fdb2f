"""Every native op: what its kernel is given, and what is made of what it gives.

Each function has the signature of its op after `run`, the kernel with whatever starts it
(native.py). Kernels see only addresses: what they take for granted, a dtype, a device, a contiguous
layout, callers have checked or functions here see to.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from tsgen import native
from tsgen.errors import bad_value
from tsgen.ops.attention import dense_rows
from tsgen.ops.dropout import n_dropped
from tsgen.ops.separable_conv import KINDS, out_width
from tsgen.ops.stft import n_frames
from tsgen.ops.transformer_block import LayerWeights

# tensors (None where there is none), then sizes
Kernel = Callable[[Sequence[Tensor | None], Sequence[int | float]], None]


def stft(run: Kernel, x_BCL: Tensor, window_W: Tensor, hop: int, first: int, end: int) -> Tensor:
    T = n_frames(x_BCL.shape[2], len(window_W), hop)
    return series_to_planes(run, x_BCL, window_W, hop, first, end - first, T)


def istft_backward(
    run: Kernel, grad_BCL: Tensor, window_W: Tensor, hop: int, first: int, rows: int, frames: int
) -> Tensor:
    return series_to_planes(run, grad_BCL, window_W, hop, first, rows, frames)


def series_to_planes(
    run: Kernel, x_BCL: Tensor, window_W: Tensor, hop: int, first: int, rows: int, frames: int
) -> Tensor:
    B, C, L = x_BCL.shape
    planes_BGFT = x_BCL.new_empty(B, 2 * C, rows, frames)
    sizes = B * C, L, len(window_W), hop, first, rows, frames
    run([x_BCL.contiguous(), *float32(window_W), planes_BGFT], sizes)
    return planes_BGFT


def istft(
    run: Kernel, planes_BGFT: Tensor, window_W: Tensor, hop: int, first: int, length: int
) -> Tensor:
    B, G, F, T = planes_BGFT.shape
    x_BCL = planes_BGFT.new_empty(B, G // 2, length)
    sizes = B * G // 2, length, len(window_W), hop, first, F, T
    run([planes_BGFT.contiguous(), *float32(window_W), x_BCL], sizes)
    return x_BCL


stft_backward = istft  # the same tensors and sizes


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


def separable_conv(run: Kernel, x: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    *weights, kind, stats = args
    B, _, H, W = x.shape
    O = len(weights[5])
    y = x.new_empty(B, O, H, out_width(W, kind))
    mean_O, var_O = (x.new_empty(O if stats else 0) for _ in range(2))
    wanted = [mean_O, var_O] if stats else [None, None]
    inputs = [x.contiguous(), *float32(*weights)]
    run([*inputs, y, *wanted], separable_sizes(x, weights, kind))
    return y, mean_O, var_O


def separable_conv_backward(
    run: Kernel,
    grad: Tensor,
    grad_mean_O: Tensor,
    grad_var_O: Tensor,
    y: Tensor,
    mean_O: Tensor,
    x: Tensor,
    *args: Any,
) -> list[Tensor]:
    *weights, kind, stats = args
    statistics = [grad_mean_O.contiguous(), grad_var_O.contiguous(), y, mean_O]
    given = [grad.contiguous(), *(statistics if stats else [None] * 4)]
    inputs = [x.contiguous(), *float32(*weights)]
    # an op cannot return None
    grads = [x.new_empty(0) if t is None else torch.empty_like(t) for t in inputs]
    wanted = [None if t is None else grad for grad, t in zip(grads, inputs, strict=True)]
    run([*given, *inputs, *wanted], separable_sizes(x, weights, kind))
    pairs = zip(grads, (x, *weights), strict=True)
    return [grad if t is None else grad.to(t.dtype) for grad, t in pairs]


def separable_sizes(x: Tensor, weights: Sequence[Tensor | None], kind: str) -> tuple[int, ...]:
    taps, weight = weights[3], cast(Tensor, weights[5])
    rows = 1 if taps is None else taps.shape[2]
    return *x.shape, len(weight), rows, list(KINDS).index(kind)


def sum_taps(
    run: Kernel, products_BMTF: Tensor, source_N: Tensor, bias_F: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    (B, M, T, F), N = products_BMTF.shape, len(source_N)
    if int(source_N.min()) < 0 or int(source_N.max()) >= M:
        got = f"{source_N.min()} to {source_N.max()}"
        raise bad_value("source", f"tokens from 0 to {M - 1}", got)
    h_BNF = products_BMTF.new_empty(B, N, F)
    mean_F, var_F = (products_BMTF.new_empty(F) for _ in range(2))
    inputs = [products_BMTF.contiguous(), source_N.contiguous(), *float32(bias_F)]
    run([*inputs, h_BNF, mean_F, var_F], (B, M, T, F, N))
    return h_BNF, mean_F, var_F


def sum_taps_backward(
    run: Kernel,
    grad: Tensor,
    grad_mean_F: Tensor,
    grad_var_F: Tensor,
    mean_F: Tensor,
    products_BMTF: Tensor,
    source_N: Tensor,
    bias_F: Tensor,
) -> tuple[Tensor, Tensor]:
    given = [t.contiguous() for t in (grad, grad_mean_F, grad_var_F, mean_F, products_BMTF)]
    (bias,) = float32(bias_F)
    grads = products_BMTF.new_empty(products_BMTF.shape), products_BMTF.new_empty(len(bias_F))
    sizes = *products_BMTF.shape, len(source_N)
    run([*given, source_N.contiguous(), bias, *grads], sizes)
    return grads[0], grads[1].to(bias_F.dtype)


def snake(
    run: Kernel, x: Tensor, a_C: Tensor, gain_C: Tensor | None, shift_C: Tensor | None
) -> Tensor:
    x = x.contiguous()
    out = torch.empty_like(x)
    run([x, *float32(a_C, gain_C, shift_C), out], rows_of_channels(x))
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
    grad_x, sums = torch.empty_like(x), [new_float32(x, m) for m in (len(a_C), n, n)]
    run(
        [grad, x, *channels, grad_x, sums[0], *(sums[1:] if n else [None] * 2)], rows_of_channels(x)
    )
    grad_a, grad_gain, grad_shift = (t.to(a_C.dtype) for t in sums)
    return grad_x, grad_a, grad_gain, grad_shift


def rows_of_channels(x: Tensor) -> tuple[int, int, int]:
    """(B, C, ...) as B x C rows of S numbers."""
    return x.shape[0], x.shape[1], math.prod(x.shape[2:])


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


def as_first(first: Tensor, t: Tensor) -> Tensor:
    """Contiguous and in the dtype of the first tensor, as products of the two want it."""
    return t.to(first.dtype).contiguous()


def new_float32(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=like.device)


def float32(*tensors: Tensor | None) -> list[Tensor | None]:
    """Contiguous and in float32, as kernels take what stands beside their first tensor."""
    return [None if t is None else t.to(torch.float32).contiguous() for t in tensors]
