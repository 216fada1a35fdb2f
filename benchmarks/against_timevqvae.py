"""Sampling speed beside the official timevqvae, the same weights in all.

    python benchmarks/against_timevqvae.py [--n 256] [--rounds 5]

Preset timevqvae: length 128, one channel, K = 1024, 10 + 10 steps, no class, tokens to series.
Engine cpu against the official code, engine torch, and engine torch through torch.compile. Where
`timevqvae` is not importable, only tsgen is timed.
"""

import argparse
import copy
import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import measure
import numpy as np
import torch

import tsgen
from tsgen.config import PRESETS, ModelConfig, SamplingConfig, TokenizerConfig
from tsgen.data import Scaler
from tsgen.network import Network
from tsgen.request import Request
from tsgen.sampler import Sampler

OFFICIAL = "timevqvae 1.0.1"
LENGTH, CODES, STEPS, CLASSES = 128, 1024, 10, 3


def official() -> Any:
    """A timevqvae.maskgit.MaskGIT of its default sizes with random weights."""
    from timevqvae.maskgit import MaskGIT, PriorModelConfig
    from timevqvae.vqvae import VQVAE

    vqvae = VQVAE(in_channels=1, input_length=LENGTH, kmeans_init=False)
    vqvae.eval()(torch.randn(2, 1, LENGTH))  # it counts its tokens in the first call
    common = {"ff_mult": 1, "use_rmsnorm": True, "p_unconditional": 0.2}
    return MaskGIT(
        vqvae=vqvae,
        lf_choice_temperature=10.0,
        hf_choice_temperature=0.0,
        lf_num_sampling_steps=STEPS,
        hf_num_sampling_steps=STEPS,
        lf_codebook_size=CODES,
        hf_codebook_size=CODES,
        transformer_embedding_dim=128,
        lf_prior_model_config=PriorModelConfig(hidden_dim=128, n_layers=4, heads=2, **common),
        hf_prior_model_config=PriorModelConfig(hidden_dim=32, n_layers=1, heads=1, **common),
        classifier_free_guidance_scale=1.0,
        n_classes=CLASSES,
    ).eval()


def generate_official(maskgit: Any, n: int) -> torch.Tensor:
    with torch.no_grad():
        low, high = maskgit.iterative_decoding(num_samples=n)
        decode = maskgit.decode_token_ind_to_timeseries
        return decode(low, frequency="lf") + decode(high, frequency="hf")


def untrained() -> tsgen.Model:
    """The same sizes without the package."""
    preset = PRESETS["timevqvae"]
    config = ModelConfig(
        tokenizer=TokenizerConfig(n_channels=1, length=LENGTH, **preset.tokenizer),
        priors=preset.priors,
        n_classes=CLASSES,
        band_alignment=preset.band_alignment,
        sampling=SamplingConfig(steps=(STEPS, STEPS)),
    )
    return tsgen.Model(Network(config), Scaler((0.0,), (1.0,)))


def sampling(model: tsgen.Model, engine: str, n: int) -> Callable[[], object]:
    """All of `n` series by one of the engines, tokens and decoder."""
    sampler = Sampler(model.network, engine=engine)
    request = Request(np.arange(n), np.full(n, model.config.n_classes))
    return lambda: list(sampler.draw(request, model.config.sampling))


def compiled(model: tsgen.Model) -> tsgen.Model:
    """The same model, whose transformers and decoder engine torch runs through Inductor."""
    network = copy.deepcopy(model.network)
    for prior in network.each_prior():
        prior.transform = torch.compile(prior.transform, dynamic=True)
    network.tokenizer.decode = torch.compile(network.tokenizer.decode, dynamic=True)
    return tsgen.Model(network, model.scaler)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=256, help="series")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.manual_seed(0)
    rivals: dict[str, Callable[[], object]] = {}
    if importlib.util.find_spec("timevqvae"):
        warnings.filterwarnings("ignore", module="timevqvae")
        maskgit = official()
        model = tsgen.from_timevqvae(maskgit)
        rivals[OFFICIAL] = lambda: generate_official(maskgit, args.n)
    else:
        print("timevqvae is not importable: timing tsgen alone")
        model = untrained()
    rivals["engine torch"] = sampling(model, "torch", args.n)
    rivals["engine torch, torch.compile"] = sampling(compiled(model), "torch", args.n)
    rivals["engine cpu"] = sampling(model, "cpu", args.n)
    seconds = measure.interleaved(rivals, args.rounds)
    result: dict[str, Any] = {name: measure.summary(s) for name, s in seconds.items()}
    for name, row in result.items():
        row["ratio"] = measure.ratio(seconds[name], seconds["engine cpu"])
        print(f"{name}: {row['p50_s']:.3f} s, {row['ratio']:.1f} times engine cpu")
    key = f"n={args.n}"
    measure.save("against_timevqvae", {key: result | {"machine": measure.machine()}})


if __name__ == "__main__":
    main()
