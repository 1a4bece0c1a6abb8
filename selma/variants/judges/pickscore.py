"""PickScore (Kirstain et al. 2023, arXiv 2305.01569): a score of an image for its prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selma.judging.clip import ClipScorer, load_clip
from selma.judging.pixels import cut_square

ANSWERS, SCORES = False, True
NEEDS = ("weights",)
TAKES = ("tokenizer",)


def load(folder: Path, card: dict[str, Any], device: str, dtype: str) -> ClipScorer:
    """PickScore (Kirstain et al. 2023, arXiv 2305.01569): logit scale x cosine, about 20 for good images."""
    return load_clip(folder, device, cut_square, lambda cosine, logit_scale: logit_scale * cosine)
