"""Classifier-free guidance (arXiv 2207.12598) for the methods that guide by it and do more; cfg.py says what it is.

Not taken from variants/guidance/cfg.py: of a row's methods only the file that it names is hashed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def branches(scale: float) -> tuple[str, ...]:
    """What the UNet is run on at every step: the text alone at 1 or less, above it the empty text before it."""
    return ("text",) if scale <= 1 else ("empty", "text")


def combine(predictions: tuple[torch.Tensor, ...], scale: float) -> torch.Tensor:
    """The prediction to step by, from those of the branches, fp32 [n, channels, h, w] each."""
    if scale <= 1:
        return predictions[0]
    without_text, with_text = predictions
    return without_text + scale * (with_text - without_text)
