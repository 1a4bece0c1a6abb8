"""DiffusionNFT (arXiv 2509.16117): learn from good pictures towards, and from bad ones away, without any likelihood.

    r = clip(A / clip, -1, 1) / 2 + 1/2              how good a picture is, 0 to 1
    v+ = (1 - b) v_old + b v,   v- = (1 + b) v_old - b v        (equation 7; both are v_old where v is)
    l(u) = mse(x0(u), x0) / mean |x0(u) - x0|         the mean is a weight: no gradient passes through it
    loss = (r l(v+) + (1 - r) l(v-)) / b + kl mse(v, v_start)

x0(v) = alpha x_t - sigma v is linear in v, so the flow form of the paper's code holds for UNets of either prediction.
The authors' code clips at 5, weighs the main loss by 5 beside the same kl, and has an old_rate of .001.
Pictures are drawn by the old adapter, which follows: old <- d old + (1 - d) new, d = min(old_rate * round, old_most).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from selma.policies.batch import Batch, mse

NEEDS = {"old": None, "start": "kl"}
DRAWN_BY = "old"
STEPS = False  # trained on noisy pictures, not on the rollout's own steps
OPTIONS = {
    "learning_rate": {"default": 3e-4, "gt": 0},
    "passes": {"default": 2, "ge": 1},
    "updates": {"default": 3, "ge": 1},
    "b": {"default": 1.0, "gt": 0},
    "clip": {"default": 1.0, "gt": 0},
    "kl": {"default": 1e-4, "ge": 0},
    "old_rate": {"default": 0.02, "ge": 0},
    "old_most": {"default": 0.5, "ge": 0, "lt": 1},
}


def loss(prediction: torch.Tensor, batch: Batch, settings: Mapping[str, Any]) -> torch.Tensor:
    """The loss [n] of the predictions at a batch of noisy pictures."""
    b, old = settings["b"], batch.others["old"]
    good = (batch.advantage / settings["clip"]).clamp(-1, 1) / 2 + 0.5
    towards = _distance((1 - b) * old + b * prediction, batch)
    away = _distance((1 + b) * old - b * prediction, batch)
    found = (good * towards + (1 - good) * away) / b
    return found + settings["kl"] * mse(prediction, batch.others["start"]) if settings["kl"] else found


def _distance(prediction: torch.Tensor, batch: Batch) -> torch.Tensor:
    clean = batch.diffusion.clean(prediction, batch.noisy, batch.times)
    weight = (clean - batch.clean).abs().flatten(1).mean(dim=1).detach().clamp(min=1e-5)
    return mse(clean, batch.clean) / weight
