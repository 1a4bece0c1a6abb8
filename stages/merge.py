"""Merge experts into one LoRA (SELMA, section 3.4).

    python -m stages.merge merged

reads   models/experts/<name>/     the experts that merges.<name> names, by default one for each skill
        an operator that needs it  the experts' images, the backbone, the judge and the leading benchmark's dev split
writes  models/merges/<name>/      pytorch_lora_weights.safetensors (diffusers format) and lora.json
        metrics/merge/<name>.json  operator, options, what it found, rank, cosine of every two experts' updates, norms
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
from selma.runtime.places import BACKBONES, EXPERTS, MERGES
from selma.scoring.given import Given


def main(name: str) -> None:
    params = load_params()
    if name not in params.merges:
        raise UserError(f"merges: no merge {name!r} in params.yaml; allowed: {', '.join(params.merges)}")
    warn(params, name)
    row = params.merges[name]
    experts = {expert: load_lora(Path(EXPERTS) / expert) for expert in row.experts or params.skills}
    with work.folder(stage.name()) as folder:
        given = Given(
            run=Path(),
            rows=params.experts,
            backbone=Path(BACKBONES) / params.expert.backbone,
            resolution=params.expert.resolution,
            benchmark=Path("data/benchmarks") / params.evaluate.benchmarks[0],
            drawing=params.evaluate.drawing,
            images=params.select.images_per_prompt,
            seed=params.seed,
            judge=params.judge.name,
            batch=params.judge.batch,
            runtime=params.runtime,
            kept=folder / "scores.json",
        )
        merged = merge(name, row.operator, experts, row.options, **given.to(row.operator, experts))
        norms = {label: norm(lora) for label, lora in {**experts, name: merged}.items()}
        for label, value in norms.items():
            if not isfinite(value):
                raise UserError(f"merges.{name}: the update of {label} is not finite; is its alpha right?")
        cosines = {f"{a}|{b}": cosine(experts[a], experts[b]) for a, b in combinations(experts, 2)}
        with work.called({folder / "merged": f"{MERGES}/{name}"}):
            save_lora(folder / "merged", merged.state(), merged.provenance)
        said = {key: merged.provenance[key] for key in ("options", "found") if key in merged.provenance}
        write_json(
            folder / "metrics.json",
            {
                "operator": row.operator,
                **said,
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
