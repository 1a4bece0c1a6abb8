"""The weighted mean of the updates at one expert's rank: its best approximation, by SVD (Eckart and Young 1936).

dW = [scale * sum_t w_t dW_t] truncated to its `rank` largest singular values. Computed from the concatenated factors:
QR of both, SVD of a square core of the sum of the ranks, never a dense update. What is lost is `found.truncation`,
relative to the norm of the mean.
"""

from __future__ import annotations

from collections.abc import Mapping

from selma.lora.files import LoraWeights
from selma.merging.layers import Factors, from_layers, stacked, truncate

# rank: 0 is the largest of the experts' ranks; the sum of them all loses nothing, more is the same.
OPTIONS = {
    "weights": {"default": None, "weights": True},
    "scale": {"default": 1.0},
    "rank": {"default": 0, "ge": 0},
}


def merge(
    experts: Mapping[str, LoraWeights], *, weights: Mapping[str, float] | None, scale: float, rank: int
) -> LoraWeights:
    """The best approximation of the weighted mean that has rank `rank`, by default that of the largest expert."""
    rank = rank or max(expert.rank for expert in experts.values())
    weights = weights or dict.fromkeys(experts, 1 / len(experts))
    scaled = {name: scale * weight for name, weight in weights.items()}
    lost = kept = 0.0

    def layer(module: str) -> Factors:
        nonlocal lost, kept
        a, b, missing = truncate(*stacked(experts, module, scaled), rank)
        lost, kept = lost + missing, kept + float(((b.T @ b) * (a @ a.T)).sum())
        return a, b

    merged = from_layers(experts, layer)
    merged.provenance["found"] = {"truncation": round((lost / (lost + kept)) ** 0.5, 6) if lost else 0.0}
    return merged
