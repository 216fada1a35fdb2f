"""Sampling speed beside the official timevqvae, the same weights in all.

    python benchmarks/against_timevqvae.py [--large] [--n 256] [--rounds 5]

Length 128, one channel, K = 1024, 10 + 10 steps, no class, tokens to series: engine cpu against the
official code, engine torch and, with --compile, engine torch through torch.compile. Sizes of preset
timevqvae; --large is 256 wide with 6 + 4 layers of 4 heads, its feed-forward 4 times as wide. Where
`timevqvae` is not importable, only tsgen is timed.
"""

import argparse
import copy
import importlib.util
import warnings
from typing import Any

import measure
import torch
from measure import Run

import tsgen
from tsgen.bench import drawing
from tsgen.config import PRESETS, ModelConfig, SamplingConfig, TokenizerConfig
from tsgen.data import Scaler
from tsgen.network import Network
from tsgen.schedule import masked_counts

OFFICIAL = "timevqvae 1.0.1"
SAME = 0.98  # of the series: in float32 a near tie may fall otherwise
LENGTH, CODES, STEPS, CLASSES = 128, 1024, 10, 3
SMALL = (
    {"hidden_dim": 128, "n_layers": 4, "heads": 2},
    {"hidden_dim": 32, "n_layers": 1, "heads": 1},
)
LARGE = (
    {"hidden_dim": 256, "n_layers": 6, "heads": 4},
    {"hidden_dim": 256, "n_layers": 4, "heads": 4},
)


def official(large: bool) -> Any:
    """A timevqvae.maskgit.MaskGIT of its default sizes, or large, with random weights."""
    from timevqvae.maskgit import MaskGIT, PriorModelConfig
    from timevqvae.vqvae import VQVAE

    sizes = {"init_dim": 16, "hid_dim": 256} if large else {}
    vqvae = VQVAE(in_channels=1, input_length=LENGTH, kmeans_init=False, **sizes)
    vqvae.eval()(torch.randn(2, 1, LENGTH))  # it counts its tokens in the first call
    common = {"ff_mult": 4 if large else 1, "use_rmsnorm": True, "p_unconditional": 0.2}
    low, high = LARGE if large else SMALL
    return MaskGIT(
        vqvae=vqvae,
        lf_choice_temperature=10.0,
        hf_choice_temperature=0.0,
        lf_num_sampling_steps=STEPS,
        hf_num_sampling_steps=STEPS,
        lf_codebook_size=CODES,
        hf_codebook_size=CODES,
        transformer_embedding_dim=256 if large else 128,
        lf_prior_model_config=PriorModelConfig(**low, **common),
        hf_prior_model_config=PriorModelConfig(**high, **common),
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


def gflop(config: ModelConfig, n: int) -> float:
    """Multiplications and additions of engine cpu's matrix products for n series without class."""
    total = 0.0
    for band, prior in enumerate(config.priors):
        N, K = config.tokenizer.n_tokens(band), config.tokenizer.n_codes[band]
        D, I, F = prior.hidden_dim, prior.n_heads * prior.head_dim, prior.ff_dim
        steps, T = config.sampling.steps[band], N + 1
        counts = [N, *masked_counts(config.sampling.schedule, steps, N)][:-1]
        for step, masked in enumerate(counts):
            attended = 2 * I * (T + 1)  # scores and means, a query
            layer = T * (4 * D * I + 2 * D * F + attended)
            last = T * 2 * D * I + masked * (2 * D * I + 2 * D * F + attended)
            # the first step of a band without context is computed once
            blocks = 0 if step == 0 and band == 0 else (prior.n_layers - 1) * layer + last
            total += 2 * n * (blocks + masked * (D * D + D * K))
        if band:
            total += 2 * n * N * 7 * 2 * prior.embed_dim * D
    return total / 1e9


def compiled(model: tsgen.Model) -> tsgen.Model:
    """The same model, whose transformers and decoder engine torch runs through Inductor.

    Sizes that change become symbols when they first do, as torch.compile has it by itself: LOG.md
    says what its other modes did.
    """
    network = copy.deepcopy(model.network)
    for prior in network.each_prior():
        prior.transform = torch.compile(prior.transform)
        prior.fold_context = torch.compile(prior.fold_context)
    network.tokenizer.decode = torch.compile(network.tokenizer.decode)
    return tsgen.Model(network, model.scaler)


def tokens(run: Run) -> torch.Tensor:
    """What `drawing` draws, (n, tokens of all bands)."""
    drawn: Any = run()
    return torch.cat([torch.cat(ids, 1) for _, ids, _ in drawn])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true", help="a larger model")
    parser.add_argument("--compile", action="store_true", help="torch.compile too; takes a minute")
    parser.add_argument("--n", type=int, default=256, help="series")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.manual_seed(0)
    rivals: dict[str, Run] = {}
    if importlib.util.find_spec("timevqvae"):
        warnings.filterwarnings("ignore", module="timevqvae")
        maskgit = official(args.large)
        model = tsgen.from_timevqvae(maskgit)
        rivals[OFFICIAL] = lambda: generate_official(maskgit, args.n)
    elif args.large:
        parser.error("--large needs timevqvae")
    else:
        print("timevqvae is not importable: timing tsgen alone")
        model = untrained()
    ours = {"engine torch": drawing(model, "torch", args.n)}
    if args.compile:
        ours["engine torch, torch.compile"] = drawing(compiled(model), "torch", args.n)
    ours["engine cpu"] = drawing(model, "cpu", args.n)
    expected = tokens(ours["engine torch"])
    for name, run in ours.items():
        same = float((tokens(run) == expected).all(1).double().mean())
        assert same >= SAME, f"{name}: only {same:.1%} of the series have engine torch's tokens"
    rivals |= ours
    seconds = measure.interleaved(rivals, args.rounds)
    result: dict[str, Any] = {name: measure.summary(s) for name, s in seconds.items()}
    for name, row in result.items():
        row["ratio"] = measure.ratio(seconds[name], seconds["engine cpu"])
        print(f"{name}: {row['p50_s']:.3f} s, {row['ratio']:.1f} times engine cpu")
    work = gflop(model.config, args.n)
    rate = work / result["engine cpu"]["p50_s"]
    a, b = torch.randn(2, 1024, 1024)
    peak = 2.147 / min(measure.interleaved({"mm": lambda: a @ b}, 20)["mm"])
    print(f"engine cpu: {work:.0f} GFLOP at {rate:.0f} GFLOP/s, {rate / peak:.0%} of torch.mm's")
    about = {"gflop": work, "of_mm": rate / peak, "machine": measure.machine()}
    key = f"{'large' if args.large else 'timevqvae'}, {args.n} series"
    measure.save("against_timevqvae", {key: {"rivals": result, **about}})


if __name__ == "__main__":
    main()
