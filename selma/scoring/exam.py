"""A model's scores at one guidance scale, and the scales that curves are drawn over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from selma.ground.items import Item
from selma.ground.pairs import image_seed
from selma.judging.judge import Judge, ask
from selma.scoring.scores import QuestionScore, score_answers

if TYPE_CHECKING:
    from selma.backbones.loading import Pipeline

_GUIDANCE = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def scales(own: float) -> list[float]:
    """Guidance scales of a curve, rising; the one at which models are examined, `own`, is among them."""
    return sorted({*_GUIDANCE, own})


def draw_scores(
    pipe: Pipeline,
    judge: Judge,
    items: Sequence[Item],
    *,
    images: int,
    seed: int,
    guidance: float,
    steps: int,
    scheduler: str,
    batch: int,
    size: int | None,
) -> list[QuestionScore]:
    """Scores of so many images of every item, drawn from the noises that stage sample draws from."""
    from selma.images import sampler  # torch: only where something is drawn

    shots = [(item, k) for item in items for k in range(images)]
    drawn = sampler.draw(
        pipe,
        [item.prompt for item, _ in shots],
        [image_seed(seed, item.id, k) for item, k in shots],
        steps=steps,
        guidance=guidance,
        scheduler=scheduler,
        batch=batch,
        size=size,
    )
    answers = [row for i, image in drawn for row in ask(judge, shots[i][0], image, shots[i][1])]
    return score_answers(items, answers, where=f"guidance {guidance:g}")
