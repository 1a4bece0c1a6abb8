"""Merge LoRA experts into one LoRA (SELMA, section 3.4): the checks around an operator (selma/variants/operators)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from selma.ground.errors import UserError
from selma.lora.files import LoraWeights
from selma.runtime import variants

if TYPE_CHECKING:
    from selma.merging.calibration import Tokens

Score = Callable[[LoraWeights], float]  # the mean dev score of a LoRA at weight 1; higher is better
_NEEDS = {
    "tokens": "calibration tokens (selma/merging/calibration.py)",
    "score": "a dev score (selma/scoring/dev_score.py)",
}


def merge(
    name: str,
    operator: str,
    experts: Mapping[str, LoraWeights],
    options: Mapping[str, Any] | None = None,
    *,
    tokens: Tokens | None = None,
    score: Score | None = None,
) -> LoraWeights:
    """Merge experts, by name; the result's provenance says its name, what was merged and how.

    `options` are those of `merges.<name>.options`. An operator gets `tokens` and `score` only if its NEEDS name them.
    Raises UserError for an unknown operator, no experts, experts that are not compatible, impossible options, and what
    an operator needs and is not given.
    """
    merged_by = variants.load("operators", operator, f"merges.{name}.operator")
    if not experts:
        raise UserError(f"merges.{name}.experts: empty; allowed: one expert or more")
    check_compatible(experts, key=f"merges.{name}.experts")
    chosen = variants.options("operators", operator, options or {}, f"merges.{name}.options", names=experts)
    for need in (needs := variants.constants("operators", operator).get("NEEDS", ())):
        if {"tokens": tokens, "score": score}[need] is None:
            raise UserError(f"merges.{name}.operator: {operator} needs {_NEEDS[need]}, and was given none")
    first = next(iter(experts.values())).provenance
    shared = {
        key: first[key] for key in ("backbone", "targets", "text_targets", "text_backbone") if key in first
    }
    named = {
        "name": name,
        "operator": operator,
        **({"options": chosen} if chosen else {}),
        "experts": list(experts),
    }

    def finished(lora: LoraWeights) -> LoraWeights:
        _check_finite(name, lora)
        return LoraWeights(lora.factors, lora.scaling, {**named, **shared, **lora.provenance})

    given = {"tokens": tokens, "score": lambda lora: score(finished(lora))}
    return finished(merged_by.merge(experts, **{need: given[need] for need in needs}, **chosen))


def _check_finite(name: str, merged: LoraWeights) -> None:
    for module, factors in merged.factors.items():
        if not all(factor.isfinite().all() for factor in factors):
            raise UserError(
                f"merges.{name}: the merged {module} is not finite; are the experts' alphas right?"
            )


def check_compatible(experts: Mapping[str, LoraWeights], *, key: str) -> None:
    """Raise UserError naming an expert whose backbone, targets or layers are not those of the first."""
    first_name, first = next(iter(experts.items()))
    for name, expert in experts.items():
        if missing := {"backbone", "targets"} - expert.provenance.keys():
            raise UserError(f"{key}: the lora.json of {name!r} lacks {', '.join(sorted(missing))}")
        for field, what in (
            ("backbone", "was trained on a different backbone"),
            ("text_backbone", "was trained with other text encoders"),
            ("targets", "has different targets"),
        ):
            theirs, ours = expert.provenance.get(field), first.provenance.get(field)
            if not _same(theirs, ours):
                raise UserError(
                    f"{key}: {name!r} {what} than {first_name!r} "
                    f"({_short(theirs)} and {_short(ours)}); all must be the same"
                )
        shapes, expected = (
            {module: (a.shape[1:], b.shape[0]) for module, (a, b) in lora.factors.items()}
            for lora in (expert, first)
        )
        if shapes != expected:
            raise UserError(
                f"{key}: {name!r} adapts different layers than {first_name!r}; all must be the same"
            )


def _same(theirs: object, ours: object) -> bool:
    """Whether two values are equal; lists (targets) in any order."""
    lists = isinstance(theirs, list) and isinstance(ours, list)
    return sorted(theirs) == sorted(ours) if lists else theirs == ours


def _short(value: object) -> str:
    text = value if isinstance(value, str) else ", ".join(value or [])
    return text[:12] if len(text) == 64 else text  # a fingerprint is told apart by its first digits
