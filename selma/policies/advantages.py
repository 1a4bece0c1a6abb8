"""From rewards to advantages: how much better an image is than the others of its prompt."""

from __future__ import annotations

import torch

from selma.ground.errors import UserError

EPSILON = 1e-4  # Flow-GRPO's, below any spread that means something


def advantages(rewards: torch.Tensor) -> torch.Tensor:
    """(r - mean of its group) / (std of all + 1e-4), [prompts, group] in fp32, of rewards of that shape.

    The group's mean and the whole round's deviation, as in Flow-GRPO's code (arXiv 2505.05470, stat_tracking.py): a
    group's own deviation would blow the one unequal image of an easy prompt up to the size of a hard prompt's spread.
    Raises UserError for a reward that is not finite.
    """
    if not rewards.isfinite().all():
        raise UserError(
            f"a reward is {rewards[~rewards.isfinite()][0].item()}; rewards must be finite numbers"
        )
    centred = rewards.float() - rewards.float().mean(dim=1, keepdim=True)
    return centred / (rewards.float().std(unbiased=False) + EPSILON)


def informative(rewards: torch.Tensor) -> torch.Tensor:
    """Whether each image's group [prompts, group] tells one image from another; a group of equal rewards teaches
    nothing, and is left out of the update."""
    spread = rewards.max(dim=1).values - rewards.min(dim=1).values
    return (spread > 1e-6)[:, None].expand_as(rewards)
