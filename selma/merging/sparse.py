"""Pruned and sign-elected means of updates: what TIES, DARE, magnitude pruning and KnOTS share."""

from __future__ import annotations

import hashlib

import torch


def trim(update: torch.Tensor, density: float) -> torch.Tensor:
    """`update` with only its entries of largest size: a share of `density`, 0 < density <= 1, but one at least."""
    if density >= 1:
        return update
    flat = update.flatten()
    kept = flat.abs().topk(max(1, int(density * flat.numel())), sorted=False).indices
    return torch.zeros_like(flat).index_copy(0, kept, flat[kept]).view_as(update)


def drop(update: torch.Tensor, density: float, seed: int, *names: str) -> torch.Tensor:
    """`update` with each entry kept with probability `density`, and divided by it: the same in expectation.

    What is dropped is a function of the seed and of `names` (an expert, a layer), so no order of merging changes it.
    """
    digest = hashlib.sha256(":".join((str(seed), *names)).encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    kept = torch.rand(update.shape, generator=generator) < density
    return torch.where(kept, update / density, 0.0)


def elected_mean(updates: torch.Tensor, sign: str) -> torch.Tensor:
    """The mean [...] of those entries of `updates` [experts, ...] that have the elected sign; 0 where none has.

    The sign of an entry is that of the experts' sum ("total") or of their majority ("count"), + in a draw. Entries of
    0 have no sign and do not count (TIES, arXiv 2306.01708, Algorithm 1).
    """
    votes = updates.sum(0) if sign == "total" else updates.sign().sum(0)
    agree = updates.sign() == torch.where(votes >= 0, 1.0, -1.0)
    return (updates * agree).sum(0) / agree.sum(0).clamp(min=1)
