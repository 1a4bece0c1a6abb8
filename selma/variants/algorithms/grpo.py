"""Flow-GRPO (arXiv 2505.05470), in its fast form: noise in a few steps of the rollout's first half, no guidance, no KL.

    loss = max(-A ratio, -A clamp(ratio, 1 - clip_range, 1 + clip_range)) + kl D

`form` cps is the coefficient-preserving step (Flow-CPS, arXiv 2509.05952): written for a UNet it is DDIM with noise of
std sigma_p sin(eta pi / 2). Only the steps from the share `start` to `end` of the rollout are noisy, and trained on
(MixGRPO, arXiv 2507.21802; Flow-GRPO-Fast): the rest is drawn as always, which costs nothing but drawing.
D is DPOK's gaussian divergence from the start, 0 by default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from selma.policies.batch import Batch
from selma.policies.surrogate import clipped, divergence, log_densities

NEEDS = {"old": None, "start": "kl"}
DRAWN_BY = "new"
STEPS = True
OPTIONS = {
    "learning_rate": {"default": 3e-4, "gt": 0},
    "passes": {"default": 1, "ge": 1},
    "updates": {"default": 2, "ge": 1},
    "form": {"default": "cps", "one_of": ["ddim", "cps"]},
    "eta": {"default": 0.8, "gt": 0, "le": 1},
    "start": {"default": 0.0, "ge": 0, "lt": 1},
    "end": {"default": 0.25, "gt": 0, "le": 1},
    "fraction": {"default": 1.0, "gt": 0, "le": 1},  # of the noisy steps, by chance, in each pass
    "clip_range": {"default": 1e-5, "gt": 0},
    "clip": {"default": 5.0, "gt": 0},
    "kl": {"default": 0.0, "ge": 0},
}


def loss(prediction: torch.Tensor, batch: Batch, settings: Mapping[str, Any]) -> torch.Tensor:
    """The loss [n] of the predictions at a batch of a rollout's steps."""
    advantage = batch.advantage.clamp(-settings["clip"], settings["clip"])
    new, old = log_densities(prediction, batch)
    found = clipped(new, old, advantage, settings["clip_range"])
    if settings["kl"]:
        found = found + settings["kl"] * divergence(prediction, batch.others["start"], batch)
    return found
