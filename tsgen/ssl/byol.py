"""BYOL: from each view the embedding that a slowly following network gives the other.

    L = (2 - 2 cos(q(z_a), z'_b)) + (2 - 2 cos(q(z_b), z'_a))          ξ ← τ ξ + (1 - τ) θ

Grill et al. 2020, "Bootstrap Your Own Latent", equations 1 and 2 and the symmetric loss below them.
"""

from torch import Tensor

from tsgen.config import SslConfig
from tsgen.ssl.heads import mlp
from tsgen.ssl.siamese import Siamese

WEIGHT = 1.0
MOMENTUM = 0.99


def loss(cos_a_B: Tensor, cos_b_B: Tensor) -> Tensor:
    """Of the cosines (B,) between predictions of each view and targets of the other."""
    return (2 - 2 * cos_a_B).mean() + (2 - 2 * cos_b_B).mean()


def objective(n_features: int, config: SslConfig) -> Siamese:
    """Two linear layers project and two predict, as in the paper."""
    width = config.projector_width
    projector, predictor = mlp(n_features, width, width), mlp(width, width, width)
    return Siamese(projector, predictor, loss, slow_target=True)
