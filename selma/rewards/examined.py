"""What a policy scores on dev prompts, while it learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from selma.lora.adapter import fused
from selma.rewards.judged import JudgeReward
from selma.rewards.weighted import PLACES
from selma.scoring import exam

if TYPE_CHECKING:
    from selma.backbones.loading import Pipeline
    from selma.ground.items import Item
    from selma.runtime.params import Drawing


class Examiner:
    """What the pipeline's UNet, as it is, scores on dev prompts."""

    def __init__(
        self,
        pipe: Pipeline,
        items: Sequence[Item],
        judges: Sequence[JudgeReward],
        weights: Mapping[str, float],
        drawing: Drawing,
        images: int,
        seed: int,
    ) -> None:
        """`judges` are those that reward and those that only look on; `weights` are of the former alone."""
        self._pipe, self._items, self._judges, self._weights = pipe, items, judges, weights
        self._drawing, self._images, self._seed = drawing, images, seed

    def __call__(self) -> tuple[dict[str, float], dict[str, float]]:
        """The weighted reward of each item, none where judges do not reward; and the means by judge."""
        if not self._judges:
            return {}, {}
        with fused(self._pipe.unet):
            drawn = list(
                exam.draw(self._pipe, self._items, self._drawing, images=self._images, seed=self._seed)
            )
        scores, means = {}, {}
        for judge in self._judges:
            given = judge.scores(iter(drawn))
            scores[judge.name] = {
                item.id: fmean(given[item.id, k] for k in range(self._images)) for item in self._items
            }
            means[f"dev_{judge.name}"] = round(fmean(scores[judge.name].values()), PLACES)
        # solace: what it says of pictures drawn with guidance is not known
        if not set(self._weights) <= set(scores):
            return {}, means
        whole = {
            item.id: sum(weight * scores[name][item.id] for name, weight in self._weights.items())
            for item in self._items
        }
        return whole, {"dev": round(fmean(whole.values()), PLACES), **means}
