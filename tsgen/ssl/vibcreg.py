"""VIbCReg: VICReg with covariances of normalised features, and whitened embeddings.

    L = λ s(a, b) + μ (v(a) + v(b)) + ν (c(a) + c(b))          c: of correlations, over E²

Lee and Aune 2021, "Computer Vision Self-supervised Learning Methods on Time Series"
(arXiv 2109.00783); iterative normalisation: see `iter_norm`.
"""

import torch.nn.functional as F
from torch import Tensor

from tsgen.config import SslConfig
from tsgen.ssl.heads import iter_norm, mlp
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


def whitened_loss(a_BE: Tensor, b_BE: Tensor) -> Tensor:
    """Of embeddings whose last layer is the iterative normalisation."""
    return loss(iter_norm(a_BE), iter_norm(b_BE))


def objective(n_features: int, config: SslConfig) -> JointEmbedding:
    """Three linear layers, and the loss over the batch."""
    width = config.projector_width
    return JointEmbedding(mlp(n_features, width, width, width), whitened_loss)
