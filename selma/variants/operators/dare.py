"""DARE: drop and rescale, then the mean (Yu et al., ICML 2024, arXiv 2311.03099, equation 2).

dW = scale / T * sum_t m_t * dW_t / density, where each entry of m_t is 1 with probability `density`, else 0: delta_mean
in expectation. The masks are functions of (seed, expert, layer). On dense updates, a layer at a time; the result has
full rank, of which `rank` factors are kept (0: the sum of the experts' ranks), and what that loses, much of the
masks' own noise, is `found.truncation`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from selma.lora.files import LoraWeights
from selma.merging.layers import from_deltas
from selma.merging.sparse import drop

OPTIONS = {
    "density": {"default": 0.5, "gt": 0, "le": 1},
    "seed": {"default": 0, "ge": 0},
    "scale": {"default": 1.0},
    "rank": {"default": 0, "ge": 0},
}


def merge(
    experts: Mapping[str, LoraWeights], *, density: float, seed: int, scale: float, rank: int
) -> LoraWeights:
    """The mean of randomly pruned and rescaled updates."""

    def combine(module: str, updates: dict[str, torch.Tensor]) -> torch.Tensor:
        dropped = [drop(each, density, seed, name, module) for name, each in updates.items()]
        return scale * torch.stack(dropped).mean(0)

    return from_deltas(experts, combine, rank)
