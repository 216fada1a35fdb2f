"""Barlow Twins: the cross-correlation of both views' embeddings becomes the identity.

    L = Σ_i (1 - C_ii)² + λ Σ_i Σ_{j≠i} C_ij²        C_ij: correlation of a_i, b_j over the batch

Zbontar et al. 2021, "Barlow Twins", equations 1 and 2.
"""

from torch import Tensor

from tsgen.config import SslConfig
from tsgen.ssl.heads import mlp
from tsgen.ssl.joint_embedding import JointEmbedding, off_diagonal, unit_columns

WEIGHT = 1.0
LAMBDA = 5e-3  # of redundancy, as in the paper


def loss(a_BE: Tensor, b_BE: Tensor, redundancy: float = LAMBDA) -> Tensor:
    """Of the embeddings (B, E) of both views."""
    c_EE = unit_columns(a_BE).T @ unit_columns(b_BE)
    return (1 - c_EE.diagonal()).square().sum() + redundancy * off_diagonal(c_EE)


def loss_per_feature(a_BE: Tensor, b_BE: Tensor) -> Tensor:
    """The same over E, so that its weight means the same for any width."""
    return loss(a_BE, b_BE) / a_BE.shape[1]


def objective(n_features: int, config: SslConfig) -> JointEmbedding:
    """Three linear layers, and the loss over the batch."""
    width = config.projector_width
    return JointEmbedding(mlp(n_features, width, width, width), loss_per_feature)
