"""Is the embedded backbone good enough for SELMA to be tested fairly? Measured on the dev split, over guidance.

    python -m selma.gates

reads   models/backbones/shapes/, data/benchmarks/shapes/
writes  metrics/study/gates.csv   guidance, faithfulness, single_color, pair_color

The gates: at the evaluation's guidance, the colour of a single thing is right in 85% of the pictures, both colours
of a pair in 60%, mean faithfulness lies between 0.55 and 0.85, and it still rises with guidance.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from selma.backbones.loading import load_pipeline
from selma.ground.files import write_csv
from selma.ground.items import Item, load_split
from selma.judging.judge import load_judge
from selma.runtime import stage
from selma.runtime.params import load_params
from selma.scoring import exam
from selma.scoring.scores import QuestionScore, macro

IMAGES = 2  # of each prompt
OUT = Path("metrics/study/gates.csv")


def main() -> None:
    params = load_params()
    backbone = Path("models/backbones/shapes")
    items = load_split(Path("data/benchmarks/shapes"), "dev")
    runtime, evaluate = params.runtime, params.evaluate
    judge = load_judge("oracle", runtime.device, runtime.dtype)
    pipe = load_pipeline(backbone, runtime.device, runtime.dtype)
    rows = []
    scales = exam.scales(evaluate.guidance)
    for guidance in stage.progress(scales, len(scales), "guidance"):
        scores = exam.draw_scores(
            pipe,
            judge,
            items,
            images=IMAGES,
            seed=params.seed,
            guidance=guidance,
            steps=evaluate.steps,
            scheduler=evaluate.scheduler,
            batch=evaluate.batch,
            size=evaluate.resolution,
        )
        rows.append(
            {
                "guidance": guidance,
                "faithfulness": round(macro(scores), 4),
                "single_color": round(color_share(items, scores, things=1), 4),
                "pair_color": round(color_share(items, scores, things=2), 4),
            }
        )
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    write_csv(OUT, rows, list(rows[0]))


def color_share(items: Sequence[Item], scores: Sequence[QuestionScore], things: int) -> float:
    """Share of pictures, of prompts with this many things (counts apart), in which every colour is right."""
    chosen = {
        item.id
        for item in items
        if sum(q.category == "object" for q in item.questions) == things
        and not any(q.category.startswith("count") for q in item.questions)
    }
    right: dict[tuple[str, int], float] = {}
    for score in scores:
        if score.item in chosen and score.category == "color":
            picture = (score.item, score.k)
            right[picture] = min(right.get(picture, 1.0), score.score)
    return fmean(right.values())


if __name__ == "__main__":
    stage.run(main)
