"""Iterative decoding on a GPU: all bands' steps, the decoder and the inverse in one CUDA graph.

One graph for each batch bucket and settings. Seed, sample indices, classes and known tokens are
tensors that it reads, so it is replayed and not built anew; every step is captured at its exact
number of masked places, and nothing waits for the host. The law is that of `tsgen.sampler`.
"""

import copy
import functools
import itertools
from collections.abc import Callable, Hashable
from typing import cast

import numpy as np
import torch
from torch import Tensor

from tsgen import dispatch
from tsgen.autoencoder import stage_widths
from tsgen.checks import one_of
from tsgen.config import ModelConfig, SamplingConfig, TokenizerConfig
from tsgen.engine_cpu import no_token_a_place
from tsgen.errors import RunError
from tsgen.fused import FusedPrior, Kind
from tsgen.fused_loop import FusedLoop
from tsgen.layers import fold_norms
from tsgen.network import Network
from tsgen.prior import Prior
from tsgen.replay import Replay, Replays
from tsgen.request import Request, check_ids
from tsgen.schedule import masked_plan
from tsgen.spans import span

MOST = 2**14  # samples at once: beyond, a GPU is busy anyway
MEMORY = 0.5  # of what is free, for one graph; of all there is, for all graphs
OPS = [  # that have to be kernels, for the same result whatever is drawn together
    *("draw_uniforms", "embed_tokens", "norm_linear", "attention", "linear_norm", "feed_forward"),
    *("sample_code", "remask_tokens", "sum_taps", "separable_conv", "snake", "istft"),
]

KERNELS = ("auto", "parts", "layers", "bands")

Run = Callable[[list[Tensor]], list[Tensor]]


class CudaEngine:
    """Fused kernels, captured and replayed; without a GPU the same ops one by one."""

    needs_blocks = False  # a row's sums never depend on other rows

    def __init__(self, network: Network, kernels: str = "auto") -> None:
        """Copy the weights: graphs read them where they are, and the network's may move.

        kernels:  for each part of a layer ("parts"), whole layers or whole bands, the latter two in
                  16 bits; "auto" takes what was measured to be fastest
        """
        one_of("kernels", kernels, KERNELS)
        self.config, self.kernels = network.config, kernels
        # tensors made in inference mode could not be read by a graph's capture outside of it
        with torch.inference_mode(False), torch.no_grad():
            self.tokenizer = copy.deepcopy(network.tokenizer)
            fold_norms(self.tokenizer)
            exact = copy.deepcopy(network.priors).to("cpu", torch.float64)
            self.exact = [cast(Prior, prior) for prior in exact]
        self.like = self.tokenizer.window_W
        self.limit = MOST
        self.replays = Replays(self.most_bytes)
        self.priors: dict[torch.dtype, list[FusedPrior]] = {}

    @staticmethod
    def obstacle(network: Network) -> str | None:
        """Why it cannot run this network here, or None if it can."""
        if sort := no_token_a_place(network):
            return sort
        like = network.like
        if like.device.type != "cuda":
            return f"takes weights on a GPU, not on {like.device}"
        kernels = [name for name in dispatch.PREFERENCE["cuda"] if name != "torch"]
        for op in OPS:
            dtype = torch.int64 if torch.int64 in dispatch.TABLE[op]["torch"] else like.dtype
            why = {name: dispatch.obstacle(op, name, "cuda", dtype) for name in kernels}
            if all(why.values()):
                return f"has no kernel of {op}: " + ", ".join(f"{k} {v}" for k, v in why.items())
        return None

    @property
    def at_once(self) -> int:
        """Samples a graph, as memory allows: a power of two."""
        if not self.like.is_cuda:
            return min(self.limit, 256)
        return min(self.limit, self.fit)

    @functools.cached_property
    def fit(self) -> int:
        """What memory allows; asked once, or an engine's own graphs would count against it."""
        free, _ = torch.cuda.mem_get_info(self.like.device)
        fit = max(1, int(MEMORY * free / bytes_a_sample(self.config)))
        return 1 << fit.bit_length() - 1

    def most_bytes(self) -> int:
        """What all graphs may hold together."""
        if not self.like.is_cuda:
            return 2**30
        return int(MEMORY * torch.cuda.get_device_properties(self.like.device).total_memory)

    def tokens(self, request: Request, settings: SamplingConfig) -> list[Tensor]:
        """Token ids of every band, (B, N) each."""
        with span("priors"):
            return self.sample(request, settings, decode=False)

    def draw(self, request: Request, settings: SamplingConfig) -> tuple[list[Tensor], Tensor]:
        """Token ids of every band, and series (B, C, length), scaled as in training."""
        with span("priors and decoder"):
            *ids, series = self.sample(request, settings, decode=True)
        return ids, series

    def series(self, ids: list[Tensor]) -> Tensor:
        """(B, C, length), scaled as in training."""
        for ids_BN, K in zip(ids, self.config.tokenizer.n_codes, strict=True):
            check_ids("ids", ids_BN, K - 1)

        def part(rows: slice) -> list[Tensor]:
            some = [ids_BN[rows] for ids_BN in ids]
            return self.replayed("series", some, lambda given: [self.decoded(given)])

        with span("decoder"):
            return self.in_parts(len(ids[0]), part)[0]

    def sample(self, request: Request, settings: SamplingConfig, *, decode: bool) -> list[Tensor]:
        """Ids of every band, and then the series where they are wanted."""
        tokenizer = self.config.tokenizer
        check_ids("class_B", torch.from_numpy(request.class_B), self.config.n_classes)
        for known, K in zip(request.known or (), tokenizer.n_codes, strict=False):
            check_ids("known", known, K)
        key = settings, request.known is not None, decode
        drawn = functools.partial(self.drawn, self.fused(settings.dtype), *key)

        def part(rows: slice) -> list[Tensor]:
            some = inputs(request.at(np.arange(rows.start, rows.stop)), tokenizer, settings)
            return self.replayed(key, some, drawn)

        *out, invalid_B = self.in_parts(len(request.index_B), part)
        if invalid_B.any():
            raise RunError("model: wanted finite logits, got NaN or infinity; is it trained?")
        return out

    def in_parts(self, n: int, run: Callable[[slice], list[Tensor]]) -> list[Tensor]:
        """All rows, as many at a time as fit; a row is the same in any part."""
        done: list[list[Tensor]] = []
        first = 0
        while first < n:
            size = min(n - first, self.limit)
            try:
                done.append(run(slice(first, first + size)))
            except RuntimeError as error:
                held = bool(self.replays.made)
                if not out_of_memory(error) or (size == 1 and not held):
                    raise
            else:
                first += size
                continue
            # only here, without the error, is what its frames held given back
            self.replays.clear()
            self.limit = size if held else size // 2  # without other graphs it may fit
        if len(done) == 1:
            return done[0]
        return [torch.cat(parts) for parts in zip(*done, strict=True)]

    def replayed(self, key: Hashable, values: list[Tensor], run: Run) -> list[Tensor]:
        """What `run` makes of rows, by the graph of this key and of a bucket that holds them."""
        n = len(values[0])
        size = min(bucket(n), max(n, self.limit))
        # tensors made in inference mode could not be written to outside of it; and a graph is
        # everybody's: it does not keep the caller's autocast
        full = torch.autocast(self.like.device.type, enabled=False)
        with torch.inference_mode(False), torch.no_grad(), full:
            replay = self.replays.get((key, size), lambda: Replay(run, self.room(values, size)))
            return replay(values)

    def room(self, values: list[Tensor], size: int) -> list[Tensor]:
        """Tensors of `size` rows on the device, which begin with some values."""
        n, room = len(values[0]), []
        for t in values:
            room.append(t.new_zeros(size, *t.shape[1:], device=self.like.device))
            room[-1][:n].copy_(t)
        return room

    def drawn(
        self,
        priors: list[FusedPrior],
        settings: SamplingConfig,
        some_known: bool,
        decode: bool,
        given: list[Tensor],
    ) -> list[Tensor]:
        """What is captured: ids of every band, then the series if wanted, then what is wrong."""
        seed_B, index_B, class_B, *rest = given
        # where tokens are known: those, and how many stay masked after each step
        asked = zip(*2 * [iter(rest)], strict=True) if some_known else itertools.repeat(None)
        ids: list[Tensor] = []
        invalid_B = torch.zeros_like(class_B, dtype=torch.bool)
        for band, (prior, known) in enumerate(zip(priors, asked, strict=False)):
            loop = FusedLoop(prior, band, settings, (seed_B, index_B), class_B, *ids[:1])
            ids_BN, invalid_B = loop.run(known, invalid_B)
            ids.append(ids_BN)
        return [*ids, *([self.decoded(ids)] if decode else []), invalid_B]

    def decoded(self, ids: list[Tensor]) -> Tensor:
        return self.tokenizer.decode(ids)

    def fused(self, dtype: str | None) -> list[FusedPrior]:
        """The priors with their weights in a dtype, folded once."""
        own = getattr(torch, dtype) if dtype else self.like.dtype
        kind = Kind(own, self.like.device, self.kernels)
        if kind.dtype not in self.priors:
            with torch.inference_mode(False), torch.no_grad():
                self.priors[kind.dtype] = [FusedPrior(prior, kind) for prior in self.exact]
        return self.priors[kind.dtype]


