"""ImageReward (Xu et al. 2023, arXiv 2304.05977): BLIP reads prompt and image together, a small MLP scores them.

The result is standardised by the published mean and deviation of the training set's scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_model
from transformers import BertTokenizer, BlipConfig

from selma.ground.errors import UserError, first_line
from selma.judging.groups import LocalScorer
from selma.judging.opening import load_part
from selma.judging.pixels import cut_square
from selma.published.reward import Reward
from selma.runtime.devices import pick_device

ANSWERS, SCORES = False, True
NEEDS = ("weights",)
TAKES = ("tokenizer",)

MEAN, STD = 0.16717362830052426, 1.0333394966054072
TOKENS = 35  # prompts are padded and cut to this many, as in training


class ImageReward(LocalScorer):
    """Standardised score of an image for a prompt; float32, as published.

    0 is an average image of the training set, 1 one standard deviation better.
    """

    def __init__(self, model: Reward, tokenizer: BertTokenizer, side: int, device: str) -> None:
        self._model, self._tokenizer, self._side, self._device = model, tokenizer, side, device

    @torch.inference_mode()
    def score_group(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        tokens = self._tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
        ).to(self._device)
        pixels = torch.stack([cut_square(image, self._side) for image in images]).to(self._device)
        raw = self._model(pixels, tokens["input_ids"], tokens["attention_mask"])
        return [(value - MEAN) / STD for value in raw[:, 0].tolist()]


def load(folder: Path, card: dict[str, Any], device: str, dtype: str) -> ImageReward:
    """Open a folder that stages/judge.py converted; raises UserError if it is incomplete."""
    device = pick_device(device)
    tokenizer = load_part(BertTokenizer, folder / "tokenizer")
    config = load_part(BlipConfig, folder)
    try:
        model = Reward(config)
        load_model(model, folder / "model.safetensors", strict=True)
    except Exception as error:  # safetensors and torch raise their own kinds
        raise UserError(f"{folder / 'model.safetensors'}: cannot be opened ({first_line(error)})") from error
    model.to(device).eval().requires_grad_(False)
    return ImageReward(model, tokenizer, config.vision_config.image_size, device)
