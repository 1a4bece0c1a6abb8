"""What the policy-gradient algorithms share: densities of a step under two adapters, their ratio, their divergence."""

from __future__ import annotations

import torch

from selma.policies.batch import Batch


def log_densities(prediction: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Log densities [n] of what the rollout drew, under the prediction and under the old adapter's.

    Both are computed alike, so the ratio of the first update is exactly 1, in half precision, too.
    """
    steps = batch.transitions
    new, old = (
        steps.log_density(batch.after, steps.mean(found, batch.noisy, batch.index), batch.index)
        for found in (prediction, batch.others["old"])
    )
    return new, old


def clipped(new: torch.Tensor, old: torch.Tensor, advantage: torch.Tensor, band: float) -> torch.Tensor:
    """PPO's clipped surrogate (arXiv 1707.06347, equation 7), a loss [n]: max(-A ratio, -A clamp(ratio, 1 +- band))."""
    ratio = (new - old).exp()
    return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - band, 1 + band))


def divergence(prediction: torch.Tensor, other: torch.Tensor, batch: Batch) -> torch.Tensor:
    """KL divergence [n] of a step's two Gaussians, which have one deviation: (mean - mean')^2 / (2 std^2), a mean over
    the latents' dimensions."""
    steps = batch.transitions
    gap = steps.mean(prediction, batch.noisy, batch.index) - steps.mean(other, batch.noisy, batch.index)
    return (gap**2 / (2 * steps.std(batch.index) ** 2)).flatten(1).mean(dim=1)
