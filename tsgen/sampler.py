"""Iterative decoding: all tokens masked at first, the confident ones kept, step by step.

    masked after step t of S:  floor(n_unknown γ((t + 1) / S))          γ in SCHEDULES, float64
    token:                     inverse CDF of softmax(logits / temperature) at one uniform
    confidence:                log p + choice_temperature (1 - (t + 1) / S) Gumbel, known +inf
    guidance:                  logits = l_none + s (l_class - l_none)

Chang et al. 2022 (MaskGIT), section 3.2; Ho & Salimans 2022 for guidance. Sample i of seed s is
a function of (model, seed, i, label, settings) alone: its noise is counted, not drawn in a row,
and it always stands at the same place of a batch of one size.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tsgen import ops
from tsgen.config import SamplingConfig, one_of
from tsgen.errors import RunError
from tsgen.network import Network
from tsgen.prior import Folded, Prior, all_positions

CHUNK = 64  # samples computed together; sample i stands at place i % CHUNK, whatever is asked for


def masked_share(schedule: str, ratio: float, n_unknown: int) -> float:
    """γ: the share of unknown tokens still masked once `ratio` of the steps are done."""
    powers = {"linear": 1.0, "square": 2.0, "cubic": 3.0, "sqrt": 0.5}
    bits = math.log2(max(2, n_unknown))
    if schedule in powers:
        share = 1.0 - ratio ** powers[schedule]
    elif schedule == "cosine":
        share = math.cos(math.pi / 2 * ratio)
    elif schedule == "log":
        share = -math.log2(ratio) / bits
    else:
        share = 1 - 2 ** (-bits * (1 - ratio))
    return min(1.0, max(0.0, float(share)))


def masked_counts(schedule: str, steps: int, n_unknown: int) -> list[int]:
    """How many tokens are masked after each step; 0 after the last."""
    counts = [
        math.floor(n_unknown * masked_share(schedule, (t + 1) / steps, n_unknown))
        for t in range(steps)
    ]
    return [*counts[:-1], 0]


@dataclass(frozen=True)
class Request:
    """Samples to draw, all by the same settings."""

    index_B: NDArray[np.int64]  # absolute sample indices
    class_B: NDArray[np.int64]  # class ids, n_classes for none
    known: list[Tensor] | None = None  # a band: (B, N) token ids, K where to be drawn
    seed: int = 0

    def at(self, places: NDArray[np.int64]) -> "Request":
        """Some of the samples."""
        known = None
        if self.known is not None:
            known = [ids_BN[torch.from_numpy(places)] for ids_BN in self.known]
        index_B, class_B = self.index_B[places], self.class_B[places]
        return replace(self, index_B=index_B, class_B=class_B, known=known)


class TorchEngine:
    """Plain PyTorch, readable: what the other engines are held to."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.device = network.tokenizer.window_W.device
        with torch.no_grad():
            self.folded = [prior.fold() for prior in network.each_prior()]

    @torch.no_grad()
    def tokens(self, request: Request, settings: SamplingConfig) -> list[Tensor]:
        """Token ids of every band, (B, N) each."""
        index_B = torch.from_numpy(request.index_B).to(self.device)
        class_B = torch.from_numpy(request.class_B).to(self.device)
        ids: list[Tensor] = []
        for band, prior in enumerate(self.network.each_prior()):
            known = request.known[band].to(self.device) if request.known else None
            low = ids[0] if band else None
            decode = BandDecoder(
                prior, self.folded[band], band, settings, request.seed, index_B, class_B, low
            )
            ids.append(decode.run(known))
        return ids

    @torch.no_grad()
    def series(self, ids: list[Tensor]) -> Tensor:
        """(B, C, length), scaled as in training."""
        return self.network.tokenizer.decode(ids)


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
        self.context_BND = None if low_BM is None else prior.fold_context(low_BM)
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
        plan_BS = self.plan((known_BN == prior.n_codes).sum(1).tolist())
        for step in range(self.settings.steps[self.band]):
            masked_BN = ids_BN == prior.n_codes
            places_BM = all_positions(masked_BN, count) if count < prior.n_tokens else None
            h_BMD = self.hidden(ids_BN, places_BM, first=packed and step == 0)
            ids_BN = self.step(step, ids_BN, masked_BN, places_BM, h_BMD, plan_BS[:, step])
            if packed:
                count = int(plan_BS[0, step])
            if count == 0:
                break
        if self.invalid:
            raise RunError("model: wanted finite logits, got NaN or infinity; is it trained?")
        return ids_BN

    def plan(self, unknown_B: list[int]) -> Tensor:
        """Masked positions of every row after every step: (B, S) int64."""
        schedule, steps = self.settings.schedule, self.settings.steps[self.band]
        counts = {n: masked_counts(schedule, steps, n) for n in set(unknown_B)}
        return torch.tensor([counts[n] for n in unknown_B], device=self.index_B.device)

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


