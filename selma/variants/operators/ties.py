"""TIES: trim, elect sign, merge (Yadav et al., NeurIPS 2023, arXiv 2306.01708, Algorithm 1).

    trim    of each expert's dW_t the share `density` of entries of largest size is kept, the rest is 0
    elect   the sign of each entry: sign(sum_t dW_t), or by majority (`sign: count`)
    merge   dW = scale * mean of those dW_t that have the elected sign, entry by entry

On dense updates, a layer at a time: trimming is per layer, as in peft and mergekit, where the paper trims all layers
together. The result has full rank; `rank` factors of it are kept (0: the sum of the experts' ranks), and what that
loses is `found.truncation`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from selma.lora.files import LoraWeights
from selma.merging.layers import from_deltas
from selma.merging.sparse import elected_mean, trim

OPTIONS = {
    "density": {"default": 0.2, "gt": 0, "le": 1},  # the paper's
    "sign": {"default": "total", "one_of": ("total", "count")},
    "scale": {"default": 1.0},
    "rank": {"default": 0, "ge": 0},
}


def merge(
    experts: Mapping[str, LoraWeights], *, density: float, sign: str, scale: float, rank: int
) -> LoraWeights:
    """The trimmed, sign-elected mean of the updates."""

    def combine(module: str, updates: dict[str, torch.Tensor]) -> torch.Tensor:
        return scale * elected_mean(torch.stack([trim(each, density) for each in updates.values()]), sign)

    return from_deltas(experts, combine, rank)
