"""Merge experts into one LoRA (SELMA, section 3.4).

    python -m stages.merge merged

reads   models/experts/<name>/     the experts that merges.<name> names, by default one for each skill
writes  models/merges/<name>/      pytorch_lora_weights.safetensors (diffusers format) and lora.json
        metrics/merge/<name>.json  operator, rank, cosine of every two experts' updates, norms
"""

from __future__ import annotations

from itertools import combinations
from math import isfinite
from pathlib import Path

from selma.ground.errors import UserError
from selma.ground.files import write_json
from selma.lora.files import load_lora, save_lora
from selma.merging.algebra import cosine, norm
from selma.merging.merge import merge
from selma.runtime import stage, work
from selma.runtime.checks import warn
from selma.runtime.params import load_params
from selma.runtime.places import EXPERTS, MERGES


def main(name: str) -> None:
    params = load_params()
    if name not in params.merges:
        raise UserError(f"merges: no merge {name!r} in params.yaml; allowed: {', '.join(params.merges)}")
    warn(params, name)
    operator = params.merges[name].operator
    experts = {
        expert: load_lora(Path(EXPERTS) / expert) for expert in params.merges[name].experts or params.skills
    }
    merged = merge(name, operator, experts)
    norms = {label: norm(lora) for label, lora in {**experts, name: merged}.items()}
    for label, value in norms.items():
        if not isfinite(value):
            raise UserError(f"merges.{name}: the update of {label} is not finite; is its alpha right?")
    cosines = {f"{a}|{b}": cosine(experts[a], experts[b]) for a, b in combinations(experts, 2)}

    with work.folder(stage.name()) as folder:
        with work.called({folder / "merged": f"{MERGES}/{name}"}):
            save_lora(folder / "merged", merged.state(), merged.provenance)
        write_json(
            folder / "metrics.json",
            {
                "operator": operator,
                "experts": list(experts),
                "rank": merged.rank,
                "cosine": {pair: round(value, 4) for pair, value in cosines.items()},
                "norm": {label: round(value, 4) for label, value in norms.items()},
            },
        )
        work.publish_all(
            {
                folder / "metrics.json": Path("metrics/merge") / f"{name}.json",
                folder / "merged": Path(MERGES) / name,
            }
        )


if __name__ == "__main__":
    stage.run(main)
