"""Merge LoRA experts into one LoRA (SELMA, section 3.4), and compare experts, all on the low-rank factors."""

from __future__ import annotations

from selma.ground.errors import UserError
from selma.lora.files import LoraWeights
from selma.runtime import variants


def merge(name: str, operator: str, experts: dict[str, LoraWeights]) -> LoraWeights:
    """Merge experts, by name, with uniform weights; the result's provenance says its name, what was merged and how.

    Raises UserError for an unknown operator, no experts, and experts that are not compatible.
    """
    merged_by = variants.load("operators", operator, f"merges.{name}.operator")
    if not experts:
        raise UserError(f"merges.{name}.experts: empty; allowed: one expert or more")
    check_compatible(experts, key=f"merges.{name}.experts")
    merged = merged_by.merge(list(experts.values()))
    for module, factors in merged.factors.items():
        if not all(factor.isfinite().all() for factor in factors):
            raise UserError(
                f"merges.{name}: the merged {module} is not finite; are the experts' alphas right?"
            )
    first = next(iter(experts.values())).provenance
    shared = {"backbone": first["backbone"], "targets": first["targets"]}
    named = {"name": name, "operator": operator, "experts": list(experts)}
    return LoraWeights(merged.factors, merged.scaling, {**named, **shared, **merged.provenance})


def check_compatible(experts: dict[str, LoraWeights], *, key: str) -> None:
    """Raise UserError naming an expert whose backbone, targets or layers are not those of the first."""
    first_name, first = next(iter(experts.items()))
    for name, expert in experts.items():
        if missing := {"backbone", "targets"} - expert.provenance.keys():
            raise UserError(f"{key}: the lora.json of {name!r} lacks {', '.join(sorted(missing))}")
        for field, what in (
            ("backbone", "was trained on a different backbone"),
            ("targets", "has different targets"),
        ):
            theirs, ours = expert.provenance.get(field), first.provenance.get(field)
            if theirs != ours:
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


def _short(value: object) -> str:
    text = value if isinstance(value, str) else ", ".join(value or [])
    return text[:12] if len(text) == 64 else text  # a fingerprint is told apart by its first digits
