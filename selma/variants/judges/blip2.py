"""BLIP-2 (Li et al. 2023, arXiv 2301.12597) as a judge, in its paper's form for VQA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Blip2ForConditionalGeneration, Blip2Processor

from selma.judging.qformer import load_qformer
from selma.judging.vqa import VqaJudge

ANSWERS, SCORES = True, True
NEEDS = ("weights",)
TAKES = ("matcher",)


def load(folder: Path, card: dict[str, Any], device: str, dtype: str) -> VqaJudge:
    """The judge; raises UserError for a folder that cannot be opened."""
    return load_qformer(
        Blip2ForConditionalGeneration, Blip2Processor, "Question: {} Answer:", folder, device, dtype
    )
