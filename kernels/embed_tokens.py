"""Tables of tokens, places and classes added up, Triton: rows of several sequences a program."""

import triton
import triton.language as tl
from torch import Tensor

TILE = 2048  # numbers of a program
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}


@triton.jit(do_not_specialize=["B", "S"])
def embed_tokens_kernel(
    tokens,  # (K + 1, D)
    places,  # (N, D)
    classes,  # (G, D)
    ids,  # (B, N) int64
    class_ids,  # (S,) int64
    context,  # (B, N, D)
    x,  # (S, 1 + N, D)
    B,
    S,
    N,
    D: tl.constexpr,
    CONTEXT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    s, n = r // (N + 1), r % (N + 1) - 1
    row, is_class = s < S, n < 0
    at = s % B * N + n
    klass = tl.load(class_ids + s, mask=row & is_class, other=0)
    id = tl.load(ids + at, mask=row & (n >= 0), other=0)
    head = (row & is_class)[:, None] & (d < D)
    body = (row & (n >= 0))[:, None] & (d < D)
    # one of the two is 0
    sums = tl.load(classes + klass[:, None] * D + d, mask=head, other=0.0).to(tl.float32)
    sums += tl.load(tokens + id[:, None] * D + d, mask=body, other=0.0).to(tl.float32)
    sums += tl.load(places + n[:, None] * D + d, mask=body, other=0.0).to(tl.float32)
    if CONTEXT:
        sums += tl.load(context + at[:, None] * D + d, mask=body, other=0.0).to(tl.float32)
    tl.store(x + r[:, None] * D + d, sums.to(x.dtype.element_ty), mask=head | body)


def tile(D: int) -> dict[str, int]:
    block = min(1024, triton.next_power_of_2(D))
    return {"ROWS": TILE // block, "BLOCK": block}


def embed_tokens(
    tokens_KD: Tensor,
    places_ND: Tensor,
    classes_GD: Tensor,
    ids_BN: Tensor,
    class_S: Tensor,
    context_BND: Tensor | None,
) -> Tensor:
    (B, N), S, D = ids_BN.shape, len(class_S), tokens_KD.shape[1]
    x_SND = tokens_KD.new_empty(S, 1 + N, D)
    if x_SND.numel():  # an empty grid is an error
        inputs = (tokens_KD, places_ND, classes_GD, ids_BN, class_S, context_BND)
        dense = [None if t is None else t.contiguous() for t in inputs]
        size = tile(D)
        grid = triton.cdiv(S * (1 + N), size["ROWS"]), triton.cdiv(D, size["BLOCK"])
        how = {"CONTEXT": context_BND is not None, "D": D} | size | OPTIONS
        embed_tokens_kernel[grid](*dense, x_SND, B, S, N, **how)
    return x_SND


# Read by tests/test_triton_compile.py: kernel, argument types ({} is the tokens'), constants.
SHIPPED = [
    (
        embed_tokens_kernel,
        dict.fromkeys(("tokens", "places", "classes"), "*{}")
        | {"ids": "*i64", "class_ids": "*i64", "x": "*{}"}
        | ({"context": "*{}"} if context else {})
        | dict.fromkeys(("B", "S", "N"), "i32"),
        ({} if context else {"context": None}) | {"CONTEXT": context, "D": 128} | tile(128),
    )
    for context in (False, True)
]
