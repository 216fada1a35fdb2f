"""How a gradient passes a quantiser, which has none: q(x) forward, some linear map of x backward.

    straight-through  ∂q/∂x = I          Bengio et al. 2013 (arXiv 1308.3432)
    rotation          ∂q/∂x = λ R        Fifty et al. 2024 (arXiv 2410.06424), section 4.2

R turns x towards q, in the plane of both; λ = |q| / |x|. What comes back keeps its angle to q as
one to x, so that vectors on different sides of a code are pushed differently.
M vectors of D dims.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

SHORTEST = 1e-12  # a vector that has a direction; `F.normalize` brings no shorter one to length 1


def straight_through(x_MD: Tensor, q_MD: Tensor) -> Tensor:
    """q forward; backward to x as if nothing had happened."""
    return x_MD + (q_MD - x_MD).detach()


def rotated(x_MD: Tensor, q_MD: Tensor) -> Tensor:
    """q forward; backward to x by the rotation and the scale that take x to q."""
    return straight_through(rotate(x_MD, q_MD), q_MD)


def rotate(x_MD: Tensor, q_MD: Tensor) -> Tensor:
    """λ R x, with λ and R as constants: R = I - 2 r rᵀ + 2 q̂ x̂ᵀ, r = (x̂ + q̂) / |x̂ + q̂|.

    Where q points exactly away from x no plane is given: there r is 0, and R a reflection. Where x
    is 0 there is nothing to turn: x, straight-through.
    """
    with torch.no_grad():
        from_MD, to_MD = F.normalize(x_MD, dim=1), F.normalize(q_MD, dim=1)
        between_MD = F.normalize(from_MD + to_MD, dim=1)
        length_M1 = torch.linalg.vector_norm(x_MD, dim=1, keepdim=True)
        wanted_M1 = torch.linalg.vector_norm(q_MD, dim=1, keepdim=True)
        scale_M1 = wanted_M1 / length_M1.clamp_min(SHORTEST)
    along_between_M1 = (x_MD * between_MD).sum(1, keepdim=True)
    along_x_M1 = (x_MD * from_MD).sum(1, keepdim=True)
    turned_MD = x_MD - 2 * along_between_M1 * between_MD + 2 * along_x_M1 * to_MD
    return torch.where(length_M1 > SHORTEST, scale_M1 * turned_MD, x_MD)


GRADIENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "straight_through": straight_through,
    "rotation": rotated,
}
