"""How often engines cpu and torch draw other tokens, and by how little their logits decide it.

    python benchmarks/agreement.py [--n 10000]

The bundled models, both in float32, and engine torch in float64 beside them. A series that the two
draw differently is drawn again in float64 with every logit moved by a random number below 1e-4: if
engine cpu's tokens come out of one of the draws, the difference is a tie closer than that. Goes to
results/agreement.json.
"""

import argparse
import copy
from typing import Any

import measure
import numpy as np
import torch
from torch import Tensor

import tsgen
from tsgen import bundled
from tsgen.config import SamplingConfig
from tsgen.engine_cpu import CpuEngine
from tsgen.engine_torch import TorchEngine
from tsgen.network import Network
from tsgen.request import Request

GAP = 1e-4  # of a logit
TRIES = 200
AT_ONCE = 512


def joined(tokens: list[Tensor]) -> Tensor:
    """All bands' tokens of every series, (B, N)."""
    return torch.cat(tokens, 1)


def explained(
    network: Network, request: Request, settings: SamplingConfig, wanted_BN: Tensor
) -> Tensor:
    """(B,) bool: whether logits within GAP of the exact ones give the wanted tokens."""
    network = copy.deepcopy(network).double()
    exact = [prior.head_bias.detach().clone() for prior in network.each_prior()]
    rng = torch.Generator().manual_seed(0)
    found_B = torch.zeros(len(wanted_BN), dtype=torch.bool)
    for trial in range(TRIES):
        for prior, bias_K in zip(network.each_prior(), exact, strict=True):
            move_K = torch.rand(len(bias_K), generator=rng, dtype=torch.float64) * 2 - 1
            with torch.no_grad():
                prior.head_bias.copy_(bias_K + (GAP * move_K if trial else 0))
        drawn_BN = joined(TorchEngine(network).tokens(request, settings))
        found_B |= (drawn_BN == wanted_BN).all(1)
        if found_B.all():
            break
    return found_B


def compare(name: str, n: int) -> dict[str, Any]:
    """Count the series of a bundled model that differ, and those without an explanation."""
    model = tsgen.load(name)
    network, settings = model.network, model.config.sampling
    exact = TorchEngine(copy.deepcopy(network).double())
    engines = CpuEngine(network), TorchEngine(network), exact
    count = dict.fromkeys(
        ("cpu and torch", "unexplained", "cpu and float64", "torch and float64"), 0
    )
    for first in range(0, n, AT_ONCE):
        index_B = np.arange(first, min(n, first + AT_ONCE))
        request = Request(index_B, index_B % max(1, model.config.n_classes))
        native_BN, torch_BN, exact_BN = (
            joined(engine.tokens(request, settings)) for engine in engines
        )
        count["cpu and float64"] += int((native_BN != exact_BN).any(1).sum())
        count["torch and float64"] += int((torch_BN != exact_BN).any(1).sum())
        places = (native_BN != torch_BN).any(1).nonzero()[:, 0].numpy()
        if len(places):
            found_B = explained(network, request.at(places), settings, native_BN[places])
            count["cpu and torch"] += len(places)
            count["unexplained"] += int((~found_B).sum())
    row: dict[str, Any] = {"series": n} | count
    print(f"{name}: {row}")
    return row | {"machine": measure.machine()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=10_000, help="series of each model")
    args = parser.parse_args()
    for name in bundled.names():
        measure.save("agreement", {name: compare(name, args.n)})


if __name__ == "__main__":
    main()
