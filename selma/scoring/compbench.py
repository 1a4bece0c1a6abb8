"""T2I-CompBench++'s scores (arXiv 2307.06350): the mean of official scorers' output, or of a judge's saved answers.

Every official scorer writes `vqa_result.json`, a list of {"question_id", "answer"} with an image's score as the answer,
and reports the mean. BLIP-VQA's score is the product of P(yes), against no, over a prompt's noun phrases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from selma.ground.errors import UserError
from selma.ground.files import read_json, read_rows
from selma.ground.items import Item
from selma.ground.schema import Index, check, record
from selma.scoring.figures import Figure, known_items, macro
from selma.scoring.scores import Answered, score_answers
from selma.variants.benchmarks.compbench import ATTRIBUTES, FILES, SUBSTITUTES


@record
class _Scored(TypedDict):
    question_id: Index
    answer: float | str


def read_official(path: Path) -> list[float]:
    """Images' scores, -1 to 1 (cosines, too), in the order of their numbers.

    Raises UserError for a file of another form, a number that is there twice, and an answer that is no such score.
    """
    rows = check(Annotated[list[_Scored], Field(min_length=1)], read_json(path), str(path))
    scores: dict[int, float] = {}
    for entry, row in enumerate(rows, start=1):
        here = f"{path}, entry {entry}: question_id {row['question_id']}"
        if row["question_id"] in scores:
            raise UserError(f"{here} appears twice")
        try:
            score = float(row["answer"])
        except ValueError:
            score = math.nan
        if not -1 <= score <= 1:
            raise UserError(
                f"{here}: answer is {str(row['answer'])[:40]!r}; it must be a number from -1 to 1"
            )
        scores[row["question_id"]] = score
    return [scores[number] for number in sorted(scores)]


def official_table(scores: Sequence[float], figure: Figure, *, images: int, where: Path) -> dict[str, Any]:
    """The mean over images, of which each prompt has `images` in a row; raises UserError where they do not come out."""
    if len(scores) % images:
        raise UserError(
            f"{where}: holds {len(scores)} scores, which are no multiple of {images} images a prompt"
        )
    prompts = [scores[start : start + images] for start in range(0, len(scores), images)]
    return {"mean": figure([(sum(found), len(found)) for found in prompts])}


def judged_table(items: Sequence[Item], path: Path, figure: Figure) -> dict[str, Any]:
    """By category, of the prompts that have answers: what scored it, and the mean over prompts, 0 to 1.

    Attributes have the product of P(yes), the others the share of questions with yes, those void whose parent has no.
    Raises UserError for answers without P(yes), to questions that are not the benchmark's, and for an image that lacks
    an answer.
    """
    rows = read_rows(path, Answered, once=("item", "k", "question"))
    if not rows:
        raise UserError(f"{path}: holds no answers; a line for each question is needed")
    there = known_items((row["item"] for row in rows), {item.id for item in items}, path)
    scope = [item for item in items if item.id in there]
    scores = score_answers(scope, rows, where=str(path), quiet=True)
    if (gap := next((score for score in scores if score.answer is None), None)) is not None:
        raise UserError(f"{path}: item {gap.item!r}, image {gap.k}, question {gap.question!r} has no answer")
    found: dict[str, Any] = {}
    for category in FILES:
        own = [score for score in scores if score.skill == category]
        if not own:
            continue
        if category in ATTRIBUTES:
            ids = {score.item for score in own}
            means = [(mean, 1) for mean in _products([row for row in rows if row["item"] in ids], path)]
            found[category] = {"scorer": "product of P(yes), as BLIP-VQA", "score": figure(means)}
        else:
            scorer = f"questions, a substitute for {SUBSTITUTES[category]}"
            found[category] = {"scorer": scorer, "score": figure(macro(own))}
    return found


def _products(rows: Sequence[Answered], path: Path) -> list[float]:
    """By item, the mean over its images of the product of P(yes) over its questions."""
    products: dict[str, dict[int, float]] = {}
    for row in rows:
        if row.get("p_yes") is None:
            raise UserError(
                f"{path}: item {row['item']!r}, question {row['question']!r} has no p_yes; attributes need it"
            )
        images = products.setdefault(row["item"], {})
        images[row["k"]] = images.get(row["k"], 1.0) * row["p_yes"]
    return [fmean(images.values()) for images in products.values()]
