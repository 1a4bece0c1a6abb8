"""The denoising objective of latent diffusion (Rombach et al., arXiv 2112.10752, equation 2), SELMA's own.

Mean squared error between what the UNet predicts for a noisy image-text pair and the noise in it (or v, if the
backbone predicts v: Salimans and Ho, arXiv 2202.00512). With `min_snr`, time steps weigh by their signal-to-noise
ratio (Hang et al., ICCV 2023, arXiv 2303.09556, section 3.4).
"""

from __future__ import annotations

import torch

from selma.experts import noisy

READS = ("min_snr",)  # of the settings that not every objective knows

draw_batch = noisy.draw_batch


def batch_loss(unet: torch.nn.Module, batch: noisy.Batch) -> torch.Tensor:
    """The denoising loss: mean squared error, in fp32, of what the backbone predicts (noise or v), weighed by step."""
    return noisy.loss(unet, batch)
