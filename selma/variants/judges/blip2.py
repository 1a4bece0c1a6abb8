"""BLIP-2 (Li et al. 2023, arXiv 2301.12597) as a judge, in its paper's form for VQA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Blip2ForConditionalGeneration, Blip2Processor

from selma.ground.items import Question
from selma.judging.opening import load_model, load_part
from selma.judging.qformer import QFormerVqa
from selma.judging.vqa import VqaJudge, load_matcher

ANSWERS = True
NEEDS = ("weights",)
TAKES = ("matcher",)


def load(folder: Path, card: dict[str, Any], device: str, dtype: str) -> VqaJudge:
    """BLIP-2 in its paper's form for VQA."""

    def prompt(question: Question) -> str:
        return f"Question: {question.text} Answer:"

    model = load_model(Blip2ForConditionalGeneration, folder, device, dtype)
    return VqaJudge(
        QFormerVqa(model, load_part(Blip2Processor, folder), folder), prompt, load_matcher(folder)
    )
