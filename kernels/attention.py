"""Attention over short sequences, Triton: a tile of queries against all keys in one pass.

Up to 32 queries and keys, a program has four sequences, one a warp. Beyond, it has a tile of
queries of one sequence: the last keys first, then whole blocks of keys (Dao 2023, alg. 1). The
null key is one more row behind the last key. Heads are the fastest dim of the grid: they share
pages of memory.
"""

import triton
import triton.language as tl
from torch import Tensor

from tsgen.kernels import _attention_backward
from tsgen.kernels._attention import (
    INPUTS,
    PACKED,
    STRIDES,
    across,
    block,
    constants,
    dense,
    down,
    integers,
    keys_in_use,
    load_keys,
    load_rows,
    normalised,
    place,
    strides,
    there,
    wanted,
)
from tsgen.ops.attention import dense_rows

BLOCK = 32  # keys
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}


@triton.jit(do_not_specialize=["B", "M", "n_tiles"])
def attention_kernel(
    q,  # (B, H, M, D)
    k,  # (B, H, N, D)
    v,
    null_kv,  # (2, H, D)
    q_scale,  # (D,)
    k_scale,
    lengths,  # (B,)
    out,  # (B, M, H, D)
    q_stride_b,
    q_stride_h,
    q_stride_m,
    k_stride_b,
    k_stride_h,
    k_stride_n,
    v_stride_b,
    v_stride_h,
    v_stride_n,
    B,
    H,
    M,
    N,
    n_tiles,
    full,  # keys in whole blocks
    D: tl.constexpr,
    DIM: tl.constexpr,
    SMALLEST: tl.constexpr,
    NULL: tl.constexpr,
    NORM: tl.constexpr,
    LENGTHS: tl.constexpr,
    LOOP: tl.constexpr,
    PAIRS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK: tl.constexpr,
    TAIL: tl.constexpr,
    STAGES: tl.constexpr,
    RELOAD: tl.constexpr,
):
    element: tl.constexpr = q.dtype.element_ty
    to_log2: tl.constexpr = 1.4426950408889634 * D**-0.5  # powers of 2 instead of e
    b, h, tile = place(n_tiles, H, PAIRS)
    d = across(DIM, PAIRS)
    i = tile * BLOCK_M + down(BLOCK_M, PAIRS)
    row = there(i < M, b, B, PAIRS)
    q += b * q_stride_b + h * q_stride_h + i * q_stride_m + d
    x = normalised(load_rows(q, row, d, D, DIM), q_scale, d, D, NORM, SMALLEST)
    k += b * k_stride_b + h * k_stride_h + d
    v += b * v_stride_b + h * v_stride_h + d
    used = keys_in_use(lengths, b, B, N, PAIRS, LENGTHS)
    null_k = null_kv + h * D if NULL else null_kv
    null_v = null_kv + (H + h) * D if NULL else null_kv

    j = full + down(TAIL, PAIRS)
    key = there(j < used, b, B, PAIRS)
    last_k = load_keys(k, k_stride_n, null_k, j, N, key, d, D, DIM, NULL)
    last_k = normalised(last_k, k_scale, d, D, NORM, SMALLEST)
    last_v = load_keys(v, v_stride_n, null_v, j, N, key, d, D, DIM, NULL)
    s = tl.dot(x, tl.trans(last_k), input_precision="ieee") * to_log2
    j = full + across(TAIL, PAIRS)
    s = tl.where((j < used) | (j == N) if NULL else j < used, s, float("-inf"))
    # a finite bound, so that a row without a key is 0
    most = tl.maximum(tl.max(s, axis=-1, keep_dims=True), -1e30)
    p = tl.exp2(s - most)
    total = tl.sum(p, axis=-1, keep_dims=True)
    sums = tl.dot(p.to(element), last_v, input_precision="ieee")

    if LOOP:
        end = tl.minimum(full, tl.cdiv(used, BLOCK) * BLOCK) if LENGTHS else full
        for j0 in tl.range(0, end, BLOCK, num_stages=STAGES):
            n = j0 + down(BLOCK, PAIRS)
            key_n = n < used
            y = load_keys(k, k_stride_n, null_k, n, N, key_n, d, D, DIM, False)
            z = load_keys(v, v_stride_n, null_v, n, N, key_n, d, D, DIM, False)
            y = normalised(y, k_scale, d, D, NORM, SMALLEST)
            if RELOAD:
                x = normalised(load_rows(q, row, d, D, DIM), q_scale, d, D, NORM, SMALLEST)
            t = tl.dot(x, tl.trans(y), input_precision="ieee") * to_log2
            if LENGTHS:
                t = tl.where(j0 + across(BLOCK, PAIRS) < used, t, float("-inf"))
            higher = tl.maximum(most, tl.max(t, axis=-1, keep_dims=True))
            e = tl.exp2(t - higher)
            shrink = tl.exp2(most - higher)
            most = higher
            total = total * shrink + tl.sum(e, axis=-1, keep_dims=True)
            sums = tl.dot(e.to(element), z, sums * shrink, input_precision="ieee")

    sums /= tl.where(total == 0, 1.0, total)
    to = out + ((b * M + i) * H + h) * D + d
    tl.store(to, sums.to(element), mask=row if D == DIM else row & (d < D))


