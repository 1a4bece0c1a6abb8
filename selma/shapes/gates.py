"""Is the embedded backbone good enough for SELMA to be tested fairly? Measured on the dev split, over guidance.

    python -m selma.shapes.gates

reads   models/backbones/shapes/, data/benchmarks/shapes/
writes  metrics/study/gates.csv   guidance, faithfulness, single_color, pair_color

The gates: at the evaluation's guidance, the colour of a single thing is right in 85% of the pictures, both colours
of a pair in 60%, mean faithfulness lies between 0.55 and 0.85, and it still rises with guidance.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from selma import backbones, benchmarks, sampler, scoring
from selma.benchmarks import Item
from selma.ground import records, stage
from selma.ground.params import load_params
from selma.judges import ask, load_judge
from selma.scoring import QuestionScore

GUIDANCE = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # and the evaluation's own
IMAGES = 2  # of each prompt
OUT = Path("metrics/study/gates.csv")


def main() -> None:
    params = load_params()
    backbone = Path("models/backbones/shapes")
    items = benchmarks.load_split(Path("data/benchmarks/shapes"), "dev")
    shots = [(item, k) for item in items for k in range(IMAGES)]
    judge = load_judge("oracle")
    pipe = backbones.load_pipeline(backbone, params.runtime.device, params.runtime.dtype)
    rows = []
    scales = sorted({*GUIDANCE, params.evaluate.guidance})
    for guidance in stage.progress(scales, len(scales), "guidance"):
        images = sampler.draw(
            pipe,
            [item.prompt for item, _ in shots],
            [records.image_seed(params.seed, item.id, k) for item, k in shots],
            steps=params.evaluate.steps,
            guidance=guidance,
            scheduler=params.evaluate.scheduler,
            batch=params.evaluate.batch,
        )
        answers = [row for i, image in images for row in ask(judge, shots[i][0], image, shots[i][1])]
        scores = scoring.score_answers(items, answers)
        rows.append(
            {
                "guidance": guidance,
                "faithfulness": round(scoring.macro(scores), 4),
                "single_color": round(color_share(items, scores, things=1), 4),
                "pair_color": round(color_share(items, scores, things=2), 4),
            }
        )
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    records.write_csv(OUT, rows, list(rows[0]))


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
