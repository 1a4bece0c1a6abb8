"""Plain CLIP (Radford et al. 2021, arXiv 2103.00020): the cosine of an image's embedding and its prompt's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from selma.ground.errors import UserError
from selma.judging.clip import ClipScorer, Pixels, load_clip
from selma.judging.opening import load_part
from selma.judging.pixels import cut_square

ANSWERS, SCORES = False, True
NEEDS = ("weights",)
TAKES = ("tokenizer",)

PROCESSORS = ("preprocessor_config.json", "processor_config.json")  # of one part, of all parts


def load(folder: Path, card: dict[str, Any], device: str, dtype: str) -> ClipScorer:
    """The score, -1..1, of the prompt as it is; float32, whatever `dtype` says.

    Raises UserError for a folder that cannot be opened, and for one whose processor does not fit its model.
    """
    scorer = load_clip(folder, device, _pixels(folder), lambda cosine, _: cosine)
    scorer.score(Image.new("RGB", (24, 16)), "")  # so that pixels that do not fit fail here
    return scorer


def _pixels(folder: Path) -> Pixels:
    """An image as this CLIP was trained to see it, by the folder's processor; where there is none, OpenAI's way."""
    if not any((folder / name).is_file() for name in PROCESSORS):
        return cut_square
    processor = load_part(CLIPImageProcessorPil, folder)

    def pixels(image: Image.Image, side: int) -> torch.Tensor:
        seen = processor(image.convert("RGB"), return_tensors="pt")["pixel_values"][0]
        if seen.shape != (3, side, side):
            height, width = seen.shape[1:]
            raise UserError(
                f"{folder}: its processor makes images of {width}x{height} pixels; this CLIP reads {side}x{side}"
            )
        return seen

    return pixels
