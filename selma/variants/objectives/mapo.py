"""MaPO: learn from preferred images and from pairs at once, without a reference (Hong et al., arXiv 2406.06424).

    h(L) = s L / (exp(s L) - 1),   loss = mean(L_w) - beta mean(log sigmoid(T (h(L_w) - h(L_l))))

L are mean squared errors of the prediction for the winner and the loser, with the same noise at the same time; s = 0.5
and T = 1000 are the authors' code's. Without a reference's pass of the UNet a step costs about three quarters of dpo's.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from selma.experts import pairwise

PAIRS = True
OPTIONS = {"beta": {"default": 0.1, "gt": 0}}
SCALE, STEPS = 0.5, 1000

draw_batch = pairwise.draw_pairs


def batch_loss(unet: torch.nn.Module, batch: pairwise.Pairs, *, beta: float) -> torch.Tensor:
    """The loss, a scalar."""
    winners, losers = pairwise.errors(unet, batch)
    preferred = functional.logsigmoid(STEPS * (odds(winners) - odds(losers)))
    return winners.mean() - beta * preferred.mean()


def odds(error: torch.Tensor) -> torch.Tensor:
    """h(L), of errors L >= 0: from 1 at no error down to 0, with a finite slope everywhere (-s/2 at no error)."""
    u = SCALE * error
    small = u < 1e-3
    # u / (e^u - 1), by e^-u: e^u overflows, and the slope of what is not taken must be a number, too
    safe = torch.where(small, 1.0, u)
    return torch.where(small, 1 - u / 2 + u**2 / 12, safe * torch.exp(-safe) / -torch.expm1(-safe))
