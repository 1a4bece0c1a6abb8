"""Score an expert's checkpoints on dev prompts and keep one: the last within the noise of the best, or the last.

    python -m stages.select count

reads   models/checkpoints/<name>/step-*/   LoRA folders
        models/backbones/<expert.backbone>/
        experts.<name>.data                  held_out.jsonl, where filter.dev holds prompts out; theirs is VQAScore
        data/benchmarks/<the leading one>/   the dev split, where none are held out; its score is faithfulness
writes  models/experts/<name>/              the chosen checkpoint
        metrics/select/<name>.json          policy, chosen step, dev score of every step, its noise

`noise` is the standard error of a step's difference from the best one over prompts (selma/scoring/dev.py).
The paper picks checkpoints on its test benchmark; here that choice never sees the test split.
"""

from __future__ import annotations

from pathlib import Path

from selma.ground.errors import UserError
from selma.runtime import stage, work
from selma.runtime.params import load_params
from selma.runtime.places import BACKBONES
from selma.scoring.selection import Exam, keep_one


def main(name: str) -> None:
    params = load_params()
    if name not in params.experts:
        raise UserError(f"experts: no expert {name!r} in params.yaml; allowed: {', '.join(params.experts)}")
    expert = params.experts[name]
    asked = Exam(
        data=[(Path(expert.data), expert.skills)],
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
        work.publish_all({metrics: Path(f"metrics/select/{name}.json"), out: Path("models/experts") / name})


if __name__ == "__main__":
    stage.run(main)
