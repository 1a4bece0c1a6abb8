"""Advantage-weighted matching, AWM (arXiv 2509.25050): the denoising loss, weighted by the advantage of either sign.

    w = t ((mse(v, target) + 1e-10)^p - 1e-10^p) / p          a generalised Huber, p = 1/4, t the share of the schedule
    loss = A w + kl mse(v, v_start) + hold mse(v, v_average),   A clipped to +-clip and divided by it

The gradient of A w is that of -A exp(log p - sg log p) with log p = -w, the form of the authors' code. `average` is the
moving average of the adapter, which holds back what negative advantages push without a bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from selma.policies.batch import Batch, mse

NEEDS = {"start": "kl", "average": "hold"}
DRAWN_BY = "new"
STEPS = False
OPTIONS = {
    "learning_rate": {"default": 3e-4, "gt": 0},
    "passes": {"default": 2, "ge": 1},
    "updates": {"default": 3, "ge": 1},
    "clip": {"default": 5.0, "gt": 0},
    "power": {"default": 0.25, "gt": 0, "le": 1},
    "kl": {"default": 1e-3, "ge": 0},
    "hold": {"default": 1.0, "ge": 0},
}
_TINY = 1e-10


def loss(prediction: torch.Tensor, batch: Batch, settings: Mapping[str, Any]) -> torch.Tensor:
    """The loss [n] of the predictions at a batch of noisy pictures."""
    power, clip = settings["power"], settings["clip"]
    share = (batch.times + 1) / len(batch.diffusion.alphas_cumprod)
    error = mse(prediction, batch.target)
    weight = share / power * ((error + _TINY) ** power - _TINY**power)
    advantage = batch.advantage.clamp(-clip, clip) / clip
    found = advantage * weight
    for setting, other in (("kl", "start"), ("hold", "average")):
        if settings[setting]:
            found = found + settings[setting] * mse(prediction, batch.others[other])
    return found
