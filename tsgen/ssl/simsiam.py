"""SimSiam: from each view the embedding of the other, which is held fixed.

    L = -cos(h(z_a), stop(z_b)) / 2 - cos(h(z_b), stop(z_a)) / 2

Chen and He 2021, "Exploring Simple Siamese Representation Learning", equations 1 to 4.
"""

from torch import Tensor

from tsgen.config import SslConfig
from tsgen.ssl.heads import mlp
from tsgen.ssl.siamese import Siamese

WEIGHT = 1.0
BOTTLENECK = 4  # the predictor narrows to a quarter: 512 of 2,048 in the paper


def loss(cos_a_B: Tensor, cos_b_B: Tensor) -> Tensor:
    """Of the cosines (B,) between predictions of each view and embeddings of the other."""
    return -cos_a_B.mean() / 2 - cos_b_B.mean() / 2


def objective(n_features: int, config: SslConfig) -> Siamese:
    """Three linear layers with a last batch norm project, and a bottleneck predicts."""
    width = config.projector_width
    projector = mlp(n_features, width, width, width, norm_last=True)
    predictor = mlp(width, max(1, width // BOTTLENECK), width)
    return Siamese(projector, predictor, loss, slow_target=False)
