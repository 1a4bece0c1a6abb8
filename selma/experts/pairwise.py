"""Pairs that a step trains on: for each text the image that was preferred and the one that lost against it.

Both carry the same noise at the same time (Wallace et al., arXiv 2311.12908, section 4): an objective compares their
errors, and what the two have in common must not differ by chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from selma.backbones.conditioning import concatenate
from selma.experts import noisy

if TYPE_CHECKING:
    from diffusers import DDPMScheduler

    from selma.experts.examples import Examples
    from selma.runtime.params import Training


@dataclass(frozen=True)
class Pairs(noisy.Parts):
    """n pairs: the preferred images and, row by row, those that lost against them."""

    winners: noisy.Batch
    losers: noisy.Batch

    def __len__(self) -> int:
        return len(self.winners)


def draw_pairs(
    schedule: DDPMScheduler, examples: Examples, settings: Training, seed: int, step: int
) -> Pairs:
    """The pairs of step `step` (from 0), the winners as `noisy.draw_batch` draws them.

    The losers are drawn by the same numbers, so rows, noise, times, dropped captions and flips are theirs, too.
    """
    winners, losers = (
        noisy.draw_batch(schedule, each, settings, seed, step) for each in (examples, examples.losers)
    )
    return Pairs(winners, losers)


def errors(unet: torch.nn.Module, pairs: Pairs) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean squared error of the prediction for each winner and each loser: two tensors [n], from one pass."""
    parts = pairs.winners, pairs.losers
    both = noisy.Batch(
        *(torch.cat([getattr(part, name) for part in parts]) for name in ("noisy", "times")),
        concatenate([part.texts for part in parts]),
        *(torch.cat([getattr(part, name) for part in parts]) for name in ("time_ids", "target")),
        weights=None,
    )
    error = (noisy.predict(unet, both) - both.target) ** 2
    winners, losers = error.flatten(1).mean(dim=1).chunk(2)
    return winners, losers
