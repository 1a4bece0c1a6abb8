"""The exact mean of the experts' updates."""

from __future__ import annotations

import torch

from selma.lora.files import LoraWeights


def merge(experts: list[LoraWeights]) -> LoraWeights:
    """The exact mean of the updates, dW = 1/T * sum_t scaling_t * B_t A_t, at the sum of the experts' ranks.

    The factors are concatenated, each B carrying its expert's scaling and the weight 1/T; scaling becomes 1.
    """
    factors = {}
    for module in experts[0].factors:
        a = torch.cat([expert.factors[module][0] for expert in experts])
        b = torch.cat(
            [expert.factors[module][1] * (expert.scaling / len(experts)) for expert in experts], dim=1
        )
        factors[module] = (a, b)
    rank = sum(expert.rank for expert in experts)
    return LoraWeights(factors, 1.0, {"alpha": float(rank), "rank": rank})
