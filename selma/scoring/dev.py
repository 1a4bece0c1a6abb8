"""Choosing a checkpoint: what an expert's training left, and how well images of dev prompts fit them.

Dev prompts are a benchmark's dev split, scored by faithfulness, or prompts of each skill that the filter held out of
training, scored by VQAScore (Lin et al. 2024, arXiv 2404.01291): the published benchmarks are test splits alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean

from PIL.Image import Image

from selma.ground.errors import UserError
from selma.ground.files import read_jsonl
from selma.ground.items import Item
from selma.judging.judge import Judge, ask
from selma.scoring.scores import macro, score_answers

Shot = tuple[Item, int]  # a prompt and which of its images


def held_out(folder: Path, skills: Sequence[str]) -> list[Item]:
    """The prompts that the filter held out of every skill, `folder`/<skill>/dev.jsonl, as items without questions."""
    return [
        Item(row["id"], row["text"], skill, "filter", ())
        for skill in skills
        for row in read_jsonl(folder / skill / "dev.jsonl")
    ]


def faithfulness(
    judge: Judge, shots: Sequence[Shot], images: Iterable[tuple[int, Image]], where: str
) -> float:
    """DSG score (0..1) of images, each with its place in `shots`; `where` opens every error."""
    rows = [row for i, image in images for row in ask(judge, shots[i][0], image, shots[i][1])]
    items = list({item.id: item for item, _ in shots}.values())
    return macro(score_answers(items, rows, where=where))


def vqa_score(judge: Judge, shots: Sequence[Shot], images: Iterable[tuple[int, Image]]) -> float:
    """Mean VQAScore (0..1) of images, each with its place in `shots`; UserError for a judge that gives none."""
    if not hasattr(judge, "score"):
        raise UserError("judge.name: this judge gives no VQAScore, by which filter.dev's prompts are scored")
    return fmean(judge.score(image, shots[i][0].prompt) for i, image in images)
