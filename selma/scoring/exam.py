"""Draw and judge: what one model draws for prompts, and how faithful it is.

The one place where images are drawn and scored immediately. Stages sample and answer keep images and answers between
the two; select, the gates, the curve and `selma.draw` do not. All draw from the same noise: the seed of an item's
image k is a hash of (run seed, item, k).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from selma.ground.errors import UserError
from selma.ground.pairs import image_seed
from selma.judging.groups import BATCH
from selma.judging.judge import Judge
from selma.judging.many import ask_all, rate_all
from selma.scoring.scores import QuestionScore, item_scores, score_answers

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
    pipe: Pipeline,
    items: Sequence[Item],
    drawing: Drawing,
    *,
    images: int,
    seed: int,
    method: str = "cfg",
    options: Mapping[str, Any] = {},
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
        options=options,
    )
    for i, image in drawn:
        yield *shots[i], image


def item_means(
    pipe: Pipeline,
    judge: Judge,
    items: Sequence[Item],
    drawing: Drawing,
    *,
    held_out: bool,
    images: int,
    seed: int,
    where: str,
    batch: int = BATCH,
) -> dict[str, float]:
    """Each item's score, 0 to 1: faithfulness, or VQAScore of prompts that are `held_out` and have no questions."""
    drawn = draw(pipe, items, drawing, images=images, seed=seed)
    if held_out:
        return vqa_scores(judge, drawn, batch)
    return item_scores(faithfulness(judge, items, drawn, where=where, batch=batch))


def faithfulness(
    judge: Judge, items: Sequence[Item], drawn: Drawn, *, where: str, batch: int = BATCH
) -> list[QuestionScore]:
    """DSG scores of what `draw` draws of `items`, 0 to 1 for each question (scores.py); `where` opens every error.

    `batch` questions are asked at once.
    """
    answers = [row for rows in ask_all(judge, drawn, batch) for row in rows]
    return score_answers(items, answers, where=where)


def vqa_scores(judge: Judge, drawn: Drawn, batch: int = BATCH) -> dict[str, float]:
    """Mean VQAScore (Lin et al. 2024, arXiv 2404.01291), 0 to 1, of each item over its images in `draw`'s order.

    Raises UserError, before anything is drawn, for a judge that does not give it.
    """
    if not hasattr(judge, "score"):
        raise UserError("judge.name: this judge gives no VQAScore, which scoring filter.dev's prompts needs")
    shown: list[str] = []  # items' ids, by image

    def asked() -> Iterator[tuple[Image, str]]:
        for item, _, image in drawn:
            shown.append(item.id)
            yield image, item.prompt

    came = {i: score for scores in rate_all(judge, asked(), batch) for i, score in scores.items()}
    found: dict[str, list[float]] = {}
    for i in sorted(came):
        found.setdefault(shown[i], []).append(came[i])
    return {item: fmean(scores) for item, scores in found.items()}
