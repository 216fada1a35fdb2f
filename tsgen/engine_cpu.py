"""Iterative decoding on the CPU in one native call: both bands' loops, the decoder, the inverse.

The weights are folded once, see csrc/model/fold.h. The law is that of `tsgen.sampler`.
"""

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsgen import native
from tsgen.config import SamplingConfig
from tsgen.errors import RunError
from tsgen.network import Network
from tsgen.request import Request, check_ids
from tsgen.schedule import masked_plan
from tsgen.spans import profiled, span


class CpuEngine:
    """The native decoding loop."""

    needs_blocks = False  # a row's sums never depend on other rows: any samples go together

    @staticmethod
    def obstacle(network: Network) -> str | None:
        """Why it cannot run this network here, or None if it can."""
        if why := no_token_a_place(network):
            return why
        like = network.like
        if like.device.type != "cpu" or like.dtype != torch.float32:
            return f"takes float32 weights on the CPU, not {like.dtype} on {like.device}"
        try:
            native.kernels("cpu")
        except ImportError as error:
            return f"does not load: {error}"
        return None

    @property
    def at_once(self) -> int:
        """Samples a call: some for every thread, few enough for a progress bar to move."""
        return 64 * max(4, torch.get_num_threads())

    def __init__(self, network: Network) -> None:
        """Fold and pack the weights. Raises ImportError where tsgen._C does not load."""
        self.config = network.config
        threads = torch.get_num_threads()
        self.core = folded(network.config.to_dict(), network.state_dict(), threads)

    def tokens(self, request: Request, settings: SamplingConfig) -> list[Tensor]:
        """Token ids of every band, (B, N) each."""
        with span("priors"):
            return self.sample(request, settings, None)

    def draw(self, request: Request, settings: SamplingConfig) -> tuple[list[Tensor], Tensor]:
        """Token ids of every band, and series (B, C, length), scaled as in training."""
        if profiled():  # the same in two calls: a trace sees no further than into a call
            ids = self.tokens(request, settings)
            return ids, self.series(ids)
        series = self.empty(len(request.index_B))
        return self.sample(request, settings, series), series

    def empty(self, n: int) -> Tensor:
        """Room for n series."""
        shape = n, self.config.tokenizer.n_channels, self.config.tokenizer.length
        return torch.empty(shape, dtype=torch.float32, device="cpu")

    def sample(
        self, request: Request, settings: SamplingConfig, series: Tensor | None
    ) -> list[Tensor]:
        tokenizer = self.config.tokenizer
        index_B, class_B = map(np.ascontiguousarray, (request.index_B, request.class_B))
        check_ids("class_B", torch.from_numpy(class_B), self.config.n_classes)
        n, ids, bands, plans = len(index_B), [], [], []
        for band in range(tokenizer.bands):
            N, K = tokenizer.n_tokens(band), tokenizer.n_codes[band]
            if request.known is None:
                known = torch.full((n, N), K, dtype=torch.int64, device="cpu")
            else:
                known = request.known[band].to("cpu", copy=True)
                check_ids("known", known, K)
            plan = masked_plan(settings.schedule, settings.steps[band], (known == K).sum(1))
            ids.append(known.contiguous())
            plans.append(plan)
            bands.append((how(settings, request.seed, band), plan.data_ptr(), ids[-1].data_ptr()))
        finite = self.core.sample(
            n,
            index_B.ctypes.data,
            class_B.ctypes.data,
            bands,
            0 if series is None else series.data_ptr(),
            torch.get_num_threads(),
        )
        if not finite:
            raise RunError("model: wanted finite logits, got NaN or infinity; is it trained?")
        return ids

    def series(self, ids: list[Tensor]) -> Tensor:
        """(B, C, length), scaled as in training."""
        ids = [t.cpu().contiguous() for t in ids]
        for t, K in zip(ids, self.config.tokenizer.n_codes, strict=True):
            check_ids("ids", t, K - 1)
        out, threads = self.empty(len(ids[0])), torch.get_num_threads()
        with span("decoder"):
            self.core.decode([t.data_ptr() for t in ids], len(out), out.data_ptr(), threads)
        return out


def no_token_a_place(network: Network) -> str | None:
    """Why engines of one token a place cannot run this network, or None if they can."""
    if network.config.family == "vae":
        return "draws tokens, and a vae has none"
    if network.config.tokenizer.depth > 1:
        return "takes one token a place, not the several of a residual codebook"
    return None


def folded(
    config: dict[str, Any],
    state: dict[str, Tensor],
    threads: int,
    backend: str = "cpu",
    *device: int,
) -> Any:
    """The native engine of a network with this configuration and state.

    backend:  "cpu", or "cuda" and then the index of a device
    """
    wide = torch.float64, torch.float32
    kept = {n: t.cpu().contiguous() for n, t in state.items() if t.dtype in wide}
    listed = [(n, t.shape, t.data_ptr(), t.dtype == wide[0]) for n, t in kept.items()]
    return native.kernels(backend).Engine(json.dumps(config), listed, threads, *device)


def how(settings: SamplingConfig, seed: int, band: int) -> dict[str, Any]:
    """The settings of one band."""
    return {
        "steps": settings.steps[band],
        "band": band,
        "seed": seed,
        "temperature": settings.temperature,
        "choice_temperature": settings.choice_temperature[band],
        "guidance": settings.guidance,
        "top_k": settings.top_k,
        "top_p": settings.top_p,
    }
