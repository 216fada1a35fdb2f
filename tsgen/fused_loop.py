"""Iterative decoding of one band by fused kernels: what a CUDA graph captures."""

import torch
from torch import Tensor

from tsgen import ops, persistent
from tsgen.config import SamplingConfig
from tsgen.fused import FusedPrior
from tsgen.schedule import masked_counts


class FusedLoop:
    """The loop over the steps of one band."""

    def __init__(
        self,
        prior: FusedPrior,
        band: int,
        settings: SamplingConfig,
        where: tuple[Tensor, Tensor],
        class_B: Tensor,
        low_BM: Tensor | None = None,
    ) -> None:
        """where: seed and absolute index of every sample, (B,) each."""
        self.prior, self.band, self.settings, self.where = prior, band, settings, where
        self.guided = settings.guidance != 1 and prior.n_classes > 0
        self.class_B = self.class_S = class_B
        if self.guided:
            self.class_S = torch.cat([class_B, torch.full_like(class_B, prior.n_classes)])
        self.start_S1 = prior.starts(len(self.class_S))
        self.context_BND = None
        if prior.context is not None and low_BM is not None:
            self.context_BND = prior.context(low_BM)

    def run(self, known: tuple[Tensor, Tensor] | None, invalid_B: Tensor) -> tuple[Tensor, Tensor]:
        """Ids of all positions, and whether any draw was invalid.

        known:  ids (B, N), those given stay; and how many are masked after each step (B, S)
        """
        prior, (schedule, steps) = self.prior, (self.settings.schedule, self.settings.steps)
        if prior.by_one_kernel(self.settings, self.band, known=known is not None):
            how = self.band, self.settings, self.where, self.class_B, self.context_BND
            ids_BN, wrong_B = persistent.decode(prior, *how)
            return ids_BN, invalid_B | wrong_B
        B, N, K = len(self.class_B), prior.n_tokens, prior.n_codes
        places_BM = torch.arange(N, device=invalid_B.device).expand(B, N)
        # with nothing known all rows have one count, and only what is masked is computed; else
        # every position is
        packed = known is None
        if known is None:
            ids_BN = torch.full_like(places_BM, K)
            n_masked_SB = prior.counts(schedule, steps[self.band])[:, None].expand(-1, B)
        else:
            ids_BN, n_masked_SB = known[0], known[1].T.contiguous()
        left = masked_counts(schedule, len(n_masked_SB), N)
        for step, n_masked_B in enumerate(n_masked_SB):
            u_BM, v_BM = ops.draw_uniforms(*self.where, places_BM, step=step, band=self.band)
            h_BMD = self.hidden(ids_BN, places_BM, first=packed and step == 0)
            drawn_BM, logp_BM = self.choose(h_BMD, u_BM)
            out = ops.remask_tokens(
                *(ids_BN, drawn_BM, logp_BM, v_BM, n_masked_B, invalid_B),
                mask_id=K,
                noise=self.noise(step),
                n_places=left[step] if packed else 0,
            )
            ids_BN, invalid_B = out.ids_BN, out.invalid_B
            if packed:
                places_BM = out.places_BP
                if left[step] == 0:
                    break
        return ids_BN, invalid_B

    def noise(self, step: int) -> float:
        """Weight of the noise on the confidence."""
        share = 1 - (step + 1) / self.settings.steps[self.band]
        return self.settings.choice_temperature[self.band] * share

    def hidden(self, ids_BN: Tensor, places_BM: Tensor, *, first: bool) -> Tensor:
        """The head's input at the places asked for, guidance included: the head is linear."""
        prior, B = self.prior, len(ids_BN)
        if first and prior.first_CND is not None:
            h_SMD = prior.first_CND[self.class_S]
        else:
            places_SM = torch.cat([places_BM, places_BM]) if self.guided else places_BM
            rows_SM = self.start_S1 + places_SM
            h_SMD = prior.hidden(ids_BN, self.class_S, rows_SM, self.context_BND)
        if not self.guided:
            return h_SMD
        return torch.lerp(h_SMD[B:], h_SMD[:B], self.settings.guidance)

    def choose(self, h_BMD: Tensor, u_BM: Tensor) -> tuple[Tensor, Tensor]:
        """A token for every place, and its log-probability."""
        drawn, logp = ops.sample_code(
            h_BMD.flatten(0, 1),
            u_BM.flatten(),
            self.prior.head_KD,
            self.prior.head_bias_K,
            temperature=self.settings.temperature,
            top_k=self.settings.top_k,
            top_p=self.settings.top_p,
        )
        return drawn.view(u_BM.shape), logp.view(u_BM.shape)
