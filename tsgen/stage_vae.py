"""The one stage of a vae: raise the bound."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tsgen.train import Stage
from tsgen.vae import Elbo, Vae

if TYPE_CHECKING:
    from tsgen.run import Run


def vae_stage(run: Run) -> Stage:
    """All the steps and minutes that a tokenizer and its priors get together."""
    vae = run.network.vae
    vae.see(run.y_train)
    compiled = run.whole(vae)
    of_tokenizer, of_prior = run.config.steps

    def loss(index: Tensor) -> tuple[Tensor, Callable[[], dict[str, float]]]:
        out: Elbo = compiled(run.x_train[run.sent(index)], *given(run, run.y_train[index]))
        return out.loss, lambda: {name: float(nats) for name, nats in out.parts.items()}

    def validate(module: torch.nn.Module) -> float:
        assert isinstance(module, Vae)
        total = torch.zeros((), dtype=torch.float64, device=run.device)
        batches = (t.split(run.config.batch_size) for t in (run.x_valid, run.y_valid))
        for x_BCL, class_B in zip(*batches, strict=True):
            total += module(x_BCL, *given(run, class_B)).loss * len(class_B)
        return float(total / len(run.y_valid))

    return Stage(
        "vae",
        vae,
        len(run.x_train),
        loss,
        validate if len(run.x_valid) else None,
        ema=True,
        learning_rate=run.config.learning_rate[0],
        steps=of_tokenizer + run.network.config.tokenizer.bands * of_prior,
        share=1.0,
    )


def given(run: Run, class_B: Tensor) -> tuple[Tensor, Tensor]:
    """Classes and standard normal numbers, drawn by torch's CPU generator, on the device."""
    noise_BD = torch.randn(len(class_B), run.network.vae.latent_dim)
    return run.sent(class_B), run.sent(noise_BD)
