"""Everything that has weights: the tokenizer and one prior per band."""

from typing import cast

from torch import nn

from tsgen.config import ModelConfig
from tsgen.prior import Prior
from tsgen.tokenizer import Tokenizer


class Network(nn.Module):
    """Tokenizer and priors, as one module: train, move, compile and save it like any other."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = Tokenizer(config.tokenizer)
        self.priors = nn.ModuleList([Prior(config, b) for b in range(config.tokenizer.bands)])

    def each_prior(self) -> list[Prior]:
        """The priors, low band first."""
        return [cast(Prior, prior) for prior in self.priors]
