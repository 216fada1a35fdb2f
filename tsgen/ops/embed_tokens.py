"""What a transformer's blocks get: tables of tokens, places and classes, and a context, added up.

    x[s, 0] = classes[class[s]]
    x[s, 1 + n] = tokens[ids[b, n]] + places[n] + context[b, n]          b = s mod B

S sequences, of which B differ in their tokens: guidance wants each with and without its class.
N places, D width, K + 1 tokens with [MASK], G classes with none.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from tsgen import dispatch
from tsgen.errors import bad_value
from tsgen.ops.stft import compute_dtype, relative_error


def embed_tokens(
    tokens_KD: Tensor,
    places_ND: Tensor,
    classes_GD: Tensor,
    ids_BN: Tensor,
    class_S: Tensor,
    context_BND: Tensor | None = None,
    *,
    backend: str | None = None,
) -> Tensor:
    """Add up what stands at every place. Not differentiable.

    tokens_KD:    (K + 1, D) float; places_ND (N, D) and classes_GD (G, D) of any float dtype
    ids_BN:       (B, N) int64 in [0, K]; B at least 1 where S is
    class_S:      (S,) int64 in [0, G); S a multiple of B
    context_BND:  (B, N, D) float
    returns:      (S, 1 + N, D), in the dtype of the tokens; added up in float32, or in float64
    raises:       ArgumentError for shapes that do not fit
    """
    args = (tokens_KD, places_ND, classes_GD, ids_BN, class_S, context_BND)
    check(*args)
    out = dispatch.call("embed_tokens", baseline, *args, backend=backend, like=tokens_KD)
    return cast(Tensor, out)


def _fake(
    tokens_KD: Tensor,
    places_ND: Tensor,
    classes_GD: Tensor,
    ids_BN: Tensor,
    class_S: Tensor,
    context_BND: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    return tokens_KD.new_empty(len(class_S), 1 + ids_BN.shape[1], tokens_KD.shape[1])


dispatch.register(
    "embed_tokens(Tensor tokens, Tensor places, Tensor classes, Tensor ids, Tensor class_ids,"
    " Tensor? context, *, str? backend=None) -> Tensor",
    fake=_fake,
)


def check(
    tokens_KD: Tensor,
    places_ND: Tensor,
    classes_GD: Tensor,
    ids_BN: Tensor,
    class_S: Tensor,
    context_BND: Tensor | None,
) -> None:
    """Everything a backend may rely on."""
    tables = {"tokens": tokens_KD, "places": places_ND, "classes": classes_GD}
    D = tokens_KD.shape[-1]
    for name, table in tables.items():
        if table.dim() != 2 or table.shape[1] != D:
            raise bad_value(name, f"(..., {D}) in two dims", tuple(table.shape))
    if ids_BN.dim() != 2 or class_S.dim() != 1 or len(class_S) % max(1, len(ids_BN)):
        got = f"{tuple(ids_BN.shape)} and {tuple(class_S.shape)}"
        raise bad_value("ids, class", "(B, N) and (S,), S a multiple of B", got)
    if len(places_ND) != ids_BN.shape[1]:
        raise bad_value("places", f"({ids_BN.shape[1]}, {D})", tuple(places_ND.shape))
    if context_BND is not None and context_BND.shape != (*ids_BN.shape, D):
        raise bad_value("context", str((*ids_BN.shape, D)), tuple(context_BND.shape))


def reference(
    tokens_KD: Tensor,
    places_ND: Tensor,
    classes_GD: Tensor,
    ids_BN: Tensor,
    class_S: Tensor,
    context_BND: Tensor | None,
) -> Tensor:
    """The definition, for tests: place by place. Never optimise this."""
    B, N = ids_BN.shape
    out = tokens_KD.new_empty(len(class_S), 1 + N, tokens_KD.shape[1])
    for s, klass in enumerate(class_S.tolist()):
        out[s, 0] = classes_GD[klass]
        for n in range(N):
            x_D = tokens_KD[ids_BN[s % B, n]] + places_ND[n]
            out[s, 1 + n] = x_D if context_BND is None else x_D + context_BND[s % B, n]
    return out


def baseline(
    tokens_KD: Tensor,
    places_ND: Tensor,
    classes_GD: Tensor,
    ids_BN: Tensor,
    class_S: Tensor,
    context_BND: Tensor | None,
) -> Tensor:
    """PyTorch's embeddings, one after the other."""
    wide = compute_dtype(tokens_KD)
    x_BND = F.embedding(ids_BN, tokens_KD).to(wide) + places_ND
    if context_BND is not None:
        x_BND = x_BND + context_BND
    x_SND = x_BND.repeat(len(class_S) // max(1, len(ids_BN)), 1, 1)
    x_S1D = F.embedding(class_S, classes_GD)[:, None].to(wide)
    return torch.cat([x_S1D, x_SND], 1).to(tokens_KD.dtype)


# Read by tests/test_ops.py and benchmarks.

TEST_SHAPES = [  # (B, N, D, passes, context)
    (0, 3, 8, 1, False),
    (1, 1, 1, 1, False),
    (3, 5, 8, 2, True),
    (7, 16, 33, 1, True),
    (2, 65, 128, 2, False),
]
BENCH_SHAPES = [(256, 64, 128, 1, False), (256, 64, 128, 2, True)]
GPU_SHAPES = [(100_000, 64, 128, 1, False), (256, 64, 128, 1, False)]
TOLERANCE = {torch.float64: 0.0, torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}
DIFFERENTIABLE = ()

Shape = tuple[int, int, int, int, bool]


def make_inputs(shape: Shape, device: str, dtype: torch.dtype, seed: int = 0) -> tuple[Any, ...]:
    B, N, D, passes, context = shape
    rng = torch.Generator().manual_seed(seed)
    K, G = 20, 4

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=rng).to(device, dtype)

    tables = normal(K + 1, D), normal(N, D), normal(G, D)
    ids_BN = torch.randint(0, K + 1, (B, N), generator=rng).to(device)
    class_S = torch.randint(0, G, (passes * B,), generator=rng).to(device)
    return *tables, ids_BN, class_S, normal(B, N, D) if context else None


def error(out: Tensor, ref: Tensor, *inputs: object) -> float:
    """Largest difference, relative to the largest value."""
    return relative_error(out, ref)


def bytes_moved(shape: Shape, dtype: torch.dtype) -> int:
    """The least traffic possible: read ids and context once, write x once."""
    B, N, D, passes, context = shape
    written = passes * B * (1 + N) * D
    return (written + context * B * N * D) * dtype.itemsize + 8 * B * (N + passes)
