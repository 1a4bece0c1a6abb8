"""Score a mixture's checkpoints on dev prompts and keep one, as stage select does for an expert's.

    python -m stages.select_mixture moe

reads   models/checkpoints/<name>/step-*/    mixtures' folders, or LoRAs'
        models/backbones/<expert.backbone>/
        data/images/                         held_out.jsonl of its experts' skills, where filter.dev holds prompts out
        data/benchmarks/<the leading one>/   the dev split, where none are held out
writes  models/mixtures/<name>/              the chosen checkpoint
        metrics/select/<name>.json           policy, chosen step, dev score of every step, its noise
"""

from __future__ import annotations

from pathlib import Path

from selma.ground.errors import UserError
from selma.runtime import stage, work
from selma.runtime.params import load_params
from selma.runtime.places import BACKBONES, MIXTURES
from selma.scoring.selection import Exam, keep_one


def main(name: str) -> None:
    params = load_params()
    if name not in params.mixtures:
        raise UserError(
            f"mixtures: no mixture {name!r} in params.yaml; allowed: {', '.join(params.mixtures) or 'none'}"
        )
    row, rows = params.mixtures[name], params.experts
    names = row.experts or params.skills
    asked = Exam(
        data=[(Path(rows[expert].data), rows[expert].skills) for expert in names],
        backbone=Path(BACKBONES) / params.expert.backbone,
        benchmark=Path("data/benchmarks") / params.evaluate.benchmarks[0],
        drawing=params.evaluate.drawing,
        images=params.select.images_per_prompt,
        seed=params.seed,
        judge=params.judge.name,
        batch=params.judge.batch,
        runtime=params.runtime,
    )
    with work.folder(stage.name()) as folder:
        found = Path("models/checkpoints") / name
        out, metrics = keep_one(name, found, params.select.policy, asked, folder)
        work.publish_all({metrics: Path(f"metrics/select/{name}.json"), out: Path(MIXTURES) / name})


if __name__ == "__main__":
    stage.run(main)
