"""InstructBLIP (Dai et al. 2023, arXiv 2305.06500) as a judge, in its paper's form for short answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import InstructBlipForConditionalGeneration, InstructBlipProcessor

from selma.judging.qformer import load_qformer
from selma.judging.vqa import VqaJudge

ANSWERS, SCORES = True, True
NEEDS = ("weights",)
TAKES = ("matcher",)


def load(folder: Path, card: dict[str, Any], device: str, dtype: str) -> VqaJudge:
    """The judge; raises UserError for a folder that cannot be opened."""
    return load_qformer(
        InstructBlipForConditionalGeneration,
        InstructBlipProcessor,
        lambda question: f"Question: {question.text} Short answer:",
        folder,
        device,
        dtype,
    )
