"""Iterative decoding in plain PyTorch, readable: what the other engines are held to.

What does not change between steps is computed once; the head and the last layer's queries run only
where a token is masked; the first step of a band without context has one input per class; nothing
but these savings sets it apart from the law in `tsgen.sampler`.
"""

import torch
from torch import Tensor

from tsgen import ops
from tsgen.config import SamplingConfig
from tsgen.errors import RunError
from tsgen.network import Network
from tsgen.prior import Folded, Prior, masked_positions
from tsgen.request import CHUNK, Request
from tsgen.schedule import masked_plan
from tsgen.spans import span


class TorchEngine:
    """Plain PyTorch, readable: what the other engines are held to."""

    needs_blocks = True  # PyTorch's products may sum in another order for another batch size
    at_once = CHUNK

    def __init__(self, network: Network) -> None:
        # not the network itself: engines are kept for as long as that is alive
        self.tokenizer, self.priors = network.tokenizer, list(network.each_prior())
        self.device = self.tokenizer.window_W.device
        with torch.no_grad():
            self.folded = [prior.fold() for prior in self.priors]

    @staticmethod
    def obstacle(network: Network) -> str | None:
        """Nothing but a network without tokens: it runs anywhere."""
        return "draws tokens, and a vae has none" if network.config.family == "vae" else None

    @torch.no_grad()
    def tokens(self, request: Request, settings: SamplingConfig) -> list[Tensor]:
        """Token ids of every band, (B, N) each."""
        index_B = torch.from_numpy(request.index_B).to(self.device)
        class_B = torch.from_numpy(request.class_B).to(self.device)
        ids: list[Tensor] = []
        for band, prior in enumerate(self.priors):
            known = request.known[band].to(self.device) if request.known else None
            low = ids[0] if band else None
            with span(f"prior band {band}"):
                decode = BandDecoder(
                    prior, self.folded[band], band, settings, request.seed, index_B, class_B, low
                )
                ids.append(decode.run(known))
        return ids

    def draw(self, request: Request, settings: SamplingConfig) -> tuple[list[Tensor], Tensor]:
        """Token ids of every band, and series (B, C, length), scaled as in training."""
        ids = self.tokens(request, settings)
        return ids, self.series(ids)

    @torch.no_grad()
    def series(self, ids: list[Tensor]) -> Tensor:
        """(B, C, length), scaled as in training."""
        with span("decoder"):
            return self.tokenizer.decode(ids)


