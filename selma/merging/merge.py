"""Merge LoRA experts into one LoRA (SELMA, section 3.4), and compare experts, all on the low-rank factors."""

from __future__ import annotations

from selma.ground.errors import UserError
from selma.lora.files import LoraWeights
from selma.runtime import variants


def merge(operator: str, experts: dict[str, LoraWeights]) -> LoraWeights:
    """Merge named experts with uniform weights; the result's provenance tells what was merged and how.

    Raises UserError for an unknown operator, no experts, and experts that do not belong together.
    """
    merged_by = variants.load("operators", operator, "merge.operator")
    if not experts:
        raise UserError("merge.experts: empty; allowed: one expert or more")
    check_compatible(experts)
    merged = merged_by.merge(list(experts.values()))
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


def _short(value: object) -> str:
    text = value if isinstance(value, str) else ", ".join(value or [])
    return text[:12] if len(text) == 64 else text  # a fingerprint is told apart by its first digits
