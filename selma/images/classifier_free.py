"""Classifier-free guidance (Ho and Salimans, arXiv 2207.12598): away from the prediction without text.

e = e_empty + scale * (e_text - e_empty), equation 6 with scale = 1 + w. Scale 1 is the text's prediction alone, and so
is any below, as in diffusers: 0 is what the users of distilled models write for "no guidance".

Here, and not in variants/guidance/cfg.py, for the methods that guide by it and do more: of a row's methods DVC watches
only the file that the row names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def branches(scale: float) -> tuple[str, ...]:
    """What the UNet is run on at every step, in this order: the conditioning without text, and the text's."""
    return ("text",) if scale <= 1 else ("empty", "text")


def combine(predictions: tuple[torch.Tensor, ...], scale: float) -> torch.Tensor:
    """The prediction to step by, from those of the branches, fp32 [n, channels, h, w] each."""
    if scale <= 1:
        return predictions[0]
    without_text, with_text = predictions
    return without_text + scale * (with_text - without_text)
