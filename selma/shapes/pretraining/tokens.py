"""The multimodal backbone's image tokens: a VQ autoencoder of Janus's class, 64x64 images to 8x8 codes.

The codes are the corners of a cube on the unit sphere (binary spherical quantization, arXiv 2406.07548): a code is the
signs of what the encoder found. They are given and not learned, so none falls out of use. Janus's quantizer, which
takes the nearest of its codes among unit vectors, computes just that.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize
from transformers.models.janus.modeling_janus import JanusVQVAE

from selma.shapes.pretraining.autoencoder import to_pixels
from selma.shapes.pretraining.optimise import optimise

BATCH = 16
_COMMITMENT = 0.02  # weight of the encoder's pull towards its codes


def pretrain_tokens(
    model: JanusVQVAE,
    images: np.ndarray,
    *,
    steps: int,
    seed: int,
    folder: Path,
    log: Callable[[int, float], None],
) -> None:
    """Train the autoencoder, in place, on images (uint8 [n, 64, 64, 3])."""
    data = torch.from_numpy(images)
    begin(model, seed)

    def loss(generator: torch.Generator, step: int) -> torch.Tensor:
        # Contiguous, as permuted tensors would stay channels-last, in which group norm is slow on a CPU.
        x = to_pixels(data[torch.randint(len(data), (BATCH,), generator=generator)]).contiguous()
        found = _found(model, x)
        code = torch.where(found > 0, 1.0, -1.0) / found.shape[1] ** 0.5
        straight = found + (code - found).detach()  # the decoder sees the code, the encoder its gradient
        with torch.autocast("cpu", torch.bfloat16):
            y = model.decoder(model.post_quant_conv(straight.contiguous()))
        error = y.float() - x
        commitment = (code - found).square().sum(1).mean()
        return error.square().mean() + 0.3 * error.abs().mean() + _COMMITMENT * commitment

    optimise(
        {"tokens": model}, loss, steps=steps, learning_rate=2e-3, seed=seed, folder=folder, ema=0.99, log=log
    )
    model.eval()


@torch.no_grad()
def begin(model: JanusVQVAE, seed: int) -> None:
    """Set the codes, which stay, and seeded weights to begin with.

    transformers fills all convolutions with a deviation of 0.02, which leaves next to nothing of a unit vector behind
    the decoder's first: it is several times slower to learn from there than from torch's own initial values.
    """
    codes = model.quantize.embedding.weight
    bits = codes.shape[1]
    signs = torch.arange(len(codes))[:, None].bitwise_right_shift(torch.arange(bits)) & 1
    codes.requires_grad_(False).copy_((signs * 2 - 1) / bits**0.5)
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()
    nn.init.normal_(model.quant_conv.weight, std=model.quant_conv.in_channels**-0.5)
    nn.init.normal_(model.post_quant_conv.weight)  # a unit vector becomes values of unit variance


def _found(model: JanusVQVAE, pixels: torch.Tensor) -> torch.Tensor:
    """What is quantized: unit vectors, float32 [n, bits, 8, 8] (float32: bfloat16 does not tell near codes apart)."""
    with torch.autocast("cpu", torch.bfloat16):
        found = model.quant_conv(model.encoder(pixels))
    return normalize(found.float(), dim=1)


@torch.inference_mode()
def encode(model: JanusVQVAE, images: np.ndarray, batch: int = 200) -> torch.Tensor:
    """Token ids, int16 [n, 64], of images (uint8 [n, 64, 64, 3])."""
    out = []
    for start in range(0, len(images), batch):
        found = _found(model, to_pixels(torch.from_numpy(images[start : start + batch])).contiguous())
        out.append(model.quantize(found)[2].view(len(found), -1).to(torch.int16))
    return torch.cat(out)


@torch.inference_mode()
def decode(model: JanusVQVAE, tokens: torch.Tensor, batch: int = 200) -> np.ndarray:
    """Images, uint8 [n, 64, 64, 3], of token ids [n, 64]."""
    out = []
    for start in range(0, len(tokens), batch):
        with torch.autocast("cpu", torch.bfloat16):
            y = model.decode(tokens[start : start + batch].long())
        out.append(((y.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1))
    return torch.cat(out).numpy()
