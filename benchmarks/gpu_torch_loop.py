"""Iterative decoding as a user of PyTorch would make it fast: bfloat16, torch.compile, CUDA graphs.

The law of `tsgen.sampler` at temperature 1 without guidance, top-k or top-p. Every step computes
all positions, known or not, so that all steps have one shape and one graph; noise is torch's own,
and a token is the largest logit with Gumbel noise, which the compiler makes one kernel of.
"""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tsgen import dispatch
from tsgen.config import SamplingConfig
from tsgen.network import Network
from tsgen.ops.keep_confident import baseline as keep_confident
from tsgen.prior import Folded, Prior
from tsgen.request import Request
from tsgen.schedule import masked_plan


@contextlib.contextmanager
def plain_ops() -> Iterator[None]:
    """Every op by its baseline: no kernel of ours."""
    before, dispatch.FORCED = dispatch.FORCED, "torch"
    try:
        yield
    finally:
        dispatch.FORCED = before


class CompiledLoop:
    """Draws tokens of a network; `how` is what torch.compile gets."""

    def __init__(self, network: Network, how: dict[str, Any]) -> None:
        self.network = copy.deepcopy(network).to(torch.bfloat16)
        self.device = network.tokenizer.window_W.device
        with torch.no_grad(), plain_ops():
            self.folded = [prior.fold() for prior in self.network.each_prior()]
        # a function of each prior: a graph of one is not taken for that of another
        self.steps = [torch.compile(step_of(prior), **how) for prior in self.network.each_prior()]

    @torch.no_grad()
    def tokens(self, request: Request, settings: SamplingConfig) -> list[Tensor]:
        """Token ids of every band, (B, N) each."""
        class_B, ids = torch.from_numpy(request.class_B).to(self.device), []
        for band, prior in enumerate(self.network.each_prior()):
            with plain_ops():
                low = ids[0] if band else None
                ids.append(self.decoded(band, prior, settings, class_B, low))
        return ids

    def decoded(
        self,
        band: int,
        prior: Prior,
        settings: SamplingConfig,
        class_B: Tensor,
        low_BM: Tensor | None,
    ) -> Tensor:
        B, N, S = len(class_B), prior.n_tokens, settings.steps[band]
        context_BND = None if low_BM is None else prior.fold_context(low_BM)
        plan = masked_plan(settings.schedule, S, torch.tensor([N]))[0].to(self.device)
        noise = settings.choice_temperature[band] * (1 - np.arange(1, S + 1) / S)
        noise_S = torch.tensor(noise, dtype=torch.float32, device=self.device)
        ids_BN = torch.full((B, N), prior.n_codes, device=self.device)
        for t in range(S):
            torch.compiler.cudagraph_mark_step_begin()
            now = (plan[t : t + 1].expand(B).contiguous(), noise_S[t : t + 1])
            # a copy: the next replay writes over what this one returns
            ids_BN = self.steps[band](self.folded[band], ids_BN, class_B, context_BND, *now).clone()
        return ids_BN


def step_of(prior: Prior) -> Any:
    """One step of a band's loop."""

    def step(
        folded: Folded,
        ids_BN: Tensor,
        class_B: Tensor,
        context_BND: Tensor | None,
        n_masked_B: Tensor,
        noise_1: Tensor,
    ) -> Tensor:
        masked_BN = ids_BN == prior.n_codes
        h_BND = prior.transform(prior.assemble(folded, ids_BN, class_B, context_BND))
        logits_BNK = F.linear(h_BND, folded.head_KD, prior.head_bias).float()
        drawn_BN = (logits_BNK + gumbel(logits_BNK)).argmax(-1)
        logp_BN = logits_BNK.gather(-1, drawn_BN[..., None])[..., 0] - logits_BNK.logsumexp(-1)
        ids_BN = torch.where(masked_BN, drawn_BN, ids_BN)
        confidence_BN = logp_BN + noise_1 * gumbel(logp_BN)
        confidence_BN = torch.where(masked_BN, confidence_BN, torch.inf)
        again_BN = keep_confident(confidence_BN, n_masked_B)
        return torch.where(again_BN, prior.n_codes, ids_BN)

    return step


def gumbel(like: Tensor) -> Tensor:
    u = torch.rand_like(like).clamp(1e-7, 1 - 6e-8)
    return -(-u.log()).log()
