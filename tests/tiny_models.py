"""Small models that are not trained but whose choices spread as a trained one's do."""

from typing import Any

import numpy as np
import torch

from tsgen import Model
from tsgen.config import ModelConfig, PriorConfig, SamplingConfig, TokenizerConfig
from tsgen.data import Labels, Scaler
from tsgen.network import Network


def tiny_config(
    *,
    bands: int = 2,
    length: int = 24,
    n_channels: int = 1,
    n_classes: int = 3,
    n_codes: tuple[int, ...] = (12, 40),
    sampling: dict[str, Any] | None = None,
    tokenizer: dict[str, Any] | None = None,
    prior: dict[str, Any] | None = None,
    **changes: Any,
) -> ModelConfig:
    """Two layers, two heads, width 8: as small as still has every part."""
    sizes: dict[str, Any] = {
        "token_width": (4, 8)[:bands],
        "init_dim": 2,
        "max_dim": 4,
        "hidden_dim": 8,
        "n_resblocks": 1,
        "n_codes": n_codes[:bands],
        "code_dim": 4,
    }
    settings: dict[str, Any] = {
        "steps": (5, 3)[:bands],
        "choice_temperature": (4.0, 1.0)[:bands],
    }
    widths: dict[str, Any] = {"embed_dim": 8, "hidden_dim": 8, "head_dim": 4, "ff_mult": 2}
    layers: dict[str, Any] = {"n_layers": 2, "n_heads": 2}
    return ModelConfig(
        tokenizer=TokenizerConfig(
            n_channels=n_channels, length=length, bands=bands, **sizes | (tokenizer or {})
        ),
        priors=(PriorConfig(**widths | layers | (prior or {})),) * bands,
        n_classes=n_classes,
        sampling=SamplingConfig(**settings | (sampling or {})),
        **changes,
    )


def tiny_network(config: ModelConfig | None = None, *, seed: int = 0, **sizes: Any) -> Network:
    """In eval mode, with random statistics in its norms and logits a few nats apart."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Network(config or tiny_config(**sizes))
        with torch.no_grad():
            codes = [band.codebook.codes() for band in network.tokenizer.each()]
            for prior in network.each_prior():
                prior.see(codes)
                for p in prior.parameters():
                    p.add_(0.3 * torch.randn_like(p))
                prior.classes.weight.mul_(3)
            for band in network.tokenizer.each():
                for name, p in band.named_parameters():
                    if p.dim() > 1 and not name.startswith("codebook.codes"):
                        p.mul_(2)
            for name, buffer in network.named_buffers():
                if name.endswith("running_mean"):
                    buffer.normal_(std=0.1)
                elif name.endswith("running_var"):
                    buffer.uniform_(0.5, 2.0)
    return network.eval()


def tiny_model(*, names: tuple[str, ...] = ("bell", "cylinder", "funnel"), **sizes: Any) -> Model:
    """A Model around it; channel c has mean 10 (c + 1) and standard deviation c + 2."""
    network = tiny_network(n_classes=len(names), **sizes)
    channels = range(network.config.tokenizer.n_channels)
    scaler = Scaler(tuple(10.0 * (c + 1) for c in channels), tuple(c + 2.0 for c in channels))
    return Model(network, scaler, Labels(names) if names else None)


def smooth_series(n: int, n_channels: int, length: int, seed: int = 0) -> np.ndarray:
    """(n, channels, length) float32: a slow sine each, between 8 and 32."""
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 2 * np.pi, (n, n_channels, 1))
    wave = np.sin(2 * np.pi * np.arange(length) / length + phase)
    return (20 + 12 * wave).astype(np.float32)
