"""How many tokens are still masked after each decoding step.

    masked after step t of S:  floor(n_unknown γ((t + 1) / S))          γ in SCHEDULES, float64

Chang et al. 2022 (MaskGIT), section 3.3 and appendix; "log" and "exp" as in their code.
"""

import math

import torch
from torch import Tensor


def masked_share(schedule: str, ratio: float, n_unknown: int) -> float:
    """γ: the share of unknown tokens still masked once `ratio` of the steps are done."""
    powers = {"linear": 1.0, "square": 2.0, "cubic": 3.0, "sqrt": 0.5}
    bits = math.log2(max(2, n_unknown))
    if schedule in powers:
        share = 1.0 - ratio ** powers[schedule]
    elif schedule == "cosine":
        share = math.cos(math.pi / 2 * ratio)
    elif schedule == "log":
        share = -math.log2(ratio) / bits
    else:
        share = 1 - 2 ** (-bits * (1 - ratio))
    return min(1.0, max(0.0, float(share)))


def masked_counts(schedule: str, steps: int, n_unknown: int) -> list[int]:
    """How many tokens are masked after each step; 0 after the last."""
    counts = [
        math.floor(n_unknown * masked_share(schedule, (t + 1) / steps, n_unknown))
        for t in range(steps)
    ]
    return [*counts[:-1], 0]


def masked_plan(schedule: str, steps: int, unknown_B: Tensor) -> Tensor:
    """Masked positions of every row after every step, from how many are unknown: (B, S) int64."""
    unique_U, which_B = unknown_B.unique(return_inverse=True)
    plans = [masked_counts(schedule, steps, n) for n in unique_U.tolist()]
    plans_US = torch.tensor(plans, dtype=torch.int64, device=unknown_B.device)
    return plans_US.view(-1, steps)[which_B]