def chunks(index: NDArray[np.int64], *, strict: bool) -> Iterator[NDArray[np.int64]]:
    """Positions in `index`, in groups that are computed together.

    strict: a group holds the requested samples of one block of CHUNK absolute indices.
    """
    if not strict:
        yield from (np.arange(i, min(i + CHUNK, len(index))) for i in range(0, len(index), CHUNK))
        return
    order = np.argsort(index, kind="stable")
    # an index asked for k times is computed k times, in k groups: its labels may differ
    again = np.zeros(len(index), dtype=np.int64)
    for i in np.flatnonzero(np.diff(index[order]) == 0) + 1:
        again[i] = again[i - 1] + 1
    regroup = np.lexsort((index[order] // CHUNK, again))
    order, again = order[regroup], again[regroup]
    block = index[order] // CHUNK
    edges = np.flatnonzero((np.diff(block) != 0) | (np.diff(again) != 0)) + 1
    yield from np.split(order, edges) if len(index) else ()


def padded(request: Request, unconditional: int) -> tuple[Request, NDArray[np.int64]]:
    """The request's samples among all CHUNK of their block, and where they stand.

    Whatever else is asked for, a sample stands in the same place of arrays of the same shape:
    matrix products then sum its numbers in the same order.
    """
    place = request.index_B % CHUNK
    first = request.index_B[0] - place[0]
    class_B = np.full(CHUNK, unconditional, dtype=np.int64)
    class_B[place] = request.class_B
    known = None
    if request.known is not None:
        known = []
        for ids_BN in request.known:
            # the first row again where nothing is asked for
            rows = np.zeros(CHUNK, dtype=np.int64)
            rows[place] = np.arange(len(place))
            known.append(ids_BN[torch.from_numpy(rows)])
    index_B = np.arange(first, first + CHUNK, dtype=np.int64)
    return replace(request, index_B=index_B, class_B=class_B, known=known), place


ENGINES = {"torch": TorchEngine}


class Sampler:
    """Draws samples of a network by one of the engines."""

    def __init__(self, network: Network, *, engine: str = "auto", strict: bool = True) -> None:
        """Prepare an engine.

        network:  trained, in eval mode; its device and dtype are the sampler's
        engine:   "auto", or a name in ENGINES
        strict:   sample i is bitwise the same whatever is drawn with it; else a chunk holds only
                  what is asked for, which is less work for a handful of samples
        """
        one_of("engine", engine, ("auto", *ENGINES))
        self.network, self.strict = network, strict
        self.engine = ENGINES["torch" if engine == "auto" else engine](network)

    def draw(
        self, request: Request, settings: SamplingConfig
    ) -> Iterator[tuple[NDArray[np.int64], list[Tensor], Tensor]]:
        """Yield (places in the request, token ids of each band, series), chunk by chunk.

        request:   samples, with labels and known tokens
        settings:  how to draw them
        yields:    (b,) places; ids (b, N) per band; series (b, C, length), scaled as in training
        """
        for places in chunks(request.index_B, strict=self.strict):
            part = request.at(places)
            rows = np.arange(len(places))
            if self.strict:
                part, rows = padded(part, self.network.config.n_classes)
            ids = self.engine.tokens(part, settings)
            series = self.engine.series(ids)
            pick = torch.from_numpy(rows)
            yield places, [ids_BN[pick] for ids_BN in ids], series[pick]
