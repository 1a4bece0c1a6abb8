"""Next-token prediction of an image's tokens after its caption's: how multimodal backbones are trained to draw.

The mean cross entropy over image tokens (Janus, arXiv 2410.13848, equation 2, of generation). SELMA's experts on a
multimodal backbone learn by it.
"""

from __future__ import annotations

import torch

from selma.experts import codes

BACKBONE = "multimodal"

draw_batch = codes.draw_codes


def batch_loss(writer: codes.Writer, batch: codes.Codes) -> torch.Tensor:
    """The loss, a scalar."""
    return -writer(batch.ids, batch.mask, batch.codes).mean()
