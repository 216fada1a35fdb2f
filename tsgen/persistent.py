"""One band's decoding loop in one CUDA kernel, see csrc/cuda/_decode.cu: all steps, all layers.

A group of sequences stays on one multiprocessor from the first step to the last; nothing but their
ids leaves it. The law is that of `tsgen.sampler`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tsgen import dispatch, native, native_tokens
from tsgen.config import SamplingConfig
from tsgen.schedule import masked_counts

if TYPE_CHECKING:
    from tsgen.fused import FusedPrior

MOST_LAYERS, MOST_STEPS = 16, 64  # as csrc/cuda/decode.h has them


def obstacle(prior: FusedPrior, settings: SamplingConfig, band: int) -> str | None:
    """Why the kernel cannot decode so, or None if it can."""
    like, layers = prior.head_KD, [block.weights for block in prior.blocks]
    # it is no op of the table, but is built and runs where this one of its parts does
    if why := dispatch.obstacle("transformer_block", "cuda", like.device.type, like.dtype):
        return why
    if settings.top_k or settings.top_p < 1 or settings.temperature == 0:
        return "knows no top_k, no top_p and no temperature of 0"
    if len(layers) > MOST_LAYERS or settings.steps[band] > MOST_STEPS:
        return f"takes {MOST_LAYERS} layers and {MOST_STEPS} steps at most"
    D, (_, H, Dh), F = prior.head_KD.shape[1], layers[0].null_kv_2HC.shape, len(layers[0].up_FD)
    if why := native_tokens.transformer_block_obstacle(
        like.device, 1 + prior.n_tokens, D, H, Dh, F
    ):
        return f"cannot take {why}"
    part = native.kernels("cuda")
    if part.decode_shared(sizes_of(prior, settings, band)) > part.most_shared(
        like.device.index or 0
    ):
        return f"cannot hold {prior.n_tokens} tokens of {prior.n_codes} codes in shared memory"
    return None


def sizes_of(prior: FusedPrior, settings: SamplingConfig, band: int) -> dict[str, float]:
    """DecodeSizes of csrc/cuda/decode.h."""
    w = prior.blocks[0].weights
    _, H, Dh = w.null_kv_2HC.shape
    return {
        "T": 1 + prior.n_tokens,
        "D": prior.head_KD.shape[1],
        "H": H,
        "Dh": Dh,
        "F": len(w.up_FD),
        "down_stride": w.down_DF.stride(0),
        "eps": prior.eps,
        "N": prior.n_tokens,
        "K": prior.n_codes,
        "n_layers": len(prior.blocks),
        "n_classes": prior.n_classes,
        "band": band,
        "guided": settings.guidance != 1 and prior.n_classes > 0,
        "guidance": settings.guidance,
        "sharpness": 1 / (math.log(2) * settings.temperature or 1),
    }


def decode(
    prior: FusedPrior,
    band: int,
    settings: SamplingConfig,
    where: tuple[Tensor, Tensor],
    class_B: Tensor,
    context_BND: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Ids (B, N), and whether a draw of each sequence had no law (B,).

    where:  seed and absolute index of every sample, (B,) each
    """
    steps, N = settings.steps[band], prior.n_tokens
    ids_BN = torch.empty(len(class_B), N, dtype=torch.int64, device=class_B.device)
    invalid_B = torch.zeros_like(class_B, dtype=torch.bool)
    shares = [1 - (step + 1) / steps for step in range(steps)]
    noise = [settings.choice_temperature[band] * share for share in shares]
    tables = [prior.tables[0], prior.first_CND, prior.head_in, prior.head_KD, *prior.tables[1:]]
    tables += [prior.head_in_bias, *prior.head_norm, prior.head_bias_K]
    given = [t.contiguous() for t in (*where, class_B)]
    context = None if context_BND is None else context_BND.contiguous()
    native.kernels("cuda").decode(
        *native.launch_of(prior.head_KD),
        [native.addresses(block.weights) for block in prior.blocks],
        native.addresses(tables),
        native.addresses([*given, context, ids_BN, invalid_B]),
        len(class_B),
        sizes_of(prior, settings, band),
        masked_counts(settings.schedule, steps, N),
        noise,
    )
    return ids_BN, invalid_B