def inputs(request: Request, config: TokenizerConfig, settings: SamplingConfig) -> list[Tensor]:
    """What a graph reads, a row a sample: seed, index, class; a band's known tokens and plan."""
    index_B, class_B = torch.from_numpy(request.index_B), torch.from_numpy(request.class_B)
    signed = request.seed - (request.seed >> 63 << 64)  # the same 64 bits
    given = [torch.full_like(index_B, signed), index_B, class_B]
    for band, known_BN in enumerate(request.known or ()):
        unknown_B = (known_BN == config.n_codes[band]).sum(1)
        given += [known_BN, masked_plan(settings.schedule, settings.steps[band], unknown_B)]
    return given


def bucket(n: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12 ...: never more than half as many again."""
    power = 1 << (n - 1).bit_length()
    return power * 3 // 4 if power >= 4 and n <= power * 3 // 4 else power


def out_of_memory(error: BaseException | None) -> bool:
    """Whether memory was short: what ends a capture after that raises once more."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error):
            return True
        error = error.__context__
    return False


def bytes_a_sample(model: ModelConfig) -> int:
    """About what one sample takes at the worst moment, in float32 and with guidance."""
    config, most = model.tokenizer, 0
    for band, prior in enumerate(model.priors):
        block = 4 * prior.hidden_dim + 4 * prior.n_heads * prior.head_dim
        tokens = 2 * (1 + config.n_tokens(band)) * block
        rows, columns = config.grid(band)
        widths = [config.hidden_dim, *stage_widths(config, band)[::-1]]
        images = [rows * (columns << i) * width for i, width in enumerate(widths)]
        # of the last convolution the products of every tap stand beside each other
        products = (2 * config.n_channels) ** 2 * 4 * (1 if rows == 1 else 3)
        products *= rows * (columns << len(widths))
        most = max(most, tokens, 6 * max(images), 2 * products)
    return 4 * most
