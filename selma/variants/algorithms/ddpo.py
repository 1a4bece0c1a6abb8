"""DDPO (arXiv 2305.13301, section 4.3): each step of a noisy DDIM rollout is an action with a Gaussian density.

    is (importance sampling, equation 5):  ratio = exp(log p - log p_old)
        loss = max(-A ratio, -A clamp(ratio, 1 - clip, 1 + clip))
    sf (score function, equation 4):       loss = -A log p, one update of a round, on the policy that drew it

log p is a mean over the latents' dimensions (selma/policies/transitions.py), which is why a clip of 1e-4 works.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from selma.policies.batch import Batch
from selma.policies.surrogate import clipped, log_densities

NEEDS = {"old": None}
DRAWN_BY = "new"
STEPS = True
OPTIONS = {
    "learning_rate": {"default": 3e-4, "gt": 0},
    "passes": {"default": 1, "ge": 1},
    "updates": {"default": 2, "ge": 1},
    "form": {"default": "ddim", "one_of": ["ddim", "cps"]},
    "eta": {"default": 1.0, "gt": 0, "le": 1},
    "gradient": {"default": "is", "one_of": ["is", "sf"]},
    "fraction": {"default": 1.0, "gt": 0, "le": 1},  # of the noisy steps, by chance, in each pass
    "clip_range": {"default": 1e-4, "gt": 0},
    "clip": {"default": 5.0, "gt": 0},
}


def loss(prediction: torch.Tensor, batch: Batch, settings: Mapping[str, Any]) -> torch.Tensor:
    """The loss [n] of the predictions at a batch of a rollout's steps."""
    advantage = batch.advantage.clamp(-settings["clip"], settings["clip"])
    new, old = log_densities(prediction, batch)
    if settings["gradient"] == "sf":
        return -advantage * new
    return clipped(new, old, advantage, settings["clip_range"])
