"""Which examples a training step sees, and the generators of its random draws: functions of (seed, step) alone."""

from __future__ import annotations

import hashlib

import torch


def batch_indices(n: int, batch: int, seed: int, step: int) -> torch.Tensor:
    """Rows [batch] of the data that step `step` (from 0) trains on.

    Epochs are permutations laid end to end and cut into batches: every example is seen equally often and no
    last partial batch is dropped, even where a batch is larger than the data.
    """
    start, end = step * batch, (step + 1) * batch
    epochs = range(start // n, (end - 1) // n + 1)
    order = torch.cat([torch.randperm(n, generator=generator(seed, "epoch", epoch)) for epoch in epochs])
    offset = epochs[0] * n
    return order[start - offset : end - offset]


def generator(seed: int, purpose: str, index: int) -> torch.Generator:
    """A CPU generator of its own for one purpose and index of a run."""
    digest = hashlib.sha256(f"{seed}:{purpose}:{index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
