"""BLIP-2 (Li et al. 2023, arXiv 2301.12597) as a judge, asked as TIFA's own scorer asks it.

TIFA (arXiv 2303.11897) lists a question's choices in the prompt for BLIP-2, and for no other of its models: class
BLIP2 of vqa_models.py in github.com/Yushi-Hu/tifa. That code decodes with five beams; here it is greedy, so that
P(yes) belongs to the words.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Blip2ForConditionalGeneration, Blip2Processor

from selma.ground.items import Question
from selma.judging.qformer import load_qformer
from selma.judging.vqa import VqaJudge

ANSWERS, SCORES = True, True
NEEDS = ("weights",)
TAKES = ("matcher",)


def load(folder: Path, card: dict[str, Any], device: str, dtype: str) -> VqaJudge:
    """The judge; raises UserError for a folder that cannot be opened."""
    return load_qformer(Blip2ForConditionalGeneration, Blip2Processor, multiple_choice, folder, device, dtype)


def multiple_choice(question: Question) -> str:
    """A question with its choices, in TIFA's words."""
    choices = ", ".join(question.choices)
    return f"Answer the multiple-choice question. Question: {question.text} Choices: {choices} Answer:"
