"""How time grows: sampling with batch, length, codes and threads; ops with their largest size.

    python benchmarks/scaling.py [--rounds 5]

One size changes, the others stay: 256 series of length 128, 1024 codes, preset timevqvae, random
weights, tokens to series; nearest_code over K, attention over N, stft over L. Rivals take turns in
one process: both engines, or kernel and baseline, which are timed only after they have matched, and
at batch 256 the official code where `timevqvae` is importable. Rows go to results/scaling.json.
"""

import argparse
import dataclasses
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import measure
import torch
from against_timevqvae import OFFICIAL, generate_official, official, untrained
from measure import Run

import tsgen
from tsgen import dispatch
from tsgen.bench import drawing
from tsgen.measure import mismatch
from tsgen.network import Network

THREADS = 1, 2
BATCH = 256
BATCHES = 1, 8, 64, 256, 1024
LENGTHS = 32, 128, 512, 2048
CODES = 32, 256, 1024, 4096
NEAREST = {K: (16384, K, 64, False) for K in (32, 256, 1024, 4096, 16384)}
ATTENTION = {N: (32, 4, N, N, 64, True, True, False) for N in (16, 64, 256, 1024)}
STFT = {L: (64, 1, L, 8, 2, 0, 5) for L in (64, 512, 4096, 32768)}


def model_of(length: int = 128, codes: int = 1024) -> tsgen.Model:
    """Preset timevqvae with another length or number of codes, untrained."""
    model = untrained()
    tokenizer = dataclasses.replace(model.config.tokenizer, length=length, n_codes=(codes, codes))
    config = dataclasses.replace(model.config, tokenizer=tokenizer)
    return tsgen.Model(Network(config), model.scaler)


def engines(model: tsgen.Model, n: int) -> dict[str, Run]:
    """Sampling n series by both engines."""
    return {f"engine {name}": drawing(model, name, n) for name in ("torch", "cpu")}


def official_too(n: int) -> dict[str, Run]:
    """The official code beside the engines, the same weights in all."""
    maskgit = official(large=False)
    model = tsgen.from_timevqvae(maskgit)
    return {OFFICIAL: lambda: generate_official(maskgit, n), **engines(model, n)}


def kernels(op: str, shape: Any) -> dict[str, Run]:
    """An op's baseline and its kernel, which has matched."""
    inputs = dispatch.module(op).make_inputs(shape, "cpu", torch.float32)
    wrong = mismatch(op, "cpu", inputs)
    assert wrong <= 1, (op, shape, wrong)
    kernel, baseline = dispatch.load(op, "cpu"), dispatch.module(op).baseline
    return {"baseline": lambda: baseline(*inputs), "kernel": lambda: kernel(*inputs)}


def sweeps() -> Iterator[tuple[str, int, Callable[[], dict[str, Run]]]]:
    """What grows, how large it is, and what makes the rivals."""
    plain = model_of()
    for n in BATCHES:
        if n == BATCH and importlib.util.find_spec("timevqvae"):
            yield "sampling, series", n, partial(official_too, n)
        else:
            yield "sampling, series", n, partial(engines, plain, n)
    for length in LENGTHS:
        yield "sampling, samples a series", length, partial(engines, model_of(length=length), BATCH)
    for codes in CODES:
        yield "sampling, codes", codes, partial(engines, model_of(codes=codes), BATCH)
    grown = {"nearest_code, codes": NEAREST, "attention, tokens": ATTENTION, "stft, samples": STFT}
    for name, shapes in grown.items():
        for size, shape in shapes.items():
            yield name, size, partial(kernels, name.partition(",")[0], shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", module="timevqvae")
    torch.manual_seed(0)
    for threads in THREADS:
        torch.set_num_threads(threads)
        rows: dict[str, dict[int, Any]] = {}
        for what, size, make in sweeps():
            seconds = measure.interleaved(make(), args.rounds)
            row = {name: measure.summary(times) for name, times in seconds.items()}
            rows.setdefault(what, {})[size] = row
            print(f"threads: {threads}, {what}: {size}:", end=" ")
            print(", ".join(f"{name} {r['p50_s']:.4f} s" for name, r in row.items()), flush=True)
        measure.save("scaling", {f"threads: {threads}": rows | {"machine": measure.machine()}})


if __name__ == "__main__":
    main()
