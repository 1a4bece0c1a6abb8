"""Merge LoRA experts into one LoRA (SELMA, section 3.4), and compare experts, all on the low-rank factors."""

from __future__ import annotations

from collections.abc import Callable

import torch

from selma.ground.errors import UserError
from selma.lora import LoraWeights


def factor_mean(experts: list[LoraWeights]) -> LoraWeights:
    """The paper's merge: A = mean(A_t), B = mean(B_t), so dW = scaling / T^2 * sum_ij B_i A_j, at one rank.

    Needs the same rank and scaling of every expert; raises UserError naming one that differs.
    """
    first = experts[0]
    for expert in experts:
        for what in ("rank", "scaling"):
            ours, theirs = getattr(first, what), getattr(expert, what)
            if ours != theirs:
                raise UserError(
                    f"merge.experts: {_name(expert)} has {what} {theirs}, {_name(first)} has {ours}; "
                    "factor_mean needs the same of both (delta_mean does not)"
                )
    factors = {
        module: tuple(torch.stack([expert.factors[module][i] for expert in experts]).mean(0) for i in (0, 1))
        for module in first.factors
    }
    return LoraWeights(factors, first.scaling, {"alpha": first.scaling * first.rank, "rank": first.rank})


def delta_mean(experts: list[LoraWeights]) -> LoraWeights:
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


OPERATORS: dict[str, Callable[[list[LoraWeights]], LoraWeights]] = {
    "factor_mean": factor_mean,
    "delta_mean": delta_mean,
}


def merge(operator: str, experts: dict[str, LoraWeights]) -> LoraWeights:
    """Merge named experts with uniform weights; the result's provenance tells what was merged and how.

    Raises UserError for an unknown operator, no experts, and experts that do not belong together.
    """
    if operator not in OPERATORS:
        raise UserError(f"merge.operator: {operator!r} is unknown; allowed: {', '.join(OPERATORS)}")
    if not experts:
        raise UserError("merge.experts: empty; allowed: one expert or more")
    check_compatible(experts)
    merged = OPERATORS[operator](list(experts.values()))
    first = next(iter(experts.values())).provenance
    shared = {"backbone": first["backbone"], "targets": first["targets"]}
    named = {"name": "merged", "operator": operator, "experts": list(experts)}
    return LoraWeights(merged.factors, merged.scaling, {**named, **shared, **merged.provenance})


def check_compatible(experts: dict[str, LoraWeights]) -> None:
    """Raise UserError naming an expert whose backbone, targets or layers are not those of the first."""
    first_name, first = next(iter(experts.items()))
    for name, expert in experts.items():
        if missing := {"backbone", "targets"} - expert.provenance.keys():
            raise UserError(f"merge.experts: the lora.json of {name!r} lacks {', '.join(sorted(missing))}")
        for key, what in (("backbone", "was trained on another backbone"), ("targets", "has other targets")):
            theirs, ours = expert.provenance.get(key), first.provenance.get(key)
            if theirs != ours:
                raise UserError(
                    f"merge.experts: {name!r} {what} than {first_name!r} "
                    f"({_short(theirs)} against {_short(ours)}); all must be the same"
                )
        shapes, expected = (
            {module: (a.shape[1], b.shape[0]) for module, (a, b) in lora.factors.items()}
            for lora in (expert, first)
        )
        if shapes != expected:
            raise UserError(
                f"merge.experts: {name!r} adapts other layers than {first_name!r}; all must be the same"
            )


def inner(a: LoraWeights, b: LoraWeights) -> float:
    """Frobenius inner product of two dense updates, all layers concatenated, without forming them.

    <B1 A1, B2 A2> = trace(A1^T B1^T B2 A2) = sum((B1^T B2) * (A1 A2^T)), two small [rank, rank] matrices.
    """
    total = 0.0
    for module, (a1, b1) in a.factors.items():
        a2, b2 = b.factors[module]
        left, right = b1.double().T @ b2.double(), a1.double() @ a2.double().T
        total += float((left * right).sum())
    return a.scaling * b.scaling * total


def norm(a: LoraWeights) -> float:
    """Frobenius norm of the dense update, all layers concatenated."""
    return max(inner(a, a), 0.0) ** 0.5  # rounding may leave a zero update a little below zero


def cosine(a: LoraWeights, b: LoraWeights) -> float:
    """Cosine between two dense updates, -1..1; 0 when one of them is zero (an untrained expert)."""
    length = norm(a) * norm(b)
    return inner(a, b) / length if length else 0.0


def _name(expert: LoraWeights) -> str:
    return repr(expert.provenance.get("name", "an expert"))


def _short(value: object) -> str:
    text = value if isinstance(value, str) else ", ".join(value or [])
    return text[:12] if len(text) == 64 else text  # a fingerprint is told apart by its first digits
