"""Everything that has weights: the tokenizer and one prior per band, or a vae."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tsgen.config import ModelConfig
from tsgen.prior import Prior
from tsgen.tokenizer import Tokenizer
from tsgen.vae import Vae


class Unfilled(TorchFunctionMode):
    """Leaves out the filling of new weights: on the meta device it takes seconds and fills none."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


class Network(nn.Module):
    """Tokenizer and priors, as one module: train, move, compile and save it like any other.

    A vae, if that is the family, instead of both.
    """

    tokenizer: Tokenizer
    vae: Vae

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        if config.family == "vae":
            self.vae = Vae(config)
        else:
            self.tokenizer = Tokenizer(config.tokenizer)
        self.priors = nn.ModuleList([Prior(config, b) for b in range(len(config.priors))])

    @property
    def like(self) -> Tensor:
        """A tensor with the device and the dtype of the weights."""
        return (self.vae if self.config.family == "vae" else self.tokenizer).window_W

    @staticmethod
    def shapes(config: ModelConfig) -> dict[str, tuple[torch.Size, torch.dtype]]:
        """Shape and dtype of every tensor in the state of such a network; allocates none."""
        with torch.device("meta"), Unfilled():
            state = Network(config).state_dict()
        return {name: (tensor.shape, tensor.dtype) for name, tensor in state.items()}

    @staticmethod
    def from_state(config: ModelConfig, state: dict[str, Tensor]) -> "Network":
        """A network with these weights, in eval mode. No random number is drawn."""
        with torch.device("meta"), Unfilled():
            network = Network(config)
        network.load_state_dict(state, assign=True)
        return network.eval()

    def each_prior(self) -> list[Prior]:
        """The priors, low band first."""
        return [cast(Prior, prior) for prior in self.priors]
