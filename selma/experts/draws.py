"""Which examples a training step sees, and the generators of its random draws: functions of (seed, step) alone.

And the seed that an adapter starts from.
"""

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


def initial_seed(kind: str, seed: int, name: str) -> int:
    """The seed, 0 <= it < 2**63, of an adapter's first A: for `kind` shared the run's `seed`, as in the paper.

    Kind own is a stable hash of the run's seed and the expert's name: each expert begins elsewhere.
    """
    return generator(seed, "A", name).initial_seed() if kind == "own" else seed


def generator(seed: int, purpose: str, index: int | str) -> torch.Generator:
    """A CPU generator of its own for one purpose and index (or name) of a run."""
    digest = hashlib.sha256(f"{seed}:{purpose}:{index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
