"""VIbCReg: VICReg with covariances of normalised features, and embeddings normalised iteratively.

    L = λ s(a, b) + μ (v(a) + v(b)) + ν (c(a) + c(b))          c: of correlations, over E²

Lee and Aune 2021, "Computer Vision Self-supervised Learning Methods on Time Series"
(arXiv 2109.00783), with a gain and a shift after the iterative normalisation, as their code has it;
nu and the weight as in NC-VQVAE (2024), where their code has nu = 200.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from tsgen.config import SslConfig
from tsgen.ssl.heads import IterNorm, mlp
from tsgen.ssl.joint_embedding import JointEmbedding, off_diagonal, unit_columns
from tsgen.ssl.vicreg import variance

WEIGHT = 0.01
INVARIANCE, VARIANCE, COVARIANCE = 25.0, 25.0, 100.0


def loss(a_BE: Tensor, b_BE: Tensor) -> Tensor:
    """Of the embeddings (B, E) of both views."""
    spread = variance(a_BE) + variance(b_BE)
    redundancy = correlation(a_BE) + correlation(b_BE)
    return INVARIANCE * F.mse_loss(a_BE, b_BE) + VARIANCE * spread + COVARIANCE * redundancy


def correlation(z_BE: Tensor) -> Tensor:
    """c: mean square of the correlations of different features, with E² in the mean."""
    unit_BE = unit_columns(z_BE)
    return off_diagonal(unit_BE.T @ unit_BE) / z_BE.shape[1] ** 2


def objective(n_features: int, config: SslConfig) -> JointEmbedding:
    """Three linear layers, the last one normalised, and the loss over the batch."""
    width = config.projector_width
    projector = nn.Sequential(mlp(n_features, width, width, width), IterNorm(width))
    return JointEmbedding(projector, loss)
