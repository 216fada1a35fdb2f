"""Nearest codeword, Triton: a tile of vectors against all codes, groups of codes at a time.

x·c - |c|²/2 is ranked. Of every group of codes only the maximum is looked at; the codes of the
group that won are compared once more, by distances computed directly.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

FEW_DIMS = 16  # up to which float32 vectors stay in registers; a dot would pad 8 numbers to 16
BLOCK_K = 64  # codes of a tile
FEW = {"BLOCK_N": 512, "GROUP": 16}  # 4 vectors a thread: a code is loaded once for all of them
GROUP = 4  # of the others, known to `place`: compared again for 14 % of 1024 products in 16 bits
PACKED = {"BLOCK_K": BLOCK_K, "BLOCK_D": 16}
CODES = 8  # of a program that sums vectors
SUMMED = 2048  # and the numbers that it adds at once
MOST_PARTS = 8  # that the vectors of one code are split into, at most
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}


@triton.jit
def place(k, GROUP: tl.constexpr):
    """Where code k lies among the packed ones.

    A thread holds 2 neighbouring columns of a product on tensor cores, and those 32 further on:
    with the 4 codes of a group there, their maximum needs no other thread.
    """
    if GROUP == 4:
        k = k // 64 * 64 + k % 4 // 2 * 32 + k // 4 % 16 * 2 + k % 2
    return k


@triton.jit
def pack_codes_kernel(
    codes,  # (K, D)
    packed,  # (K_pad, D_pad), these strides: finite codes, 0 for the others and around
    half_norm,  # (K_pad,) |c|² / 2, infinity for codes that are never chosen
    K,
    D,
    D_pad,
    stride_k,
    stride_d,
    GROUP: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    k = tl.program_id(0).to(tl.int64) * BLOCK_K + tl.arange(0, BLOCK_K)
    d = tl.arange(0, BLOCK_D)
    norm = tl.zeros([BLOCK_K], tl.float32)
    for d0 in range(0, D, BLOCK_D):
        mask = (k[:, None] < K) & (d0 + d[None, :] < D)
        c = tl.load(codes + k[:, None] * D + d0 + d[None, :], mask=mask, other=0.0)
        norm += tl.sum(c.to(tl.float32) * c.to(tl.float32), axis=1)
    usable = (norm < float("inf")) & (k < K)  # false for NaN
    to = place(k, GROUP)
    tl.store(half_norm + to, tl.where(usable, norm / 2, float("inf")))
    for d0 in range(0, D_pad, BLOCK_D):
        at = k[:, None] * D + d0 + d[None, :]
        c = tl.load(codes + at, mask=usable[:, None] & (d0 + d[None, :] < D), other=0.0)
        at = to[:, None] * stride_k + (d0 + d[None, :]).to(tl.int64) * stride_d
        tl.store(packed + at, c, mask=d0 + d[None, :] < D_pad)


@triton.jit
def nearest_few_kernel(
    x,  # (N, D)
    codes,  # (D, K_pad)
    half_norm,  # (K_pad,)
    ids,  # (N,) int64
    distance,  # (N,)
    N,
    K_pad,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    GROUP: tl.constexpr,
):
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    x_d = ()  # one [BLOCK_N] a dim, in registers
    finite = n < N
    for d in tl.static_range(D):
        x_d += (tl.load(x + n * D + d, mask=n < N, other=0.0),)
        finite &= tl.abs(x_d[d]) < float("inf")

    best = tl.full([BLOCK_N], float("-inf"), tl.float32)
    group = tl.zeros([BLOCK_N], tl.int32)
    for k0 in range(0, K_pad, GROUP):
        k = k0 + tl.arange(0, GROUP)
        score = tl.zeros([GROUP, BLOCK_N], tl.float32) - tl.load(half_norm + k)[:, None]
        at = codes + k
        for d in tl.static_range(D):
            score += tl.load(at)[:, None] * x_d[d][None, :]
            at += K_pad
        top = tl.max(score, axis=0)
        wins = top > best  # strict, so a tie keeps the lower group
        best = tl.where(wins, top, best)
        group = tl.where(wins, k0, group)

    nearest = tl.full([BLOCK_N], float("inf"), tl.float32)
    id = tl.full([BLOCK_N], K_pad, tl.int32)
    for i in range(GROUP):
        squares = tl.zeros([BLOCK_N], tl.float32)
        at = codes + group + i
        for d in tl.static_range(D):
            difference = x_d[d] - tl.load(at)
            squares += difference * difference
            at += K_pad
        usable = tl.load(half_norm + group + i) < float("inf")
        wins = usable & ((squares < nearest) | (id == K_pad))  # an overflow is a distance too
        nearest = tl.where(wins, squares, nearest)
        id = tl.where(wins, group + i, id)
    tl.store(ids + n, tl.where(finite & (id < K_pad), id, 0).to(tl.int64), mask=n < N)
    tl.store(distance + n, tl.where(finite, nearest, float("nan")), mask=n < N)


@triton.jit
def nearest_code_kernel(
    x,  # (N, D)
    codes,  # (K_pad, D_pad)
    half_norm,  # (K_pad,)
    ids,  # (N,) int64
    distance,  # (N,)
    N,
    K_pad,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    GROUPS: tl.constexpr = BLOCK_K // GROUP
    D_pad: tl.constexpr = tl.cdiv(D, BLOCK_D) * BLOCK_D
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_D)
    x_at = x + n[:, None] * D + d[None, :]
    inside = n[:, None] < N
    x_nd = tl.load(x_at, mask=inside & (d[None, :] < D), other=0.0)

    best = tl.full([BLOCK_N, GROUPS], float("-inf"), tl.float32)  # by place in a tile
    tile = tl.zeros([BLOCK_N, GROUPS], tl.int32)
    for k0 in range(0, K_pad, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        code_at = codes + k.to(tl.int64)[None, :] * D_pad + d[:, None]
        score = tl.zeros([BLOCK_N, BLOCK_K], tl.float32) - tl.load(half_norm + k)[None, :]
        if D <= BLOCK_D:
            score = tl.dot(x_nd, tl.load(code_at), score, input_precision="ieee")
        else:
            for d0 in range(0, D_pad, BLOCK_D):
                x_nd = tl.load(x_at + d0, mask=inside & (d0 + d[None, :] < D), other=0.0)
                score = tl.dot(x_nd, tl.load(code_at + d0), score, input_precision="ieee")
        score = tl.reshape(score, [BLOCK_N, 2, GROUPS, 2])  # as `place` has them
        top = tl.max(tl.max(score, axis=3), axis=1)
        wins = top > best  # strict, so a tie keeps the lower tile
        best = tl.where(wins, top, best)
        tile = tl.where(wins, k0, tile)

    first = tile + tl.arange(0, GROUPS)[None, :] * GROUP  # code of each group
    first = tl.min(tl.where(best == tl.max(best, axis=1)[:, None], first, K_pad), axis=1)
    nearest = tl.full([BLOCK_N], float("inf"), tl.float32)
    id = tl.full([BLOCK_N], K_pad, tl.int32)
    infinite = tl.zeros([BLOCK_N], tl.int32)
    for i in range(GROUP):
        at = place((first + i).to(tl.int64), GROUP)
        squares = tl.zeros([BLOCK_N], tl.float32)
        for d0 in range(0, D_pad, 16):
            few = d0 + tl.arange(0, 16)[None, :]
            exact = tl.load(x + n[:, None] * D + few, mask=inside & (few < D), other=0.0)
            exact = exact.to(tl.float32)
            c = tl.load(codes + at[:, None] * D_pad + few).to(tl.float32)
            squares += tl.sum((exact - c) * (exact - c), axis=1)
            infinite |= tl.max((tl.abs(exact) < float("inf")).to(tl.int32) ^ 1, axis=1)
        usable = tl.load(half_norm + at) < float("inf")
        wins = usable & ((squares < nearest) | (id == K_pad))
        nearest = tl.where(wins, squares, nearest)
        id = tl.where(wins, first + i, id)
    finite = infinite == 0
    tl.store(ids + n, tl.where(finite & (id < K_pad), id, 0).to(tl.int64), mask=n < N)
    tl.store(distance + n, tl.where(finite, nearest, float("nan")), mask=n < N)


@triton.jit
def sum_vectors_kernel(
    x,  # (N, D)
    order,  # (N,) int64, vectors by code
    starts,  # (K + 1,) int64, where the vectors of a code begin in `order`
    parts,  # (n_parts, K, D), sums over a part of the vectors of a code
    K,
    D,
    n_parts,
    CODES: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    tiles, groups = tl.cdiv(D, BLOCK_D), tl.cdiv(K, CODES)
    d = program % tiles * BLOCK_D + tl.arange(0, BLOCK_D)
    k = program // tiles % groups * CODES + tl.arange(0, CODES)
    part = program // tiles // groups
    begin = tl.load(starts + k, mask=k < K, other=0)
    end = tl.load(starts + k + 1, mask=k < K, other=0)
    size = (end - begin + n_parts - 1) // n_parts
    begin += part * size
    end = tl.minimum(end, begin + size)
    total = tl.zeros([CODES, ROWS, BLOCK_D], tl.float32)
    for i in range(0, tl.max(size, axis=0), ROWS):
        at = begin[:, None] + i + tl.arange(0, ROWS)[None, :]
        n = tl.load(order + at, mask=at < end[:, None], other=0)
        mask = (at < end[:, None])[:, :, None] & (d < D)[None, None, :]
        x_at = x + n[:, :, None] * D + d[None, None, :]
        total += tl.load(x_at, mask=mask, other=0.0).to(tl.float32)
    to = parts + (part * K + k[:, None]) * D + d[None, :]
    tl.store(to, tl.sum(total, axis=1), mask=(k[:, None] < K) & (d[None, :] < D))


def tile(D: int, itemsize: int) -> dict[str, int]:
    """Vectors, codes and dims of a tile: all of the dims, or 32 of more than 128 bytes."""
    dims = max(16, triton.next_power_of_2(D))
    dims = dims if dims * itemsize <= 128 else 32
    return {"BLOCK_D": dims, "BLOCK_N": 256 // itemsize, "BLOCK_K": BLOCK_K, "GROUP": GROUP}


def search(x_ND: Tensor, codes_KD: Tensor, ids_N: Tensor, distance_N: Tensor) -> None:
    (N, D), K = x_ND.shape, len(codes_KD)
    few = D <= FEW_DIMS and x_ND.dtype == torch.float32
    size = FEW if few else tile(D, x_ND.itemsize)
    K_pad = triton.cdiv(K, BLOCK_K) * BLOCK_K
    D_pad = D if few else triton.cdiv(D, size["BLOCK_D"]) * size["BLOCK_D"]
    packed = codes_KD.new_empty((D, K_pad) if few else (K_pad, D_pad))
    half_norm = codes_KD.new_empty(K_pad, dtype=torch.float32)
    sizes = K, D, D_pad, *((1, K_pad) if few else (D_pad, 1))
    how = {"GROUP": size["GROUP"], **PACKED, **OPTIONS}
    pack_codes_kernel[(K_pad // BLOCK_K,)](codes_KD, packed, half_norm, *sizes, **how)
    args = x_ND, packed, half_norm, ids_N, distance_N, N, K_pad
    kernel = nearest_few_kernel if few else nearest_code_kernel
    kernel[(triton.cdiv(N, size["BLOCK_N"]),)](*args, D, **size, **OPTIONS)


def statistics(x_ND: Tensor, ids_N: Tensor, distance_N: Tensor, K: int) -> tuple[Tensor, Tensor]:
    """How many vectors each code has, and their sums in an order that ids alone decide."""
    N, D = x_ND.shape
    # 2 bytes where they are enough: half the passes of a radix sort
    small = torch.int16 if K < 2**15 else torch.int32
    keys_N, order_N = ids_N.masked_fill(distance_N.isnan(), K).to(small).sort(stable=True)
    starts = torch.searchsorted(keys_N, torch.arange(K + 1, dtype=small, device=x_ND.device))
    n_parts = max(1, min(MOST_PARTS, N // (8 * K)))  # an eighth of x, at most
    parts = torch.empty(n_parts, K, D, device=x_ND.device)
    if parts.numel():
        block_d = min(128, triton.next_power_of_2(D))
        size = {"CODES": CODES, "ROWS": SUMMED // CODES // block_d, "BLOCK_D": block_d}
        grid = (triton.cdiv(D, block_d) * triton.cdiv(K, CODES) * n_parts,)
        sum_vectors_kernel[grid](x_ND, order_N, starts, parts, K, D, n_parts, **size, **OPTIONS)
    return starts.diff(), parts.sum(0)


def nearest_code(
    x_ND: Tensor, codes_KD: Tensor, stats: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x_ND, codes_KD = x_ND.contiguous(), codes_KD.contiguous()
    N, D = x_ND.shape
    ids_N = torch.empty(N, dtype=torch.int64, device=x_ND.device)
    distance_N = torch.empty(N, device=x_ND.device)
    if N:  # an empty grid is an error
        search(x_ND, codes_KD, ids_N, distance_N)
    if not stats:
        return ids_N, distance_N, ids_N.new_empty(0), distance_N.new_empty(0, D)
    return ids_N, distance_N, *statistics(x_ND, ids_N, distance_N, len(codes_KD))


# Read by tests/test_triton_compile.py: kernel, argument types ({} is x's), constants, and
# the only dtype of x if there is one.
RANKED = {"half_norm": "*fp32", "ids": "*i64", "distance": "*fp32", "N": "i32", "K_pad": "i32"}
SHIPPED = [
    *(
        (
            pack_codes_kernel,
            {"codes": "*{}", "packed": "*{}", "half_norm": "*fp32"}
            | dict.fromkeys(("K", "D", "D_pad", "stride_k", "stride_d"), "i32"),
            {"GROUP": group} | PACKED,
        )
        for group in (FEW["GROUP"], GROUP)
    ),
    *(
        (nearest_few_kernel, {"x": "*fp32", "codes": "*fp32"} | RANKED, {"D": D} | FEW)
        for D in (8, FEW_DIMS)
    ),
    *(
        (
            nearest_code_kernel,
            {"x": "*{}", "codes": "*{}"} | RANKED,
            {"D": D} | tile(D, itemsize),
            dtype,
        )
        for dtype, itemsize in (("fp32", 4), ("bf16", 2))
        for D in (8, 32, 64, 256)
        if dtype != "fp32" or D > FEW_DIMS
    ),
    *(
        (
            sum_vectors_kernel,
            {"x": "*{}", "order": "*i64", "starts": "*i64", "parts": "*fp32"}
            | dict.fromkeys(("K", "D", "n_parts"), "i32"),
            {"CODES": CODES, "ROWS": SUMMED // CODES // D, "BLOCK_D": D},
        )
        for D in (8, 128)
    ),
]
