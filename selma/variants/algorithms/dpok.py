"""DPOK (arXiv 2305.16381): the policy gradient of DDPO's steps with a penalty for leaving the base.

    loss = -A ratio' + kl D,   ratio' = ratio where it lies within 1 +- clip_range, constant (no gradient) outside

`penalty` is which D, two readings of its KL: `gaussian`, the paper's (equation 9), the divergence of the two steps'
densities, (mean - mean_start)^2 / (2 std^2) as a mean over dimensions; `epsilon`, its code's, mse(prediction,
prediction_start). The code clamps the ratio without PPO's maximum, so outside the band nothing is learned, for
better or worse: kept, because it is what was published. Its weights are 10 or more on the reward beside .01 on the KL,
at a rate of 1e-5. Its value network is not here: the mean of a prompt's group takes that place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from selma.policies.batch import Batch, mse
from selma.policies.surrogate import divergence, log_densities

NEEDS = {"old": None, "start": "kl"}
DRAWN_BY = "new"
STEPS = True
OPTIONS = {
    "learning_rate": {"default": 3e-4, "gt": 0},
    "passes": {"default": 1, "ge": 1},
    "updates": {"default": 2, "ge": 1},
    "form": {"default": "ddim", "one_of": ["ddim", "cps"]},
    "eta": {"default": 1.0, "gt": 0, "le": 1},
    "fraction": {"default": 1.0, "gt": 0, "le": 1},  # of the noisy steps, by chance, in each pass
    "clip_range": {"default": 1e-4, "gt": 0},
    "clip": {"default": 5.0, "gt": 0},
    "penalty": {"default": "gaussian", "one_of": ["gaussian", "epsilon"]},
    "kl": {"default": 1e-2, "ge": 0},
}


def loss(prediction: torch.Tensor, batch: Batch, settings: Mapping[str, Any]) -> torch.Tensor:
    """The loss [n] of the predictions at a batch of a rollout's steps."""
    advantage = batch.advantage.clamp(-settings["clip"], settings["clip"])
    new, old = log_densities(prediction, batch)
    band = settings["clip_range"]
    gain = advantage * (new - old).exp().clamp(1 - band, 1 + band)
    if not settings["kl"]:
        return -gain
    start = batch.others["start"]
    gap = mse(prediction, start) if settings["penalty"] == "epsilon" else divergence(prediction, start, batch)
    return -gain + settings["kl"] * gap
