"""Image-caption pairs, encoded once: what training reads instead of pictures and text.

An image becomes the mean and deviation of its latents, from which every step samples anew: the same
distribution as encoding inside the training loop, at none of its cost.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from selma import backbones

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline
    from PIL.Image import Image

ENCODE_BATCH = 8  # images per pass of the VAE encoder


@dataclass(frozen=True)
class Examples:
    """Encoded pairs, all on one device.

    mean, std  [n, channels, h, w] fp32, of the scaled latents
    text       [unique, tokens, width], the states of every caption once; row 0 is the empty caption
    caption    [n], each pair's row in `text`
    """

    mean: torch.Tensor
    std: torch.Tensor
    text: torch.Tensor
    caption: torch.Tensor


@torch.no_grad()
def encode(pipe: StableDiffusionPipeline, images: Iterable[Image], texts: list[str]) -> Examples:
    """Encode RGB images and their captions with the pipeline's VAE and text encoder, onto its device.

    An image of another size than the backbone's is resized and cropped around its centre. Never flipped:
    captions say left and right.
    """
    pixels = torch.stack([_pixels(image, backbones.image_size(pipe)) for image in images])
    if len(pixels) != len(texts):
        raise ValueError(f"{len(pixels)} images but {len(texts)} texts")
    means, stds = [], []
    for part in pixels.split(ENCODE_BATCH):
        scaled = (part.to(pipe.device).float() / 127.5 - 1).to(pipe.vae.dtype)
        posterior = pipe.vae.encode(scaled).latent_dist
        means.append(posterior.mean.float() * pipe.vae.config.scaling_factor)
        stds.append(posterior.std.float() * pipe.vae.config.scaling_factor)
    unique = list(dict.fromkeys(["", *texts]))
    row = {text: i for i, text in enumerate(unique)}
    return Examples(
        mean=torch.cat(means),
        std=torch.cat(stds),
        text=backbones.encode_texts(pipe, unique).to(pipe.device),
        caption=torch.tensor([row[text] for text in texts], device=pipe.device),
    )


def _pixels(image: Image, size: tuple[int, int]) -> torch.Tensor:
    """An image as uint8 [3, height, width], fitted to `size` (width, height)."""
    from PIL import Image as pil
    from PIL import ImageOps

    if image.size != size:
        image = ImageOps.fit(image, size, pil.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
