"""VICReg: views agree, every feature varies, no two features covary.

    L = λ s(a, b) + μ (v(a) + v(b)) + ν (c(a) + c(b))

Bardes et al. 2022, "VICReg", equations 1 to 6; s and the coefficients as in algorithm 1.
"""

import torch.nn.functional as F
from torch import Tensor

from tsgen.config import SslConfig
from tsgen.ssl.heads import mlp
from tsgen.ssl.joint_embedding import JointEmbedding, off_diagonal

WEIGHT = 0.01
INVARIANCE, VARIANCE, COVARIANCE = 25.0, 25.0, 1.0


def loss(a_BE: Tensor, b_BE: Tensor) -> Tensor:
    """Of the embeddings (B, E) of both views."""
    spread = variance(a_BE) + variance(b_BE)
    redundancy = covariance(a_BE) + covariance(b_BE)
    return INVARIANCE * F.mse_loss(a_BE, b_BE) + VARIANCE * spread + COVARIANCE * redundancy


def variance(z_BE: Tensor, eps: float = 1e-4) -> Tensor:
    """v: how far features' standard deviations fall short of 1, on average (equation 1)."""
    return F.relu(1 - (z_BE.var(0) + eps).sqrt()).mean()


def covariance(z_BE: Tensor) -> Tensor:
    """c: squares of the covariances of different features, summed, over E (equations 3 and 4)."""
    B, E = z_BE.shape
    z_BE = z_BE - z_BE.mean(0)
    return off_diagonal(z_BE.T @ z_BE / (B - 1)) / E


def objective(n_features: int, config: SslConfig) -> JointEmbedding:
    """Three linear layers, and the loss over the batch."""
    width = config.projector_width
    return JointEmbedding(mlp(n_features, width, width, width), loss)
