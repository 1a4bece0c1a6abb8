"""The exact mean of the experts' updates: dW = 1/T * sum_t dW_t, dW_t = scaling_t * B_t A_t.

What SELMA's text (arXiv 2403.06952, section 3.4) means by merging; its formula is factor_mean's. The result has the sum
of the experts' ranks, so its file is as large as theirs together.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from selma.lora.files import LoraWeights


def merge(experts: Mapping[str, LoraWeights]) -> LoraWeights:
    """The mean of the updates, at the sum of the ranks.

    The factors are concatenated, each B carrying its expert's scaling and the weight 1/T; scaling becomes 1.
    """
    loras = list(experts.values())
    factors = {}
    for module in loras[0].factors:
        a = torch.cat([expert.factors[module][0] for expert in loras])
        b = torch.cat([expert.factors[module][1] * (expert.scaling / len(loras)) for expert in loras], dim=1)
        factors[module] = (a, b)
    rank = sum(expert.rank for expert in loras)
    return LoraWeights(factors, 1.0, {"alpha": float(rank), "rank": rank})
