"""HPS v2.0 (Wu et al. 2023, arXiv 2306.09341): 100 x the cosine of CLIP-H's embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selma.judging.clip import ClipScorer, load_clip, open_clip_words
from selma.judging.pixels import pad_square

ANSWERS, SCORES = False, True
NEEDS = ("weights",)
TAKES = ("tokenizer",)


def load(folder: Path, card: dict[str, Any], device: str, dtype: str) -> ClipScorer:
    """The score; float32, whatever `dtype` says."""
    return load_clip(folder, device, pad_square, lambda cosine, _: 100 * cosine, open_clip_words)
