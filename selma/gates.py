"""Is the embedded backbone good enough for SELMA to be tested fairly? Measured on the dev split, over guidance.

    python -m selma.gates                    of the first backbone, `shapes`
    python -m selma.gates --backbone shapes_xl
    python -m selma.gates --backbone shapes_mm    the multimodal one, which answers questions, too

reads   models/backbones/<backbone>/, data/benchmarks/shapes/
writes  metrics/study/gates.csv   guidance, faithfulness, single_color, pair_color; of another backbone
                                  metrics/study/gates_<backbone>.csv; of the multimodal one with `own`, the faithfulness
                                  by its own answers, and `correlation` of its margins with the oracle's faithfulness,
                                  and metrics/study/answers_shapes_mm.csv: kind, accuracy of its answers on renders

The gates: at the evaluation's guidance, the colour of a single thing is right in 85% of the images, both colours
of a pair in 60%, mean faithfulness lies between 0.55 and 0.85, and it still rises with guidance. The multimodal one's
faithfulness lies between 0.5 and 0.85 at the guidance that is chosen here, and 90% of its answers are right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import correlation, fmean
from typing import TYPE_CHECKING

from PIL import Image

from selma.backbones.loading import load_backbone
from selma.backbones.multimodal import Multimodal
from selma.ground.files import write_csv
from selma.ground.items import YES_NO, Item, Question, load_split
from selma.images.tokens import fitted
from selma.judging.judge import load_judge
from selma.judging.many import ask_all
from selma.runtime import stage
from selma.runtime.origins import EMBEDDED, allow, embedded
from selma.runtime.params import load_params
from selma.runtime.places import BACKBONES
from selma.scoring import exam
from selma.scoring.scores import QuestionScore, macro, score_answers
from selma.scoring.summary import rounded
from selma.shapes.pretraining.asked import ask
from selma.shapes.pretraining.corpus import make_corpus
from selma.shapes.world.questions import parse_question
from selma.variants.judges import multimodal

if TYPE_CHECKING:
    from selma.judging.judge import Judge

IMAGES = 2  # of each prompt
RENDERS, SEED = (
    1000,
    20_000,
)  # images that the multimodal backbone is asked about, of a seed that no corpus has
QUESTIONS = 6  # about each render, half of them with yes for an answer
OUT = Path("metrics/study")


def main(backbone: str = EMBEDDED) -> None:
    params = load_params()
    allow("--backbone", backbone, embedded([EMBEDDED]), "that a pretrain stage makes")
    items = load_split(Path("data/benchmarks/shapes"), "dev")
    runtime, drawing = params.runtime, params.evaluate.drawing
    judge = load_judge("oracle", runtime.device, runtime.dtype)
    folder = Path(BACKBONES) / backbone
    pipe = load_backbone(folder, runtime.device, runtime.dtype)
    own = multimodal.load(folder, {}, runtime.device, runtime.dtype) if isinstance(pipe, Multimodal) else None
    if own:
        drawing = fitted(pipe, drawing)
        found = accuracy(own, SEED, RENDERS)
        write_csv(
            OUT / f"answers_{backbone}.csv",
            [{"kind": kind, "accuracy": rounded(share)} for kind, share in found.items()],
            ["kind", "accuracy"],
        )
        print("answers on renders  " + "  ".join(f"{kind} {share:.4f}" for kind, share in found.items()))
    rows = []
    scales = exam.guidance_scales(drawing.guidance)
    for guidance in stage.progress(scales, len(scales), "guidance"):
        settings = replace(drawing, guidance=guidance)
        drawn = list(exam.draw(pipe, items, settings, images=IMAGES, seed=params.seed))
        scores = exam.faithfulness(judge, items, drawn, where=f"guidance {guidance:g}")
        rows.append(
            {
                "guidance": guidance,
                "faithfulness": rounded(macro(scores)),
                "single_color": rounded(color_share(items, scores, things=1)),
                "pair_color": rounded(color_share(items, scores, things=2)),
            }
        )
        if own:
            said, goes = agreement(own, judge, drawn, items)
            rows[-1] |= {"own": rounded(said), "correlation": rounded(goes)}
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


def accuracy(judge: Judge, seed: int, images: int) -> dict[str, float]:
    """The share of answers that are right, 0 to 1, over all questions ("all") and by their kind.

    The renders are of a seed of their own, things anywhere and of any size, a tenth of them rare combinations.
    """
    corpus = make_corpus(
        seed, images=images, captions=1, rare=0.1, wrong=0, drop=0, pairs=0.7, spread=0.25, jitter=1
    )
    asked = ask(corpus, seed, QUESTIONS)
    right: dict[str, list[bool]] = {"all": []}
    for pixels, texts, answers in zip(corpus.images, asked.texts, asked.answers, strict=True):
        questions = [Question(text, text, YES_NO, "yes", (), "") for text in texts]
        for question, said, truth in zip(
            questions, judge.answer(Image.fromarray(pixels), questions), answers, strict=True
        ):
            for kind in ("all", parse_question(question.text)[0]):
                right.setdefault(kind, []).append(said.answer == truth)
    return {kind: fmean(found) for kind, found in right.items()}


def agreement(
    judge: Judge, oracle: Judge, drawn: Sequence[tuple[Item, int, Image.Image]], items: Sequence[Item]
) -> tuple[float, float]:
    """What a judge gives drawings, and how that goes with what the oracle gives them.

    The mean faithfulness by its answers, 0 to 1, and over images the correlation (Pearson's) of its mean margin,
    p(yes) - p(no), with the oracle's faithfulness.
    """
    said, true = ([row for rows in ask_all(each, drawn) for row in rows] for each in (judge, oracle))
    margins: dict[tuple[str, int], list[float]] = {}
    for row in said:
        margins.setdefault((row["item"], row["k"]), []).append(row.get("margin", 2 * (row["p_yes"] or 0) - 1))
    right = _by_image(items, true)
    own = {key: fmean(found) for key, found in margins.items()}
    keys = sorted(own)
    return (
        fmean(_by_image(items, said).values()),
        correlation([own[key] for key in keys], [right[key] for key in keys]),
    )


def _by_image(items: Sequence[Item], rows: Sequence[Mapping[str, object]]) -> dict[tuple[str, int], float]:
    found: dict[tuple[str, int], list[float]] = {}
    for score in score_answers(items, rows, where="drawings"):
        found.setdefault((score.item, score.k), []).append(score.score)
    return {key: fmean(scores) for key, scores in found.items()}


if __name__ == "__main__":
    stage.run(main)
