"""Whole decoding loops on a GPU: every engine that runs there, beside PyTorch and timevqvae.

Models have random weights. What is drawn is held to engine torch in float32 by plain PyTorch: the
tokens of nearly all series in float32, the likelihood of half the tokens given the others else.
"""

import copy
import dataclasses
import functools
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import against_timevqvae as official
import gpu_timing
import measure
import numpy as np
import torch
from gpu_ops import Place, refused
from gpu_report import BY_KERNELS
from gpu_timing import Row
from gpu_torch_loop import CompiledLoop, plain_ops
from torch import Tensor

import tsgen
from tsgen.config import ModelConfig, PriorConfig, SamplingConfig, TokenizerConfig
from tsgen.engine_cuda import CudaEngine
from tsgen.measure import Run, waiting
from tsgen.network import Network
from tsgen.request import Request
from tsgen.sampler import ENGINES, Sampler

AT_ONCE = 10_000  # series, of what computes with PyTorch alone: logits of more do not fit
PARTS = (512, 2048, 8192)  # series at once, of engine cuda: the first fits the L2 cache
KERNELS = ("parts", "layers", "bands")  # of engine cuda
COMPARED = 256  # series
SAME = 0.98  # of the series: in float32 a near tie may fall otherwise
NATS = 0.1  # mean log-likelihood of a token may be so far off in 16 bits
MOST_ROUNDS = 10


class Loop(NamedTuple):
    """What is decoded."""

    model: str  # "one band" or "timevqvae"
    n: int  # series
    rivals: str  # "engines", or what they are held against: "torch.compile"

    def __str__(self) -> str:
        what = "tokens" if self.model == "one band" else "tokens and series"
        beside = "" if self.rivals == "engines" else f", beside {self.rivals}"
        return f"{self.model}, {self.n:,} series, {what}{beside}"


def loops(place: Place) -> list[Loop]:
    few, many, two_bands = (5, 7, 6) if place.small else (256, 100_000, 1024)
    return [
        Loop("one band", few, "engines"),
        Loop("one band", many, "engines"),
        Loop("timevqvae", two_bands, "engines"),
        Loop("one band", few, "torch.compile"),
        Loop("one band", many, "torch.compile"),
    ]


def one_band(small: bool) -> ModelConfig:
    """64 tokens of 1024 codes, 10 steps, 4 layers of width 128."""
    sizes = {"hidden_dim": 16, "n_layers": 2, "head_dim": 16} if small else {}
    length, width, K = (32, 4, 40) if small else (128, 32, 1024)
    tokenizer = TokenizerConfig(
        n_channels=1, length=length, bands=1, n_fft=2, token_width=(width,), n_codes=(K,)
    )
    sampling = SamplingConfig(steps=(10,), choice_temperature=(10.0,))
    return ModelConfig(tokenizer, (PriorConfig(**sizes),), sampling=sampling)


def network_of(loop: Loop, place: Place) -> tuple[Network, Any]:
    """The network, and the official one of the same weights where that is importable."""
    torch.manual_seed(0)
    if loop.model == "one band":
        return Network(one_band(place.small)).eval().to(place.device), None
    if not importlib.util.find_spec("timevqvae"):
        return official.untrained().network.eval().to(place.device), None
    maskgit = official.official(large=False).to(place.device)
    return tsgen.from_timevqvae(copy.deepcopy(maskgit).cpu()).network.to(place.device), maskgit


def measured(loop: Loop, place: Place) -> Row:
    """A row for each contender: seconds, series a second, memory; or why it is not timed."""
    network, maskgit = network_of(loop, place)
    rivals = contenders(loop, network, place)
    with plain_ops():
        few = request(network, min(loop.n, COMPARED))
        expected = Sampler(network, engine="torch").engine.tokens(few, network.config.sampling)
    rows: dict[str, Row] = {}
    for name, (make, exact) in rivals.items():
        rows[name] = checked(make, network, expected, place, exact)
    runs = {name: rows[name].pop("run") for name in rows if "run" in rows[name]}
    if maskgit is not None:
        rows[official.OFFICIAL] = {}
        runs[official.OFFICIAL] = functools.partial(official.generate_official, maskgit, loop.n)
    for name, row in timed(runs, place).items():
        rows[name] |= row
        if "p50_ms" in row:
            rows[name]["series_per_s"] = 1e3 * loop.n / row["p50_ms"]
    sizes = dataclasses.asdict(network.config)
    return {"model": loop.model, "n": loop.n, "config": sizes, "runs": rows}


def request(network: Network, n: int) -> Request:
    return Request(np.arange(n), np.full(n, network.config.n_classes))


Made = tuple[Callable[[], Callable[[], list[Tensor]]], bool]  # what draws tokens; in float32?


