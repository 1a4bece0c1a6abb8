"""InstructBLIP (Dai et al. 2023, arXiv 2305.06500) as a judge, in its paper's form for short answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import InstructBlipForConditionalGeneration, InstructBlipProcessor

from selma.ground.items import Question
from selma.judging.opening import load_model, load_part
from selma.judging.qformer import QFormerVqa
from selma.judging.vqa import VqaJudge, load_matcher

ANSWERS = True
NEEDS = ("weights",)
TAKES = ("matcher",)


def load(folder: Path, card: dict[str, Any], device: str, dtype: str) -> VqaJudge:
    """InstructBLIP in its paper's form for short answers."""

    def prompt(question: Question) -> str:
        return f"Question: {question.text} Short answer:"

    model = load_model(InstructBlipForConditionalGeneration, folder, device, dtype)
    processor = load_part(InstructBlipProcessor, folder)
    return VqaJudge(QFormerVqa(model, processor, folder), prompt, load_matcher(folder))
