"""The backbone's VAE: 64x64 images to 4x8x8 latents, f = 8 as in Stable Diffusion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from selma.shapes.pretraining.optimise import optimise
from selma.shapes.world.render import CANVAS

BATCH = 32


def make_autoencoder() -> AutoencoderKL:
    """An untrained AutoencoderKL of about 0.8 M parameters."""
    channels = (16, 32, 48, 64)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=CANVAS,
        mid_block_add_attention=False,
    )


def pretrain_autoencoder(
    images: np.ndarray, *, steps: int, seed: int, folder: Path, log: Callable[[int, float], None]
) -> AutoencoderKL:
    """Train on images (uint8 [n, 64, 64, 3]); the scaling factor makes latents of unit variance."""
    torch.manual_seed(seed)
    vae = make_autoencoder()
    data = torch.from_numpy(images)

    def loss(generator: torch.Generator, step: int) -> torch.Tensor:
        x = to_pixels(data[torch.randint(len(data), (BATCH,), generator=generator)])
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(x).latent_dist
            y = vae.decode(posterior.sample()).sample
        y = y.float()
        # The KL weight only keeps the latents near a unit ball; L1 keeps edges sharp.
        return (y - x).pow(2).mean() + 0.3 * (y - x).abs().mean() + 2e-4 * posterior.kl().float().mean() / 256

    optimise({"vae": vae}, loss, steps=steps, learning_rate=2e-3, seed=seed, folder=folder, ema=0.99, log=log)
    vae.eval()
    sample = torch.cat([z for z, _ in encode(vae, images[:1000])])
    vae.register_to_config(scaling_factor=1 / sample.std().item())
    return vae


def to_pixels(images: torch.Tensor) -> torch.Tensor:
    """uint8 [n, h, w, 3] to float32 [n, 3, h, w] in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.inference_mode()
def encode(vae: AutoencoderKL, images: np.ndarray, batch: int = 200):
    """Yields (mean, std) of the latents' posterior, unscaled, float32 [batch, 4, 8, 8], batch by batch."""
    for start in range(0, len(images), batch):
        posterior = vae.encode(to_pixels(torch.from_numpy(images[start : start + batch]))).latent_dist
        yield posterior.mean, posterior.std
