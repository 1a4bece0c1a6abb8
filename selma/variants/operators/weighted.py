"""A weighted sum of the experts' updates: dW = scale * sum_t w_t dW_t.

Task arithmetic (Ilharco et al., arXiv 2212.04089, section 3); a negative weight takes an expert away. Exact, at the sum
of the experts' ranks; peft's `cat` is the same.
"""

from __future__ import annotations

from collections.abc import Mapping

from selma.lora.files import LoraWeights
from selma.merging.layers import from_sums

# weights: by expert, default 1/T each. scale: of the whole; 1.3 to 1.5 makes up for what a mean of orthogonal updates
# loses in length.
OPTIONS = {"weights": {"default": None, "weights": True}, "scale": {"default": 1.0}}


def merge(
    experts: Mapping[str, LoraWeights], *, weights: Mapping[str, float] | None, scale: float
) -> LoraWeights:
    """The weighted sum of the updates, by concatenation of the factors."""
    weights = weights or dict.fromkeys(experts, 1 / len(experts))
    return from_sums(experts, {name: scale * weight for name, weight in weights.items()})
