"""Draw one code per row, Triton: a tile of rows against the codes, a tile of these at a time.

Of a tile of codes only its sum of weights is kept. These are searched for the tile that u falls
into, whose logits are then computed once more; where one tile holds all codes, they are at hand.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

LOWEST = tl.constexpr(-3.4028235e38)  # below every logit, yet what it is taken from stays no NaN
SMALLEST = 1.2e-38  # of 1 / temperature, normal in float32
OPTIONS = {"num_warps": 8, "enable_fp_fusion": True}


@triton.jit
def rows_of(h, r, d, R, D, stride_r, stride_d):
    at = h + r[:, None] * stride_r + d.to(tl.int64)[None, :] * stride_d
    return tl.load(at, mask=(r[:, None] < R) & (d[None, :] < D), other=0.0)


@triton.jit
def logits_of(source, k, K, HEAD: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Logits of the source's rows and codes k, in float32 and -inf behind the last code."""
    h, weight, bias, x, r, R, stride_r, stride_d = source
    if HEAD:
        d = tl.arange(0, BLOCK_D)
        weight_at = weight + k.to(tl.int64)[None, :] * D + d[:, None]
        known = k[None, :] < K
        l = tl.load(bias + k, mask=k < K, other=0.0).to(tl.float32)[None, :]
        l = tl.broadcast_to(l, [r.shape[0], k.shape[0]])
        if D <= BLOCK_D:
            w = tl.load(weight_at, mask=known & (d[:, None] < D), other=0.0)
            l = tl.dot(x, w, l, input_precision="ieee")
        else:
            for d0 in range(0, D, BLOCK_D):
                part = rows_of(h, r, d0 + d, R, D, stride_r, stride_d)
                w = tl.load(weight_at + d0, mask=known & (d0 + d[:, None] < D), other=0.0)
                l = tl.dot(part, w, l, input_precision="ieee")
    else:
        l = rows_of(h, r, k, R, K, stride_r, stride_d).to(tl.float32)
    return tl.where(k[None, :] < K, l, float("-inf"))


@triton.jit
def weigh(l, top, inverse, SAME: tl.constexpr):
    """Weights in the draw, of the likeliest code 1."""
    l -= top
    if not SAME:
        l *= inverse
    return tl.exp(l)


@triton.jit
def logit_at(place):
    """The logits in order, by 32-bit integers; what would be NaN below them is -inf."""
    place = tl.maximum(place, 0x007FFFFF)
    # negative numbers have all bits turned round; others the sign bit alone
    bits = tl.where(place >> 31 == 1, place ^ 0x80000000, ~place)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def amount_from(
    least, floor, l, top, inverse, source, K,
    COUNT: tl.constexpr, SAME: tl.constexpr, HEAD: tl.constexpr, D: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, ONE: tl.constexpr,
):  # fmt: skip
    """How many codes have `least` and more than `floor`, or what they weigh: float32 [ROWS]."""
    amount = tl.zeros(least.shape, tl.float32)
    for k0 in range(0, K, BLOCK_K):
        here = l if ONE else logits_of(source, k0 + tl.arange(0, BLOCK_K), K, HEAD, D, BLOCK_D)
        w = 1.0 if COUNT else weigh(here, top[:, None], inverse, SAME)
        enough = (here >= least[:, None]) & (here > floor[:, None])
        amount += tl.sum(tl.where(enough, w, 0.0), axis=1)
    return amount


@triton.jit
def kept_of(l, bound, n_equal, seen):
    """Which codes are above the bound, or at it and among the first n_equal of these.

    seen: how many are at it in the tiles before
    """
    equal = (l == bound[:, None]).to(tl.int32)
    rank = seen[:, None] + tl.cumsum(equal, axis=1) - equal
    return (l > bound[:, None]) | ((equal == 1) & (rank.to(tl.float32) < n_equal[:, None]))


