"""Lengths and angles of LoRA updates, on the low-rank factors: no dense update is ever formed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selma.lora.files import LoraWeights


def inner(a: LoraWeights, b: LoraWeights) -> float:
    """Frobenius inner product of two dense updates, all layers concatenated, without forming them.

    <B1 A1, B2 A2> = trace(A1^T B1^T B2 A2) = sum((B1^T B2) * (A1 A2^T)), two small [rank, rank] matrices.
    """
    total = 0.0
    for module, (a1, b1) in a.factors.items():
        a2, b2 = b.factors[module]
        a1, b1, a2, b2 = (
            factor.flatten(1).double() for factor in (a1, b1, a2, b2)
        )  # a convolution's are 4-d
        left, right = b1.T @ b2, a1 @ a2.T
        total += float((left * right).sum())
    return a.scaling * b.scaling * total


def norm(a: LoraWeights) -> float:
    """Frobenius norm of the dense update, all layers concatenated."""
    return max(inner(a, a), 0.0) ** 0.5  # rounding may leave a zero update a little below zero


def cosine(a: LoraWeights, b: LoraWeights) -> float:
    """Cosine between two dense updates, -1..1; 0 when one of them is zero (an untrained expert)."""
    length = norm(a) * norm(b)
    return inner(a, b) / length if length else 0.0
