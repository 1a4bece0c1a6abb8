"""The paper's merge (SELMA, arXiv 2403.06952, section 3.4): the means of the experts' factors."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from selma.ground.errors import UserError
from selma.lora.files import LoraWeights

# What experts must have in common; params.yaml is checked for it before they are trained.
SAME = ("rank", "scaling")


def merge(experts: Mapping[str, LoraWeights]) -> LoraWeights:
    """The paper's merge: A = mean(A_t), B = mean(B_t), so dW = scaling / T^2 * sum_ij B_i A_j, at one rank.

    Needs the same rank and scaling of every expert; raises UserError naming one that differs.
    """
    loras = list(experts.values())
    first = loras[0]
    for expert in loras:
        for what in SAME:
            ours, theirs = getattr(first, what), getattr(expert, what)
            if ours != theirs:
                raise UserError(
                    f"merges: {_name(expert)} has {what} {theirs}, {_name(first)} has {ours}; "
                    "factor_mean needs them to be equal (delta_mean does not)"
                )
    factors = {
        module: tuple(torch.stack([expert.factors[module][i] for expert in loras]).mean(0) for i in (0, 1))
        for module in first.factors
    }
    return LoraWeights(factors, first.scaling, {"alpha": first.scaling * first.rank, "rank": first.rank})


def _name(expert: LoraWeights) -> str:
    return repr(expert.provenance.get("name", "an expert"))
