"""One round's learning: the adapter, its copies (old, start, moving average), and the updates on what was drawn.

Copies are a few MB, so predictions of another adapter are made by putting its values in place, not by a second UNet.
Every random choice is seeded by (seed, round), so a round that is done again is done alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from selma.experts.draws import generator
from selma.experts.gradients import Gradients, gradients
from selma.ground.errors import UserError
from selma.lora.adapter import fused, lora_parameters
from selma.policies.advantages import advantages, informative
from selma.policies.batch import Batch, mse
from selma.runtime.devices import enough_memory

if TYPE_CHECKING:
    from selma.policies.rollout import Sampler
    from selma.runtime.params import Policy

LOOKED_AT = 32  # pictures of a round that the distance from the start is measured on


@dataclass(frozen=True)
class Round:
    """What was drawn: texts' rows [n] in the sampler's, final latents [n, c, h, w], noisy steps' latents
    [n, kept steps + 1, c, h, w] or None, and rewards [prompts, group], n = prompts x group."""

    rows: torch.Tensor
    clean: torch.Tensor
    path: torch.Tensor | None
    rewards: torch.Tensor


class Learner:
    """Updates the adapter that `add_lora` put on a sampler's UNet, by an algorithm of selma/variants/algorithms."""

    def __init__(
        self,
        sampler: Sampler,
        algorithm: ModuleType,
        settings: Mapping[str, Any],
        policy: Policy,
        seed: int,
    ) -> None:
        self.sampler, self.algorithm, self.settings = sampler, algorithm, settings
        self.policy, self._seed = policy, seed
        unet = sampler.denoiser.unet
        self.parameters = lora_parameters(unet)
        self.device = next(iter(self.parameters.values())).device
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(),
            lr=settings["learning_rate"],
            weight_decay=policy.weight_decay,
            fused=self.device.type in ("cpu", "cuda"),
        )
        self.updates = 0
        own = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self.copies = {
            kind: {name: value.clone() for name, value in own.items()} for kind in ("start", "old", "average")
        }
        # Without likelihoods nothing ties learning to the rollout's guidance: what is learned is the text's prediction.
        self._denoiser = sampler.denoiser if algorithm.STEPS else replace(sampler.denoiser, scale=1.0)
        self._needs = [
            kind for kind, setting in algorithm.NEEDS.items() if setting is None or settings[setting]
        ]

    @contextmanager
    def using(self, kind: str) -> Iterator[None]:
        """Another copy's values in the adapter, in the body; "new" is the adapter as it is."""
        if kind == "new":
            yield
            return
        own = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self._put(self.copies[kind])
        try:
            yield
        finally:
            self._put(own)

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """The adapter that draws this round's pictures, fused for speed, in the body."""
        with self.using(self.algorithm.DRAWN_BY), fused(self.sampler.denoiser.unet):
            yield

    def learn(self, number: int, drawn: Round) -> float:
        """Learn from round `number` (from 1), and return the mean loss; 0 where no group of pictures differs in reward.

        Raises UserError for rewards, a loss or a gradient that are not finite, and where memory runs out.
        """
        if self.algorithm.DRAWN_BY == "new":
            self._keep("old", 0.0)
        advantage = advantages(drawn.rewards).flatten()
        useful = informative(drawn.rewards).flatten().nonzero().flatten()
        losses: list[float] = []
        if len(useful):
            size = math.ceil(self._examples(len(useful), drawn) / self.settings["updates"])
            with gradients(
                self._loss,
                list(self.parameters.values()),
                batch=size,
                accumulate=math.ceil(size / self.policy.batch),
                pixels=drawn.clean[0, 0].numel(),
            ) as found:
                for turn in range(self.settings["passes"]):
                    for batch in self._batches(number, turn, drawn, advantage, useful, size):
                        losses.append(self._update(found, batch, number))
        self._keep("average", self.policy.average)
        if self.algorithm.DRAWN_BY == "old":
            self._keep("old", min(self.settings["old_rate"] * number, self.settings["old_most"]))
        return sum(losses) / len(losses) if losses else 0.0

    def distance(self, number: int, drawn: Round) -> float:
        """Mean squared difference between the adapter's predictions and the start's, on this round's pictures."""
        rows = torch.arange(min(LOOKED_AT, len(drawn.clean)))
        batch = self._noisy(
            drawn, torch.zeros(len(drawn.clean)), rows, generator(self._seed, "distance", number)
        )
        with torch.no_grad(), enough_memory("lower policy.batch"):
            own = self._predict(batch)
            with self.using("start"):
                return mse(own, self._predict(batch)).mean().item()

    # The updates ---------------------------------------------------------------------------------

    def _batches(
        self, number: int, turn: int, drawn: Round, advantage: torch.Tensor, useful: torch.Tensor, size: int
    ) -> Iterator[Batch]:
        """The pass's batches of at most `size` examples: every picture, or every noisy step of it, once."""
        random = generator(self._seed, "learn", f"{number}:{turn}")
        if drawn.path is None:
            order = useful[torch.randperm(len(useful), generator=random)]
            for rows in order.split(size):
                yield self._noisy(drawn, advantage, rows, random)
            return
        steps = drawn.path.shape[1] - 1
        order = torch.randperm(len(useful) * steps, generator=random)
        order = order[: self._examples(len(useful), drawn)]
        for part in order.split(size):
            yield self._steps(drawn, advantage, useful[part // steps], part % steps)

    def _examples(self, pictures: int, drawn: Round) -> int:
        """How many examples a pass has: every picture, or a share of their noisy steps, drawn by chance."""
        if drawn.path is None:
            return pictures
        return max(1, round(pictures * (drawn.path.shape[1] - 1) * self.settings["fraction"]))

    def _noisy(
        self, drawn: Round, advantage: torch.Tensor, rows: torch.Tensor, random: torch.Generator
    ) -> Batch:
        """Pictures with new noise, each at a time step of its own."""
        sampler, diffusion = self.sampler, self.sampler.transitions.diffusion
        clean = drawn.clean[rows]
        times = torch.randint(len(diffusion.alphas_cumprod), (len(rows),), generator=random).to(self.device)
        noise = torch.randn(clean.shape, generator=random).to(self.device)
        clean = clean.to(self.device)
        return Batch(
            diffusion,
            sampler.transitions,
            diffusion.noisy(clean, noise, times),
            times,
            sampler.texts[drawn.rows[rows]].to(self.device),
            advantage[rows].to(self.device),
            clean=clean,
            noise=noise,
        )

    def _steps(self, drawn: Round, advantage: torch.Tensor, rows: torch.Tensor, kept: torch.Tensor) -> Batch:
        """Steps of the rollout: `kept` counts those that were drawn with noise."""
        sampler, steps = self.sampler, self.sampler.transitions
        index = (kept + sampler.noisy[0]).to(self.device)
        return Batch(
            steps.diffusion,
            steps,
            drawn.path[rows, kept].to(self.device),
            steps.times[index],
            sampler.texts[drawn.rows[rows]].to(self.device),
            advantage[rows].to(self.device),
            index=index,
            after=drawn.path[rows, kept + 1].to(self.device),
        )

    def _update(self, found: Gradients, batch: Batch, number: int) -> float:
        with enough_memory("lower policy.batch, or set policy.gradient_checkpointing"):
            others = {}
            for kind in self._needs:
                with self.using(kind):
                    others[kind] = found.each(self._predict, batch)
            value = found.of(replace(batch, others=others))
        length = torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), self.policy.max_grad_norm)
        if not (value.isfinite() and length.isfinite()):
            raise UserError(
                f"the loss or its gradient is not finite in round {number}; lower the learning_rate"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.updates += 1
        return value.item()

    def _loss(self, batch: Batch) -> torch.Tensor:
        return self.algorithm.loss(self._predict(batch), batch, self.settings).mean()

    def _predict(self, batch: Batch) -> torch.Tensor:
        return self._denoiser(batch.noisy, batch.times, self._denoiser.condition(batch.texts))

    # The copies ----------------------------------------------------------------------------------

    @torch.no_grad()
    def _put(self, values: Mapping[str, torch.Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])

    @torch.no_grad()
    def _keep(self, kind: str, decay: float) -> None:
        """copy <- decay copy + (1 - decay) adapter, in place."""
        for name, parameter in self.parameters.items():
            self.copies[kind][name].mul_(decay).add_(parameter, alpha=1 - decay)