@triton.jit(do_not_specialize=["R"])
def sample_code_kernel(
    h,  # (R, D) with HEAD, else logits (R, K); these strides
    u,  # (R,) float64
    weight,  # (K, D)
    bias,  # (K,)
    ids,  # (R,) int64
    logp,  # (R,)
    R,
    K,
    stride_r,
    stride_d,
    inverse,  # of the temperature
    top_k,
    top_p,
    HEAD: tl.constexpr,
    D: tl.constexpr,
    GREEDY: tl.constexpr,
    SAME: tl.constexpr,  # the temperature is 1
    TOP_K: tl.constexpr,
    TOP_P: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    TILES: tl.constexpr,
):
    ONE: tl.constexpr = TILES == 1
    CUT: tl.constexpr = TOP_K or TOP_P
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    j = tl.arange(0, BLOCK_K)
    t = tl.arange(0, TILES)[None, :]
    x = r  # not looked at
    if HEAD and D <= BLOCK_D:
        x = rows_of(h, r, tl.arange(0, BLOCK_D), R, D, stride_r, stride_d)
    source = (h, weight, bias, x, r, R, stride_r, stride_d)
    l = logits_of(source, j, K, HEAD, D, BLOCK_D) if ONE else j  # then not looked at

    # The largest logit and its tile, the sum at temperature 1, and the weight of each tile.
    top = tl.full([ROWS], LOWEST, tl.float32)
    tile = tl.zeros([ROWS], tl.int32)
    total = tl.zeros([ROWS], tl.float32)
    sums = tl.zeros([ROWS, TILES], tl.float32)
    for k0 in range(0, K, BLOCK_K):
        here = l if ONE else logits_of(source, k0 + j, K, HEAD, D, BLOCK_D)
        higher = tl.maximum(top, tl.max(here, axis=1))
        tile = tl.where(higher > top, k0 // BLOCK_K, tile)  # strict: a tie keeps the lower one
        uncut = tl.sum(weigh(here, higher[:, None], inverse, True), axis=1)
        before = tl.where(top == LOWEST, higher, top)  # no sum yet, and no overflow
        total = total * weigh(before, higher, inverse, True) + uncut
        if not (GREEDY or CUT):
            if not SAME:
                uncut = tl.sum(weigh(here, higher[:, None], inverse, False), axis=1)
            sums *= weigh(before, higher, inverse, SAME)[:, None]
            sums = tl.where(t == k0 // BLOCK_K, uncut[:, None], sums)
        top = higher

    bound = tl.full([ROWS], float("-inf"), tl.float32)
    n_equal = tl.zeros([ROWS], tl.float32)
    if TOP_K:  # the largest logit that top_k codes have, bit by bit
        place, bit = tl.zeros([ROWS], tl.uint32), tl.full([ROWS], 0x80000000, tl.uint32)
        for _ in range(32):
            n = amount_from(
                logit_at(place | bit), bound, l, top, inverse, source, K,
                True, SAME, HEAD, D, BLOCK_K, BLOCK_D, ONE,
            )  # fmt: skip
            place = tl.where(n >= top_k, place | bit, place)
            bit >>= 1
        bound = logit_at(place)
        n_equal = top_k - amount_from(
            bound, bound, l, top, inverse, source, K, True, SAME, HEAD, D, BLOCK_K, BLOCK_D, ONE
        )
    if TOP_P:  # the largest logit from which on what is left weighs enough
        floor = bound
        at_floor = n_equal * weigh(floor, top, inverse, SAME)
        enough = amount_from(
            floor, floor, l, top, inverse, source, K, False, SAME, HEAD, D, BLOCK_K, BLOCK_D, ONE
        )
        enough = top_p * (enough + at_floor)
        place, bit = tl.zeros([ROWS], tl.uint32), tl.full([ROWS], 0x80000000, tl.uint32)
        for _ in range(32):
            least = logit_at(place | bit)
            w = amount_from(
                least, floor, l, top, inverse, source, K,
                False, SAME, HEAD, D, BLOCK_K, BLOCK_D, ONE,
            )  # fmt: skip
            w += tl.where(least <= floor, at_floor, 0.0)
            place = tl.where(w >= enough, place | bit, place)
            bit >>= 1
        bound = logit_at(place)
        above = amount_from(
            bound, bound, l, top, inverse, source, K, False, SAME, HEAD, D, BLOCK_K, BLOCK_D, ONE
        )
        # a code stays if what is likelier, or as likely and before it, weighs less than enough
        n = tl.ceil((enough - above) / weigh(bound, top, inverse, SAME))
        n_equal = tl.where((bound == floor) & (n_equal < n), n_equal, n)
    seen = tl.zeros([ROWS], tl.int32)
    if CUT and not ONE:
        for k0 in range(0, K, BLOCK_K):
            here = logits_of(source, k0 + j, K, HEAD, D, BLOCK_D)
            kept = kept_of(here, bound, n_equal, seen)
            w = tl.where(kept, weigh(here, top[:, None], inverse, SAME), 0.0)
            sums = tl.where(t == k0 // BLOCK_K, tl.sum(w, axis=1)[:, None], sums)
            seen += tl.sum((here == bound[:, None]).to(tl.int32), axis=1)

    # The tile that u falls into, and its logits.
    u_r = tl.load(u + r, mask=r < R, other=0.5)
    rest = u_r
    if not (ONE or GREEDY):
        cumulative = tl.cumsum(sums.to(tl.float64), axis=1)
        rest = u_r * tl.max(cumulative, axis=1)
        tile = tl.sum((cumulative <= rest[:, None]).to(tl.int32), axis=1)
        # where rounding leads beyond the last tile with any weight
        tile = tl.minimum(tile, tl.max(tl.where(sums > 0, t, 0), axis=1))
        rest -= tl.sum(tl.where(t < tile[:, None], sums, 0.0).to(tl.float64), axis=1)
    if not ONE:
        if HEAD or CUT:  # all again: gathered weights would be read for every row
            l = tl.full([ROWS, BLOCK_K], float("-inf"), tl.float32)
            so_far = tl.zeros([ROWS], tl.int32)
            for k0 in range(0, K, BLOCK_K):
                here = logits_of(source, k0 + j, K, HEAD, D, BLOCK_D)
                l = tl.where((tile == k0 // BLOCK_K)[:, None], here, l)
                if CUT:
                    seen = tl.where(tile == k0 // BLOCK_K, so_far, seen)
                    so_far += tl.sum((here == bound[:, None]).to(tl.int32), axis=1)
        else:
            k = tile[:, None] * BLOCK_K + j[None, :]
            at = h + r[:, None] * stride_r + k.to(tl.int64) * stride_d
            l = tl.load(at, mask=(r[:, None] < R) & (k < K), other=float("-inf")).to(tl.float32)

    if GREEDY:
        hit = l == tl.max(l, axis=1)[:, None]
    else:
        w = weigh(l, top[:, None], inverse, SAME)
        if CUT:
            w = tl.where(kept_of(l, bound, n_equal, seen), w, 0.0)
        cumulative = tl.cumsum(w.to(tl.float64), axis=1)  # in float32, u would lose bits
        if ONE:
            rest *= tl.max(cumulative, axis=1)
        hit = (cumulative > rest[:, None]) & (w > 0)
        # the sum of the tile may have been rounded up: then its last code with any weight
        last = tl.max(tl.where(w > 0, j[None, :], 0), axis=1)
        hit |= j[None, :] == last[:, None]
    place = tl.min(tl.where(hit, j[None, :], BLOCK_K - 1), axis=1)
    drawn = tl.sum(tl.where(j[None, :] == place[:, None], l, 0.0), axis=1)
    valid = (total > 0) & (total < float("inf"))  # neither where there is a NaN
    id = tl.where(valid, tile * BLOCK_K + place, 0)
    tl.store(ids + r, id.to(tl.int64), mask=r < R)
    drawn -= top + tl.log(tl.where(valid, total, 1.0))
    tl.store(logp + r, tl.where(valid, drawn, float("nan")), mask=r < R)


def tile(K: int, D: int, itemsize: int, head: bool, cut: bool) -> dict[str, int]:
    """Rows, codes and dims of a tile, and the tiles of codes, as a power of two."""
    codes, dims = (triton.next_power_of_2(max(16, n)) for n in (K, D))
    if not head:  # rows of up to 4096 logits stay in registers
        codes = codes if codes <= 4096 else 1024
        size = {"ROWS": 4096 // codes, "BLOCK_K": codes, "BLOCK_D": 16}
    elif cut:  # looks at every code up to 67 times: fewer rows, so that theirs stay in registers
        size = {"ROWS": 16, "BLOCK_K": min(codes, 128), "BLOCK_D": 16}
    elif itemsize == 2:  # all dims if they fit into shared memory
        dims = dims if dims <= 128 else 32
        size = {"ROWS": 64, "BLOCK_K": min(codes, 128), "BLOCK_D": dims}
    else:  # products without tensor cores need registers, and more than 64 tiles of codes do
        rows, most = (32, 64) if codes <= 4096 else (16, 256)
        size = {"ROWS": rows, "BLOCK_K": min(codes, most), "BLOCK_D": 16}
    return size | {"TILES": triton.next_power_of_2(triton.cdiv(K, size["BLOCK_K"]))}


def sample_code(
    h_RD: Tensor,
    u_R: Tensor,
    weight_KD: Tensor | None,
    bias_K: Tensor | None,
    temperature: float,
    top_k: int,
    top_p: float,
) -> tuple[Tensor, Tensor]:
    head, R, D = weight_KD is not None, *h_RD.shape
    if weight_KD is not None:
        weight_KD = weight_KD.to(h_RD.dtype).contiguous()
        K = len(weight_KD)
        bias_K = torch.zeros(K, device=h_RD.device) if bias_K is None else bias_K.contiguous()
    else:
        K, D = D, 0
    ids_R = torch.empty(R, dtype=torch.int64, device=h_RD.device)
    logp_R = torch.empty(R, device=h_RD.device)
    greedy = temperature == 0
    cut = {"TOP_K": not greedy and 0 < top_k < K, "TOP_P": not greedy and top_p < 1}
    size = tile(K, D, h_RD.itemsize, head, any(cut.values()))
    how = {"HEAD": head, "D": D, "GREEDY": greedy, "SAME": greedy or temperature == 1} | cut
    inverse = 1.0 if greedy else max(1 / temperature, SMALLEST)
    if R:  # an empty grid is an error
        sample_code_kernel[(triton.cdiv(R, size["ROWS"]),)](
            *(h_RD, u_R.contiguous(), weight_KD, bias_K, ids_R, logp_R),
            *(R, K, *h_RD.stride(), inverse, float(top_k), top_p),
            **how,
            **size,
            **OPTIONS,
        )
    return ids_R, logp_R


# Read by tests/test_triton_compile.py: kernel, argument types ({} is h's), constants, and the only
# dtype of h if there is one.
TYPES = {"h": "*{}", "u": "*fp64", "ids": "*i64", "logp": "*fp32"}
TYPES |= dict.fromkeys(("R", "K", "stride_r"), "i32")
TYPES |= dict.fromkeys(("inverse", "top_k", "top_p"), "fp32")
CONSTANT = {"stride_d": 1, "GREEDY": False, "SAME": True, "TOP_K": False, "TOP_P": False}
HEAD = {"weight": "*{}", "bias": "*{}"}
SHIPPED = [
    (
        sample_code_kernel,
        TYPES | (HEAD if D else {}),
        ({} if D else dict.fromkeys(HEAD))
        | CONSTANT
        | {"HEAD": D > 0, "D": D}
        | tile(K, D, itemsize, D > 0, "TOP_K" in how or "TOP_P" in how)
        | how,
        dtype,
    )
    for dtype, itemsize in (("fp32", 4), ("bf16", 2))
    for K, D, how in (
        (32, 32, {}),
        (1024, 128, {}),
        (1024, 128, {"SAME": False}),
        (1024, 128, {"GREEDY": True}),
        (1024, 128, {"TOP_K": True, "TOP_P": True, "SAME": False}),
        (8192, 256, {}),
        (1024, 0, {}),
        (4096, 0, {"TOP_K": True, "TOP_P": True, "SAME": False}),
        (8192, 0, {}),
        (8192, 0, {"TOP_K": True}),
    )
]