def contenders(loop: Loop, network: Network, place: Place) -> dict[str, Made]:
    """Makes of what draws tokens, and series with them unless it is a loop of one band."""
    found: dict[str, Made] = {}
    settings = network.config.sampling
    series = loop.model != "one band"

    def engine(
        name: str, settings: SamplingConfig, at_once: int | None = None, kernels: str = ""
    ) -> Callable[[], list[Tensor]]:
        made = Sampler(network, engine=name).engine
        made = CudaEngine(network, kernels) if kernels else made
        at_once = at_once or (AT_ONCE if name == "torch" else made.at_once)
        parts = in_parts(request(network, loop.n), at_once)
        draw = made.draw if series else lambda *a: (made.tokens(*a), None)
        return lambda: joined([draw(part, settings)[0] for part in parts])

    def plain() -> Callable[[], list[Tensor]]:
        draw = engine("torch", settings)
        return plain_ops()(draw)  # type: ignore[no-any-return]

    def compiled() -> Callable[[], list[Tensor]]:
        how: dict[str, Any] = {"dynamic": False}
        how |= {"mode": "max-autotune"} if place.device == "cuda" else {"backend": place.compiler}
        made = CompiledLoop(network, how)
        parts = in_parts(request(network, loop.n), AT_ONCE)
        return lambda: joined([made.tokens(part, settings) for part in parts])

    for name in (name for name in ENGINES if name != "vae"):  # of tokens
        for label, each in settings_of(name, settings).items():
            if name != "torch" or loop.rivals == "engines":
                found[label] = (functools.partial(engine, name, each), "16" not in label)
    half = dataclasses.replace(settings, dtype="bfloat16")
    for kernels in KERNELS if loop.rivals == "engines" else ():
        make = functools.partial(engine, "cuda", half, None, kernels)
        found[BY_KERNELS.format(kernels)] = make, False
    if loop.rivals == "engines" and loop.n > PARTS[-1]:
        for size in PARTS:
            make = functools.partial(engine, "cuda", half, size)
            found[f"engine cuda, bfloat16, {size:,} at once"] = make, False
    if loop.rivals == "engines":
        found["engine torch, plain PyTorch"] = (plain, True)
    else:
        found["torch.compile, bfloat16"] = (compiled, False)
    return found


def settings_of(engine: str, settings: SamplingConfig) -> dict[str, SamplingConfig]:
    """Settings by name: in each precision where the engine has a choice."""
    if engine != "cuda":
        return {f"engine {engine}": settings}
    return {
        f"engine cuda, {dtype}": dataclasses.replace(settings, dtype=dtype)
        for dtype in ("bfloat16", "float32")
    }


def in_parts(whole: Request, at_once: int) -> list[Request]:
    n = len(whole.index_B)
    return [whole.at(np.arange(i, min(i + at_once, n))) for i in range(0, n, at_once)]


def joined(parts: list[list[Tensor]]) -> list[Tensor]:
    return [torch.cat(ids) for ids in zip(*parts, strict=True)]


def checked(make: Any, network: Network, expected: list[Tensor], place: Place, exact: bool) -> Row:
    """Its run, how often its tokens are engine torch's, and its memory; or why it is not timed."""
    row: Row = {}

    def error() -> float:
        before = fresh_memory(place.device)
        row["run"] = make()
        ids = [t[: len(expected[0])].to(place.device) for t in row["run"]()]
        if place.device == "cuda":
            row["peak_bytes"] = torch.cuda.max_memory_reserved() - before
        same_BN = torch.cat(ids, 1) == torch.cat(expected, 1)
        row["same_tokens"] = float(same_BN.double().mean())
        row["same_series"] = float(same_BN.all(1).double().mean())
        if exact:
            return (1 - row["same_series"]) / (1 - SAME)
        apart = likelihood(network, ids) - likelihood(network, expected)
        row["nats_apart"] = apart
        return abs(apart) / NATS

    if why := refused(error, place.device):
        row.pop("run", None)
        return {key: value for key, value in row.items() if key != "run"} | why
    return row


def fresh_memory(device: str) -> int:
    """Bytes that are held by what came before; from here on the peak is a new one."""
    if device != "cuda":
        return 0
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_reserved()


@torch.no_grad()
def likelihood(network: Network, ids: list[Tensor]) -> float:
    """Mean log-likelihood of every other token given the others, summed over the bands."""
    total = 0.0
    for band, prior in enumerate(network.each_prior()):
        masked_BN = torch.ones_like(ids[band], dtype=torch.bool)
        masked_BN[:, ::2] = False
        class_B = torch.full_like(ids[band][:, 0], prior.n_classes)
        with plain_ops():
            low = ids[0] if band else None
            total -= float(prior.loss(ids[band], masked_BN, class_B, low))
    return total


def timed(runs: dict[str, Run], place: Place) -> dict[str, Row]:
    """Percentiles of the wall clock, all in turn; or why one does not run."""
    rows: dict[str, Row] = {}
    wait, one = waiting(place.device), {}
    for name, run in runs.items():
        try:
            one[name] = measure.interleaved({name: run}, 1, wait)[name][0]
        except Exception as error:
            rows[name] = {"why": gpu_timing.reason(error, place.device)}
    rounds = int(4 * place.seconds / max(sum(one.values()), 1e-9))
    rounds = max(gpu_timing.FEWEST_ROUNDS, min(MOST_ROUNDS, rounds))
    seconds = measure.interleaved({name: runs[name] for name in one}, rounds, wait)
    for name, times in seconds.items():
        rows[name] = {"how": gpu_timing.CLOCK} | gpu_timing.summary([1e3 * t for t in times])
    return rows
