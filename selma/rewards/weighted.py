"""What a round's pictures are worth to a policy: judges' scores and the model's own confidence, weighted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from selma.experts.draws import generator
from selma.ground.errors import UserError
from selma.policies.learner import Learner
from selma.policies.solace import solace
from selma.rewards.judged import Asked, JudgeReward
from selma.runtime.learning import SOLACE

if TYPE_CHECKING:
    from selma.ground.items import Item

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
