"""What a round's pictures are worth to a policy, and what the policy scores on dev prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from selma.experts.draws import generator
from selma.ground.errors import UserError
from selma.policies.learner import Learner
from selma.policies.rewards import SOLACE, Asked, JudgeReward
from selma.policies.solace import solace
from selma.scoring import exam

if TYPE_CHECKING:
    from selma.backbones.loading import Pipeline
    from selma.ground.items import Item
    from selma.runtime.params import Drawing

PLACES = 6  # of rewards in the metrics


class Rewarder:
    """The weighted rewards of a round's pictures, by judges and the model's own confidence."""

    def __init__(
        self, judges: Sequence[JudgeReward], weights: Mapping[str, float], learner: Learner, seed: int
    ) -> None:
        """`weights` are by judge's name, `solace` among them for the model's own confidence."""
        self._judges, self._weights, self._learner, self._seed = judges, weights, learner, seed

    def __call__(
        self, number: int, asked: Iterator[tuple[Item, int, Any]], clean: Callable[[], torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Rewards [n] of the pictures (item, place, image), and their means by judge; the first judge looks at them as
        they come. `clean` gives their latents once all came."""
        shots: list[tuple[Item, int, Any]] = []

        def seen() -> Iterator[tuple[Item, int, Any]]:
            for shot in asked:
                shots.append(shot)
                yield shot

        found: dict[str, torch.Tensor] = {}
        stream: Asked = seen()
        for judge in self._judges:
            scores = judge.scores(stream)
            found[judge.name] = torch.tensor([scores[item.id, place] for item, place, _ in shots])
            stream = shots
        shots += list(asked)  # all of them, where no judge looked
        if SOLACE in self._weights:
            found[SOLACE] = self._confidence(number, [item.prompt for item, _, _ in shots], clean())
        rewards = torch.stack([weight * found[name] for name, weight in self._weights.items()]).sum(dim=0)
        if not rewards.isfinite().all():
            raise UserError(f"round {number}: a reward is not finite; take another judge or runtime.dtype")
        means = {f"reward_{name}": round(scores.mean().item(), PLACES) for name, scores in found.items()}
        return rewards, means if len(found) > 1 else {}

    def _confidence(self, number: int, texts: list[str], clean: torch.Tensor) -> torch.Tensor:
        sampler, device = self._learner.sampler, self._learner.device
        rows, found = sampler.rows(texts), []
        for part in torch.arange(len(texts)).split(self._learner.policy.batch):
            condition = sampler.denoiser.condition(sampler.texts[[rows[i] for i in part]].to(device))
            random = generator(self._seed, SOLACE, number)
            diffusion = sampler.transitions.diffusion
            found.append(solace(sampler.denoiser, diffusion, clean[part].to(device), condition, random).cpu())
        return torch.cat(found)


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
        drawn = list(exam.draw(self._pipe, self._items, self._drawing, images=self._images, seed=self._seed))
        scores, means = {}, {}
        for judge in self._judges:
            given = judge.scores(iter(drawn))
            scores[judge.name] = {
                item.id: fmean(given[item.id, k] for k in range(self._images)) for item in self._items
            }
            means[f"dev_{judge.name}"] = round(fmean(scores[judge.name].values()), PLACES)
        if not set(self._weights) <= set(
            scores
        ):  # solace: what it says of pictures drawn with guidance is not known
            return {}, means
        whole = {
            item.id: sum(weight * scores[name][item.id] for name, weight in self._weights.items())
            for item in self._items
        }
        return whole, {"dev": round(fmean(whole.values()), PLACES), **means}
