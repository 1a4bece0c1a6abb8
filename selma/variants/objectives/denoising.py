"""The denoising objective of latent diffusion (Rombach et al., arXiv 2112.10752, equation 2), SELMA's own.

Mean squared error between what the UNet predicts for a noisy image-text pair and the noise in it (or v, if the
backbone predicts v: Salimans and Ho, arXiv 2202.00512).
"""

from __future__ import annotations

import torch
from torch.nn import functional

from selma.experts import noisy

draw_batch = noisy.draw_batch


def batch_loss(unet: torch.nn.Module, batch: noisy.Batch) -> torch.Tensor:
    """The denoising loss: mean squared error, in fp32, of what the backbone predicts (noise or v)."""
    return functional.mse_loss(noisy.predict(unet, batch), batch.target)
