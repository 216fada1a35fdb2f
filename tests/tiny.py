"""A model small enough for tests: random weights, and all the rest as in a trained one."""

import torch

from tsgen.config import ModelConfig, PriorConfig, SamplingConfig, TokenizerConfig
from tsgen.data import Labels, Scaler
from tsgen.model import Model
from tsgen.network import Network


def tiny_model(
    *, length: int = 32, channels: int = 1, names: tuple[str, ...] | None = ("a", "b c", "7")
) -> Model:
    """The same weights for the same arguments; two steps a band."""
    tokenizer = TokenizerConfig(
        n_channels=channels,
        length=length,
        token_width=(4, 8),
        max_dim=16,
        hidden_dim=16,
        n_resblocks=1,
        n_codes=(16, 16),
        code_dim=4,
    )
    prior = PriorConfig(embed_dim=16, hidden_dim=16, n_layers=1, n_heads=1, head_dim=16)
    config = ModelConfig(
        tokenizer,
        (prior, prior),
        n_classes=len(names or ()),
        sampling=SamplingConfig(steps=(2, 2), choice_temperature=(4.0, 0.0)),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Network(config)
    scaler = Scaler((3.0,) * channels, (2.0,) * channels)
    return Model(network, scaler, Labels(names) if names else None)
