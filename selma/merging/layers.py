"""What operators are written with: one layer at a time, as factors or as a dense update, then one LoRA of all layers.

A layer's factors are A [rank, n] and B [out, rank] here, whatever the layer: of a convolution n is in * h * w, so that
its update is the same product. No more than one layer's dense updates are in memory at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from selma.lora.files import LoraWeights

Experts = Mapping[str, LoraWeights]
Factors = tuple[torch.Tensor, torch.Tensor]


def modules(experts: Experts) -> list[str]:
    """The layers that the experts adapt, all the same ones."""
    return list(next(iter(experts.values())).factors)


def flat(expert: LoraWeights, module: str) -> Factors:
    """A [rank, n] and B [out, rank] of a layer; B carries the scaling, so that the update is B @ A."""
    a, b = expert.factors[module]
    return a.flatten(1), b.flatten(1) * expert.scaling


def stacked(experts: Experts, module: str, weights: Mapping[str, float] | None = None) -> Factors:
    """All experts' factors of a layer side by side, A [sum of ranks, n] and B [out, sum of ranks].

    B @ A is the sum of the updates, each times its weight, by default 1: exact, at the sum of the ranks.
    """
    pairs = {name: flat(expert, module) for name, expert in experts.items()}
    weights = dict.fromkeys(pairs, 1.0) if weights is None else weights
    a = torch.cat([a for a, _ in pairs.values()])
    return a, torch.cat([b * weights[name] for name, (_, b) in pairs.items()], dim=1)


def total_rank(experts: Experts) -> int:
    """Sum of the experts' ranks: the rank at which any weighted sum of them is exact."""
    return sum(expert.rank for expert in experts.values())


def from_layers(
    experts: Experts, layer: Callable[[str], Factors], found: Mapping[str, object] | None = None
) -> LoraWeights:
    """One LoRA of `layer(module)`'s factors A [rank, n] and B [out, rank], in the shape of the experts' layers.

    Factors of less than the largest rank are filled up with zeros: a LoRA has one rank. `found` is what the operator
    has to say about the result; it is kept in lora.json and in the merge's metrics.
    """
    made = {}
    for module in modules(experts):
        a, b = layer(module)
        made[module] = a.float(), b.float()  # operators compute in float64, which all layers have no room for
    rank = max(len(a) for a, _ in made.values())
    for module, (a, b) in made.items():
        made[module] = _shaped(a, b, rank, *next(iter(experts.values())).factors[module])
    provenance = {"alpha": float(rank), "rank": rank, **({"found": dict(found)} if found else {})}
    return LoraWeights(made, 1.0, provenance)


def _shaped(
    a: torch.Tensor, b: torch.Tensor, rank: int, like_a: torch.Tensor, like_b: torch.Tensor
) -> Factors:
    if len(a) < rank:
        a = torch.cat([a, a.new_zeros(rank - len(a), a.shape[1])])
        b = torch.cat([b, b.new_zeros(len(b), rank - b.shape[1])], dim=1)
    return a.reshape(rank, *like_a.shape[1:]), b.reshape(len(b), rank, *like_b.shape[2:])


def from_sums(experts: Experts, weights: Mapping[str, float]) -> LoraWeights:
    """The weighted sum of the updates, dW = sum_t w_t * dW_t, exactly, at the sum of the ranks."""
    return from_layers(experts, lambda module: stacked(experts, module, weights))


def from_deltas(
    experts: Experts, combine: Callable[[str, dict[str, torch.Tensor]], torch.Tensor], rank: int = 0
) -> LoraWeights:
    """One LoRA of `combine(module, {expert: update [out, n]})`, an update [out, n], of `rank` factors a layer.

    Rank 0 is the sum of the experts' ranks. The best approximation of that rank is kept (Eckart and Young 1936); what
    it costs is `found.truncation`: the norm of what is lost over the norm of what was to be kept, all layers together.
    """
    rank = rank or total_rank(experts)
    lost = kept = 0.0

    def layer(module: str) -> Factors:
        nonlocal lost, kept
        updates = {name: torch.mm(*flat(expert, module)[::-1]) for name, expert in experts.items()}
        dense = combine(module, updates)
        a, b, missing = factorize(dense, rank)
        lost, kept = lost + missing, kept + float(dense.double().square().sum())
        return a, b

    merged = from_layers(experts, layer)
    merged.provenance["found"] = {"truncation": round((lost / kept) ** 0.5, 6) if kept else 0.0}
    return merged


def factorize(dense: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Factors A [r, n] and B [out, r] of the best approximation of `dense` [out, n], r <= rank, and the squared loss.

    By the eigenvectors of the smaller Gram matrix, in float64: several times as fast as an SVD, as exact in float32.
    """
    out, n = dense.shape
    if rank >= min(out, n):  # all of it
        unit = torch.eye(min(out, n), dtype=dense.dtype)
        return (dense, unit, 0.0) if out <= n else (unit, dense, 0.0)
    if out > n:
        b, a, lost = factorize(dense.T, rank)
        return a.T, b.T, lost
    exact = dense.double()
    axes = torch.linalg.eigh(exact @ exact.T).eigenvectors[:, -rank:]
    a = axes.T @ exact
    return a, axes, max(float(exact.square().sum() - a.square().sum()), 0.0)


def truncate(a: torch.Tensor, b: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """The best approximation of B @ A of `rank`, as factors, and the squared loss, without forming the product.

    QR of both factors leaves a square core of their rank, whose SVD is the product's.
    """
    right, core_a = torch.linalg.qr(a.double().T)
    left, core_b = torch.linalg.qr(b.double())
    u, s, v = torch.linalg.svd(core_b @ core_a.T, full_matrices=False)
    root = s[:rank].sqrt()
    return (
        (v[:rank] * root[:, None]) @ right.T,
        left @ (u[:, :rank] * root),
        float(s[rank:].square().sum()),
    )