class BandDecoder:
    """The loop over the steps of one band."""

    def __init__(
        self,
        prior: Prior,
        folded: Folded,
        band: int,
        settings: SamplingConfig,
        seed: int,
        index_B: Tensor,
        class_B: Tensor,
        low_BM: Tensor | None,
    ) -> None:
        self.prior, self.folded, self.band = prior, folded, band
        self.settings, self.seed = settings, seed
        self.index_B, self.class_B = index_B, class_B
        self.context_BND = None
        if low_BM is not None:
            with span("context"):
                self.context_BND = prior.fold_context(low_BM)
        self.guided = settings.guidance != 1 and prior.n_classes > 0
        self.invalid = torch.zeros((), dtype=torch.bool, device=index_B.device)

    def run(self, known_BN: Tensor | None) -> Tensor:
        """Ids of all positions; those known stay as they are."""
        prior, B = self.prior, len(self.index_B)
        # with nothing known all rows have one count and are packed; else every position is
        # computed, so that the shapes do not depend on what is known in other rows
        packed = known_BN is None
        if known_BN is None:
            known_BN = torch.full((B, prior.n_tokens), prior.n_codes, device=self.index_B.device)
        ids_BN, count = known_BN, prior.n_tokens
        steps = self.settings.steps[self.band]
        unknown_B = (known_BN == prior.n_codes).sum(1)
        plan_BS = masked_plan(self.settings.schedule, steps, unknown_B)
        for step in range(steps):
            masked_BN = ids_BN == prior.n_codes
            places_BM = masked_positions(masked_BN, count) if count < prior.n_tokens else None
            with span("transformer"):
                h_BMD = self.hidden(ids_BN, places_BM, first=packed and step == 0)
            with span("head and choice"):
                ids_BN = self.step(step, ids_BN, masked_BN, places_BM, h_BMD, plan_BS[:, step])
            if packed:
                count = int(plan_BS[0, step])
            if count == 0:
                break
        if self.invalid:
            raise RunError("model: wanted finite logits, got NaN or infinity; is it trained?")
        return ids_BN

    def hidden(self, ids_BN: Tensor, places_BM: Tensor | None, *, first: bool) -> Tensor:
        """The head's input at the places asked for, guidance included: the head is linear."""
        if first and self.context_BND is None:
            h_CND = self.once_a_class()
            h_BMD, none_BMD = h_CND[self.class_B], h_CND[-1:]
        elif self.guided:
            h_2BMD = self.transform(ids_BN, places_BM, (self.class_B, self.no_class()))
            h_BMD, none_BMD = h_2BMD.chunk(2)
        else:
            return self.transform(ids_BN, places_BM, (self.class_B,))
        if not self.guided:
            return h_BMD
        return none_BMD + self.settings.guidance * (h_BMD - none_BMD)

    def once_a_class(self) -> Tensor:
        """With everything masked and no context, a sample is its class: (n_classes + 1, N, D)."""
        prior = self.prior
        class_C = torch.arange(prior.n_classes + 1, device=self.index_B.device)
        ids_CN = torch.full((len(class_C), prior.n_tokens), prior.n_codes, device=class_C.device)
        return prior.transform(prior.assemble(self.folded, ids_CN, class_C, None))

    def no_class(self) -> Tensor:
        return torch.full_like(self.class_B, self.prior.n_classes)

    def transform(
        self, ids_BN: Tensor, places_BM: Tensor | None, classes: tuple[Tensor, ...]
    ) -> Tensor:
        """One pass for every entry of `classes`, all in one batch."""
        passes, context = len(classes), self.context_BND
        if context is not None:
            context = context.repeat(passes, 1, 1)
        ids = ids_BN.repeat(passes, 1)
        places = None if places_BM is None else places_BM.repeat(passes, 1)
        with span("embedding"):
            x = self.prior.assemble(self.folded, ids, torch.cat(classes), context)
        return self.prior.transform(x, places)

    def step(
        self,
        step: int,
        ids_BN: Tensor,
        masked_BN: Tensor,
        places_BM: Tensor | None,
        h_BMD: Tensor,
        n_masked_B: Tensor,
    ) -> Tensor:
        """Draw a token for every masked place, then mask the least confident ones again."""
        settings, prior = self.settings, self.prior
        words = ops.philox(self.seed, self.index_B, prior.n_tokens, step=step, band=self.band)
        u_BN, v_BN = ops.uniforms(words)
        drawn, logp = ops.sample_code(
            h_BMD.flatten(0, 1),
            (u_BN if places_BM is None else u_BN.gather(1, places_BM)).flatten(),
            self.folded.head_KD,
            prior.head_bias,
            temperature=settings.temperature,
            top_k=settings.top_k,
            top_p=settings.top_p,
        )
        drawn, logp = drawn.view(h_BMD.shape[:2]), logp.view(h_BMD.shape[:2])
        if places_BM is not None:
            drawn = ids_BN.scatter(1, places_BM, drawn)
            logp = torch.zeros_like(v_BN, dtype=logp.dtype).scatter(1, places_BM, logp)
        ids_BN = torch.where(masked_BN, drawn, ids_BN)
        self.invalid = self.invalid | ~logp.isfinite().all()  # looked at once, at the end
        noise = settings.choice_temperature[self.band] * (
            1 - (step + 1) / settings.steps[self.band]
        )
        # float64, so that equal float32 log-probabilities differ by their noise
        confidence_BN = logp.double() - noise * (-v_BN.log()).log()
        confidence_BN = torch.where(masked_BN, confidence_BN, torch.inf)
        again_BN = ops.keep_confident(confidence_BN, n_masked_B)
        return torch.where(again_BN, prior.n_codes, ids_BN)
