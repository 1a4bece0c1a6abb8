"""How well a judge answers questions about images of the shapes world, held against the oracle.

On renders, whose answers are known, and on a model's own drawings, where a model that judges itself may deceive itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import correlation, fmean
from typing import TYPE_CHECKING

from PIL import Image

from selma.ground.items import YES_NO, Item, Question
from selma.judging.many import ask_all
from selma.scoring.scores import score_answers
from selma.shapes.pretraining.asked import ask
from selma.shapes.pretraining.corpus import make_corpus
from selma.shapes.world.questions import parse_question

if TYPE_CHECKING:
    from selma.judging.judge import Judge

QUESTIONS = 6  # about each render, half of them with yes for an answer


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
    judge: Judge, oracle: Judge, drawn: Iterable[tuple[Item, int, Image.Image]], items: Sequence[Item]
) -> tuple[float, float]:
    """What a judge gives drawings, and how that goes with what the oracle gives them.

    The mean faithfulness by its answers, 0 to 1, and over images the correlation (Pearson's) of its mean margin,
    p(yes) - p(no), with the oracle's faithfulness.
    """
    shots = list(drawn)
    said, true = ([row for rows in ask_all(each, shots) for row in rows] for each in (judge, oracle))
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
