"""Images as CLIP-like models see them: resized, cut or padded to a square, normalised; PIL and torch only."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

# Of CLIP's training images (arXiv 2103.00020); BLIP, open_clip, HPS and ImageReward use the same.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def cut_square(image: Image.Image, side: int) -> torch.Tensor:
    """[3, side, side], float32: the shorter side to `side` pixels (bicubic), then a centre crop. CLIP's own way."""
    width, height = image.size
    scale = side / min(width, height)
    size = (max(side, int(width * scale)), max(side, int(height * scale)))
    resized = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    left, top = round((size[0] - side) / 2), round((size[1] - side) / 2)
    return _normalise(_to_tensor(resized.crop((left, top, left + side, top + side))))


def pad_square(image: Image.Image, side: int) -> torch.Tensor:
    """[3, side, side], float32: the longer side to `side` pixels (bicubic), black around. HPS v2's way.

    Its code resizes the tensor, not the image, so values may leave 0..1 at sharp edges, here as there.
    """
    pixels = _to_tensor(image.convert("RGB"))
    height, width = pixels.shape[1:]
    scale = side / max(height, width)
    if scale != 1:
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        pixels = torch.nn.functional.interpolate(pixels[None], size, mode="bicubic", antialias=True)[0]
        rest_y, rest_x = side - size[0], side - size[1]
        around = (rest_x // 2, rest_x - rest_x // 2, rest_y // 2, rest_y - rest_y // 2)
        pixels = torch.nn.functional.pad(pixels, around)
    return _normalise(pixels)


def _to_tensor(image: Image.Image) -> torch.Tensor:
    """[3, height, width] in 0..1."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def _normalise(pixels: torch.Tensor) -> torch.Tensor:
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