def tiles(M: int, keys: int, itemsize: int) -> dict[str, int]:
    """Sizes of a program: short sequences are packed, others in tiles that fit the registers."""
    exact = itemsize == 4  # no tensor cores: a thread keeps the rows that it multiplies
    packed = max(M, keys) <= 32 and not exact
    rows = 32 if exact else 64 if triton.cdiv(M, 64) % 2 else 128
    full = whole_blocks(keys, itemsize)
    return {
        "PAIRS": PACKED if packed else 1,
        "BLOCK_M": block(M, rows),
        "BLOCK": BLOCK,
        "TAIL": BLOCK if exact and full else block(keys - full, 64),
        "LOOP": full > 0,
        "RELOAD": exact,
        "STAGES": 1 if exact else 2,
    }


def whole_blocks(keys: int, itemsize: int) -> int:
    """Keys in all blocks but the last, which is not empty; none if all of them fit a tile."""
    return 0 if keys <= (32 if itemsize == 4 else 64) else (keys - 1) // BLOCK * BLOCK


def attention(
    q_BHMD: Tensor,
    k_BHND: Tensor,
    v_BHND: Tensor,
    null_kv_2HD: Tensor | None,
    q_scale_D: Tensor | None,
    k_scale_D: Tensor | None,
    lengths_B: Tensor | None,
) -> Tensor:
    q, k, v = map(dense_rows, (q_BHMD, k_BHND, v_BHND))
    (B, H, M, D), N = q.shape, k.shape[2]
    out = q.new_empty(B, M, H, D)
    if out.numel():  # an empty grid is an error
        keys = N + (null_kv_2HD is not None)
        size = tiles(M, keys, q.itemsize)
        n_tiles = triton.cdiv(M, size["BLOCK_M"])
        inputs = [q, k, v, *dense(null_kv_2HD, q_scale_D, k_scale_D, lengths_B)]
        sizes = *strides(q, k, v), B, H, M, N, n_tiles, whole_blocks(keys, q.itemsize)
        how = constants(D, null_kv_2HD, q_scale_D, lengths_B) | size | OPTIONS
        attention_kernel[triton.cdiv(B, size["PAIRS"]) * H * n_tiles,](*inputs, out, *sizes, **how)
    return out.transpose(1, 2)


def attention_backward(*args: Tensor | None) -> tuple[Tensor, ...]:
    return _attention_backward.attention_backward(*args, OPTIONS)


# Read by tests/test_triton_compile.py: kernel, argument types ({} is q's), constants, dtype.
SHIPPED = [
    (
        attention_kernel,
        INPUTS | {"out": "*{}"} | integers(*STRIDES, "B", "H", "M", "N", "n_tiles", "full"),
        wanted(D, null, norm, lengths) | tiles(M, M + null, itemsize),
        dtype,
    )
    for dtype, itemsize in (("fp32", 4), ("bf16", 2))
    for D, M, null, norm, lengths in (
        (64, 9, True, True, False),
        (64, 17, True, True, True),
        (32, 33, True, True, False),
        (64, 64, False, False, False),
        (64, 65, True, True, True),
        (64, 257, True, True, False),
    )
] + _attention_backward.SHIPPED
