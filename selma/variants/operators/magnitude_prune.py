"""The mean of the experts' largest entries: dW = scale / T * sum_t trim(dW_t, density).

peft's `magnitude_prune`, on dense updates where peft prunes factors. Each layer of an expert keeps its share `density`
of entries of largest size. A layer at a time; the result has full rank, of which `rank` factors are kept (0: the sum of
the experts' ranks), and what that loses is `found.truncation`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from selma.lora.files import LoraWeights
from selma.merging.layers import from_deltas
from selma.merging.sparse import trim

OPTIONS = {
    "density": {"default": 0.5, "gt": 0, "le": 1},
    "scale": {"default": 1.0},
    "rank": {"default": 0, "ge": 0},
}


def merge(experts: Mapping[str, LoraWeights], *, density: float, scale: float, rank: int) -> LoraWeights:
    """The mean of the pruned updates."""

    def combine(module: str, updates: dict[str, torch.Tensor]) -> torch.Tensor:
        return scale * torch.stack([trim(each, density) for each in updates.values()]).mean(0)

    return from_deltas(experts, combine, rank)
