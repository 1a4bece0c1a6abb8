"""Draw and judge: what one model draws for prompts, and how faithful it is.

The one place where images are drawn and scored immediately. Stages sample and answer keep images and answers between
the two; select, the gates, the curve and `selma.draw` do not. All draw from the same noise: the seed of an item's
image k is a hash of (run seed, item, k).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from selma.ground.errors import UserError
from selma.ground.pairs import image_seed
from selma.judging.judge import Judge, ask, rate
from selma.scoring.scores import QuestionScore, score_answers

if TYPE_CHECKING:
    from PIL.Image import Image

    from selma.backbones.loading import Pipeline
    from selma.ground.items import Item
    from selma.runtime.params import Drawing

    Drawn = Iterator[tuple[Item, int, Image]]

_SCALES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def guidance_scales(own: float) -> list[float]:
    """Guidance scales of a curve, rising; the one at which models are examined, `own`, is among them."""
    return sorted({*_SCALES, own})


def draw(
    pipe: Pipeline, items: Sequence[Item], drawing: Drawing, *, images: int, seed: int, method: str = "cfg"
) -> Drawn:
    """(item, k, RGB image) for `images` images of every item, in order, each drawn when it is asked for."""
    from selma.images import sampler  # torch: only where something is drawn

    shots = [(item, k) for item in items for k in range(images)]
    drawn = sampler.draw(
        pipe,
        [item.prompt for item, _ in shots],
        [image_seed(seed, item.id, k) for item, k in shots],
        drawing,
        method=method,
    )
    for i, image in drawn:
        yield *shots[i], image


def faithfulness(judge: Judge, items: Sequence[Item], drawn: Drawn, *, where: str) -> list[QuestionScore]:
    """DSG scores of what `draw` draws of `items`, 0 to 1 for each question (scores.py); `where` opens every error."""
    answers = [row for item, k, image in drawn for row in ask(judge, item, image, k)]
    return score_answers(items, answers, where=where)


def vqa_scores(judge: Judge, drawn: Drawn) -> dict[str, float]:
    """Mean VQAScore (Lin et al. 2024, arXiv 2404.01291), 0 to 1, of each item over its images in `draw`'s order.

    Raises UserError, before anything is drawn, for a judge that does not give it.
    """
    if not hasattr(judge, "score"):
        raise UserError("judge.name: this judge gives no VQAScore, which scoring filter.dev's prompts needs")
    found: dict[str, list[float]] = {}
    for item, _, image in drawn:
        found.setdefault(item.id, []).append(rate(judge, image, item.prompt))
    return {item: fmean(scores) for item, scores in found.items()}
