"""DPO on image tokens: learn from which of two images was preferred (Rafailov et al., arXiv 2305.18290, equation 7).

    loss = -log sigmoid(beta ((log p(w) - log p_ref(w)) - (log p(l) - log p_ref(l))))

log p are sums over an image's tokens, given the caption. The reference is the model that drew the images; training goes
on from it. SILMM (arXiv 2412.05818) trains multimodal models with discrete image tokens by it, on pairs that the model
chose itself, in rounds: each round's pairs are drawn by the round before.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from selma.experts import codes

BACKBONE = "multimodal"
PAIRS = True
CAPTIONS = True  # compares with a reference that saw the captions, so none may be dropped
OPTIONS = {"beta": {"default": 0.1, "gt": 0}}

draw_batch = codes.draw_codes


def batch_loss(writer: codes.Writer, batch: codes.Codes, *, beta: float) -> torch.Tensor:
    """The loss, a scalar: log 2 where the adapter has learnt nothing yet."""
    return -functional.logsigmoid(beta * margins(writer, batch)).mean()


def margins(writer: codes.Writer, batch: codes.Codes) -> torch.Tensor:
    """By how much more the winner's log-probability has risen than the loser's, [n].

    The share of margins above 0 is the implicit accuracy.
    """
    twice = (torch.cat([each, each]) for each in (batch.ids, batch.mask))
    now = writer(*twice, torch.cat([batch.codes, batch.losers])).sum(1)
    winners, losers = now.chunk(2)
    return (winners - batch.reference) - (losers - batch.lost)
