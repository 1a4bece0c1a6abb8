"""CLIPScore (Hessel et al. 2021, arXiv 2104.08718): a score of an image for its prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selma.judging.clip import ClipScorer, load_clip
from selma.judging.pixels import cut_square

ANSWERS, SCORES = False, True
NEEDS = ("weights",)
TAKES = ("tokenizer",)


def load(folder: Path, card: dict[str, Any], device: str, dtype: str) -> ClipScorer:
    """The score: 2.5 x max(cosine, 0), of "A photo depicts <prompt>"."""
    return load_clip(
        folder,
        device,
        cut_square,
        lambda cosine, _: 2.5 * max(cosine, 0.0),
        lambda prompt: f"A photo depicts {prompt}",
    )
