"""The floor that every algorithm should beat: denoise the better half of each group, as if it were data.

    loss = [A > 0] mse(v, target)

It is expert iteration, or filtered SELMA made online (best-of-n without a reference; RAFT, arXiv 2304.06767).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from selma.policies.batch import Batch, mse

NEEDS = {}
DRAWN_BY = "new"
STEPS = False
OPTIONS = {
    "learning_rate": {"default": 3e-4, "gt": 0},
    "passes": {"default": 2, "ge": 1},
    "updates": {"default": 3, "ge": 1},
}


def loss(prediction: torch.Tensor, batch: Batch, settings: Mapping[str, Any]) -> torch.Tensor:
    """The loss [n] of the predictions at a batch of noisy pictures."""
    better = (batch.advantage > 0).float()
    return better * mse(prediction, batch.target)
