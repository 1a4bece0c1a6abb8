"""Merge experts into one LoRA (SELMA, section 3.4).

    python -m stages.merge merged

reads   models/experts/<name>/     the experts that merges.<name> names, by default one for each skill
        an operator that needs it  the experts' images, the backbone, the judge and the leading benchmark's dev split
writes  models/merges/<name>/      pytorch_lora_weights.safetensors (diffusers format) and lora.json
        metrics/merge/<name>.json  operator, options, what it found, rank, cosine of every two experts' updates, norms
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from math import isfinite
from pathlib import Path
from typing import Any

from selma.ground.errors import UserError
from selma.ground.files import write_json
from selma.ground.pairs import read_training
from selma.lora.files import LoraWeights, load_lora, save_lora
from selma.merging.algebra import cosine, norm
from selma.merging.merge import merge
from selma.runtime import stage, variants, work
from selma.runtime.checks import warn
from selma.runtime.params import Params, load_params
from selma.runtime.places import BACKBONES, EXPERTS, MERGES


def main(name: str) -> None:
    params = load_params()
    if name not in params.merges:
        raise UserError(f"merges: no merge {name!r} in params.yaml; allowed: {', '.join(params.merges)}")
    warn(params, name)
    row = params.merges[name]
    experts = {expert: load_lora(Path(EXPERTS) / expert) for expert in row.experts or params.skills}
    makers = {"tokens": _tokens, "score": _score}
    needs = variants.constants("operators", row.operator).get("NEEDS", ())
    with work.folder(stage.name()) as folder:
        given = {need: makers[need](params, experts, folder) for need in needs}
        merged = merge(name, row.operator, experts, row.options, **given)
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


def _tokens(params: Params, experts: Mapping[str, LoraWeights], _: Path) -> Any:
    from selma.backbones.loading import (
        load_pipeline,
    )  # torch and diffusers: only for operators that need them
    from selma.merging.calibration import calibration

    pairs = {expert: read_training(Path(params.experts[expert].data)) for expert in experts}
    backbone = Path(BACKBONES) / params.expert.backbone
    pipe = load_pipeline(backbone, params.runtime.device, params.runtime.dtype)
    return calibration(pipe, experts, pairs, params.expert.resolution)


def _score(params: Params, experts: Mapping[str, LoraWeights], folder: Path) -> Any:
    from selma.judging.judge import load_judge
    from selma.scoring.dev_score import dev_items, dev_scorer

    benchmark = Path("data/benchmarks") / params.evaluate.benchmarks[0]
    items, held_out = dev_items([Path(params.experts[expert].data) for expert in experts], benchmark)
    backbone, device, dtype = params.expert.backbone, params.runtime.device, params.runtime.dtype
    judge = load_judge(params.judge.name, device, dtype)
    settings = {"images": params.select.images_per_prompt, "seed": params.seed, "batch": params.judge.batch}
    where = {"device": device, "dtype": dtype, "kept": folder / "scores.json"}
    drawing = params.evaluate.drawing
    return dev_scorer(
        Path(BACKBONES) / backbone, judge, items, drawing, held_out=held_out, **settings, **where
    )


if __name__ == "__main__":
    stage.run(main)
