"""Is the embedded backbone good enough for SELMA to be tested fairly? Measured on the dev split, over guidance.

    python -m selma.gates                    of the first backbone, `shapes`
    python -m selma.gates --backbone shapes_xl

reads   models/backbones/<backbone>/, data/benchmarks/shapes/
writes  metrics/study/gates.csv   guidance, faithfulness, single_color, pair_color; of another backbone
                                  metrics/study/gates_<backbone>.csv

The gates: at the evaluation's guidance, the colour of a single thing is right in 85% of the images, both colours
of a pair in 60%, mean faithfulness lies between 0.55 and 0.85, and it still rises with guidance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from selma.backbones.loading import load_pipeline
from selma.ground.files import write_csv
from selma.ground.items import Item, load_split
from selma.judging.judge import load_judge
from selma.runtime import stage
from selma.runtime.origins import EMBEDDED, allow, embedded
from selma.runtime.params import load_params
from selma.runtime.places import BACKBONES
from selma.scoring import exam
from selma.scoring.scores import QuestionScore, macro
from selma.scoring.summary import rounded

IMAGES = 2  # of each prompt
OUT = Path("metrics/study")


def main(backbone: str = EMBEDDED) -> None:
    params = load_params()
    allow("--backbone", backbone, embedded([EMBEDDED]), "that a pretrain stage makes")
    items = load_split(Path("data/benchmarks/shapes"), "dev")
    runtime, drawing = params.runtime, params.evaluate.drawing
    judge = load_judge("oracle", runtime.device, runtime.dtype)
    pipe = load_pipeline(Path(BACKBONES) / backbone, runtime.device, runtime.dtype)
    rows = []
    scales = exam.guidance_scales(drawing.guidance)
    for guidance in stage.progress(scales, len(scales), "guidance"):
        drawn = exam.draw(pipe, items, replace(drawing, guidance=guidance), images=IMAGES, seed=params.seed)
        scores = exam.faithfulness(judge, items, drawn, where=f"guidance {guidance:g}")
        rows.append(
            {
                "guidance": guidance,
                "faithfulness": rounded(macro(scores)),
                "single_color": rounded(color_share(items, scores, things=1)),
                "pair_color": rounded(color_share(items, scores, things=2)),
            }
        )
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    name = "gates.csv" if backbone == EMBEDDED else f"gates_{backbone}.csv"
    write_csv(OUT / name, rows, list(rows[0]))


def color_share(items: Sequence[Item], scores: Sequence[QuestionScore], things: int) -> float:
    """Share of images, for prompts with this many things (without counts), in which every colour is right."""
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
