"""Texts side by side after one beginning, of which none sees another: each is read as if it stood there alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def apart(length: int, lengths: Sequence[int], valid: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """An additive mask [n, 1, total, total]: every text sees the beginning and itself, left to right.

    The beginning has `length` tokens, the texts `lengths`; valid [n, sum of lengths] is False on padding, which no text
    sees.
    """
    device = valid.device
    blocks = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    block = torch.cat([torch.full((length,), -1), blocks]).to(device)
    total = len(block)
    sees = torch.ones(total, total, dtype=torch.bool, device=device).tril()
    sees &= (block[:, None] == block[None]) | (block[None] == -1)
    seen = torch.cat([valid.new_ones(len(valid), length), valid], 1)
    mask = (sees[None] & seen[:, None]) | torch.eye(total, dtype=torch.bool, device=device)[None]
    return torch.zeros(mask.shape, dtype=dtype, device=device).masked_fill_(~mask, torch.finfo(dtype).min)[
        :, None
    ]


def positions(length: int, lengths: Sequence[int], valid: torch.Tensor) -> torch.Tensor:
    """Positions [n, total] of the same: every text, padded on its left, counts on from the beginning."""
    within = torch.cat([some.cumsum(1) for some in valid.split(list(lengths), 1)], 1).clamp(min=1) - 1
    before = torch.arange(length, device=valid.device).expand(len(valid), -1)
    return torch.cat([before, length + within], 1)
