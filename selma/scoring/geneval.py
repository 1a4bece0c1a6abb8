"""GenEval's scores (arXiv 2310.11513): the official summary of saved detections, or the same of a VQA judge's answers.

The official evaluate_images.py writes a line per image: {"filename", "tag", "prompt", "correct", "reason", "metadata",
"details"}. Its summary_scores.py takes the share of correct images by tag, and the mean over tags as the score.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from selma.ground.errors import UserError
from selma.ground.files import lines, read_rows
from selma.ground.items import Item
from selma.ground.schema import Text, record
from selma.judging.choices import match
from selma.scoring.bootstrap import bootstrap_strata
from selma.scoring.figures import Figure, answer_row, known_items, named
from selma.scoring.saved import Saved
from selma.scoring.scores import score_answers


@record
class _Detected(TypedDict):
    filename: Text
    tag: Text
    prompt: Text
    correct: bool
    metadata: NotRequired[str]


@dataclass(frozen=True)
class Drawn:
    """An image of a prompt (its metadata, officially), and whether all that the prompt asks for is in it."""

    tag: str
    prompt: str
    correct: bool


def is_official(path: Path) -> bool:
    """Whether a file holds the official script's results, rather than a judge's answers."""
    return Path(path).suffix == ".jsonl" and "correct" in next((row for _, row in lines(path)), {})


def read_detections(path: Path) -> list[Drawn]:
    """The images of the official script's results; raises UserError, naming the line, for a row of another form, an
    image that is there twice, and a file without rows."""
    rows = read_rows(path, _Detected, once=("filename",))
    if not rows:
        raise UserError(f"{path}: holds no results; a line for each image is needed")
    return [Drawn(row["tag"], row.get("metadata", row["prompt"]), row["correct"]) for row in rows]


def judged(items: Sequence[Item], answers: Sequence[Saved], where: Path) -> list[Drawn]:
    """The same of a VQA judge's answers: an image is correct if each of its questions is answered as expected.

    Of the prompts that have answers. Raises UserError for answers that match no prompt or no question, and for a
    question without one of its choices as the answer.
    """
    there = known_items((row.item for row in answers), {item.id for item in items}, where)
    scope = [item for item in items if item.id in there]
    asked = {(item.id, q.id): q for item in scope for q in item.questions}
    rows = []
    for row in (row for row in answers if row.item in there):
        if (question := asked.get((row.item, row.question))) is None:
            raise UserError(f"{where}: item {row.item!r} has no question {row.question!r}")
        rows.append(answer_row(row, match(row.answer, question.choices) or "", question.answer))
    right: dict[tuple[str, int], bool] = {}
    for score in score_answers(scope, rows, where=str(where)):
        right[score.item, score.k] = right.get((score.item, score.k), True) and score.raw == 1
    tags = {item.id: item.skill for item in scope}
    return [Drawn(tags[item], item, correct) for (item, _), correct in right.items()]


def geneval_table(images: Iterable[Drawn], figure: Figure, *, resamples: int, seed: int) -> dict[str, Any]:
    """The official summary, in percent: overall (mean over tags), by tag, images and prompts.

    by_tag and images are shares of correct images, prompts the share of prompts with any. Intervals are over prompts,
    in overall over each tag's.
    """
    tags: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for image in images:
        tags[image.tag][image.prompt].append(image.correct)
    clusters = {
        tag: [(float(sum(correct)), len(correct)) for correct in prompts.values()]
        for tag, prompts in tags.items()
    }
    pooled = [cluster for found in clusters.values() for cluster in found]
    overall = bootstrap_strata(list(clusters.values()), resamples=resamples, seed=seed)
    return {
        "overall": named(overall, len(clusters)),
        "by_tag": {tag: figure(found) for tag, found in clusters.items()},
        "images": figure(pooled),
        "prompts": figure([(float(right > 0), 1) for right, _ in pooled]),
    }
