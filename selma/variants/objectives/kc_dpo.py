"""Kernel-based continuous DPO: learn which features of a text were preferred (SILMM, arXiv 2412.05818).

    loss = -log sigmoid(gamma (-k(H, H_w) + k(H_r, H_w) + k(H, H_l) - k(H_r, H_l)))

H are the features that the text encoder hands to the diffusion decoder, H_r those of the model that drew the images,
H_w and H_l those that the better and the worse image were drawn from; k is a distance of pooled features:

    rbf          1 - exp(-d / (2 bandwidth^2))
    euclidean    d
    cosine       1 - cos(a, b)

with d the mean squared difference, of features in units of the reference's root mean square: SDXL's are much larger
than SD's, and a bandwidth must mean the same for both. The text encoder learns alone; the decoder is not run. The
paper's code was not released: pooling, kernels and bandwidth are settings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from selma.experts import features

if TYPE_CHECKING:
    from selma.lora.text import WithTexts

PAIRS = True
CAPTIONS = True  # compares with a reference that saw the captions, so none may be dropped
TEXT = True  # trains the text encoders, and nothing else
OPTIONS = {
    "gamma": {"default": 10.0, "gt": 0},
    "kernel": {"default": "rbf", "one_of": ("rbf", "euclidean", "cosine")},
    "bandwidth": {"default": 0.5, "gt": 0},
    "pool": {"default": "mean", "one_of": ("mean", "tokens")},
}

draw_batch = features.draw_features


def batch_loss(
    model: WithTexts, batch: features.Features, *, gamma: float, kernel: str, bandwidth: float, pool: str
) -> torch.Tensor:
    """The loss, a scalar: log 2 where the text encoder has learnt nothing yet."""
    return -functional.logsigmoid(gamma * margins(model, batch, kernel, bandwidth, pool)).mean()


def margins(
    model: WithTexts, batch: features.Features, kernel: str, bandwidth: float, pool: str
) -> torch.Tensor:
    """By how much the features have come nearer to the winner's than to the loser's, [n]."""
    now, reference, winners, losers = (
        pooled(each.float(), pool)
        for each in (model.encode(batch.ids)[0], batch.reference, batch.winners, batch.losers)
    )

    unit = reference.square().mean(-1, keepdim=True).sqrt()

    def k(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return distance(a / unit, b / unit, kernel, bandwidth)

    return -k(now, winners) + k(reference, winners) + k(now, losers) - k(reference, losers)


def pooled(states: torch.Tensor, pool: str) -> torch.Tensor:
    """Features [n, tokens, width] as one vector each: their mean over tokens, or all of them."""
    return states.mean(1) if pool == "mean" else states.flatten(1)


def distance(a: torch.Tensor, b: torch.Tensor, kernel: str, bandwidth: float) -> torch.Tensor:
    """The distance of vectors, row by row: [n, width] twice to [n], 0 for equal ones."""
    if kernel == "cosine":
        return 1 - functional.cosine_similarity(a, b, dim=-1)
    apart = (a - b).square().mean(-1)
    return apart if kernel == "euclidean" else -torch.expm1(-apart / (2 * bandwidth**2))
