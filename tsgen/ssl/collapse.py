"""Whether an encoder still tells series apart: what training reports beside the loss."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def feature_std(x_BF: Tensor) -> float:
    """Mean standard deviation of a feature of x / |x|, times sqrt(F).

    0 where all series are alike, 1 where they point in all directions. Chen and He 2021 (SimSiam),
    section 4.1.
    """
    unit_BF = F.normalize(x_BF.detach().double(), dim=1)
    return float(unit_BF.std(0, unbiased=False).mean()) * math.sqrt(x_BF.shape[1])


def effective_rank(x_BF: Tensor) -> float:
    """exp of the entropy of the singular values, as shares, of x about its mean.

    How many directions the series of a batch differ in; at most min(B - 1, F), and 1 for none.
    Roy and Vetterli 2007; as a measure of collapse: Garrido et al. 2023 (RankMe).
    """
    x_BF = x_BF.detach().double().cpu()
    values = torch.linalg.svdvals(x_BF - x_BF.mean(0))
    share = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    return float(torch.special.entr(share).sum().exp())
