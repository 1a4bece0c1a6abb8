"""From answers to scores, by DSG's rules (arXiv 2310.18235); every score is 0 to 1.

A question about an image scores 1 when the answer is the expected one, and is void (0) when the RAW score of
any DIRECT parent is 0: a colour cannot be right when its object is missing. Only raw scores of direct
parents count, so nothing cascades further and cycles among the parents are harmless. An image's score is the
mean over its questions, an item's the mean over its images, a model's the mean over its items (macro).

The SELMA paper (arXiv 2403.06952) reports another figure: the mean over all questions (`micro`), where a wrong answer
voids whatever depends on it at any remove.

A missing answer is a score of 0 with a warning, never a smaller denominator. So is a parent that the benchmark
itself lacks (`Item.absent`): what depends on it is void.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NotRequired

from typing_extensions import TypedDict

from selma.ground.errors import UserError
from selma.ground.files import read_rows
from selma.ground.items import Item, Question, ancestors
from selma.ground.schema import Fraction, Index, Text, record


@record
class Answered(TypedDict):
    """A row of data/answers/<model>/<benchmark>.jsonl."""

    item: Text
    k: Index
    question: Text
    answer: str
    p_yes: NotRequired[Fraction | None]
    expected: Text


@dataclass(frozen=True)
class QuestionScore:
    """One question about image `k` of one item: `raw` is 1 for the expected answer, `score` is 0 where void.

    `cascading` is 0 where any ancestor is answered wrongly, too; a parent that the benchmark lacks voids nothing there.
    `answer` is what the judge said, None where it was never asked.
    """

    item: str
    skill: str
    category: str
    k: int
    question: str
    answer: str | None
    raw: float
    score: float
    cascading: float


def load_answers(path: Path, items: Sequence[Item]) -> list[QuestionScore]:
    """Scores of an answers file of rows {item, k, question, answer, p_yes, expected}; see `score_answers`.

    Raises UserError for an answer that is not one of the choices. A benchmark with multiple choice (TIFA) needs all
    answers: there one that is missing raises UserError, too.
    """
    if not Path(path).is_file():
        raise UserError(f"{path} is missing; the answer stage writes it")
    rows, where = read_rows(path, Answered), str(path)
    offered = {(item.id, q.id): q.choices for item in items for q in item.questions}
    multiple = any(set(choices) != {"yes", "no"} for choices in offered.values())
    scores = score_answers(items, rows, where=where, quiet=multiple)
    for score in scores:
        choices = offered[score.item, score.question]
        if score.answer not in choices and (multiple or score.answer is not None):
            said = "has no answer" if score.answer is None else f"is answered {score.answer!r}"
            raise UserError(
                f"{where}: item {score.item!r}, image {score.k}, question {score.question!r} {said}; "
                f"one of {', '.join(choices)} is needed"
            )
    return scores


def score_answers(
    items: Sequence[Item], rows: Iterable[Mapping[str, Any]], *, where: str = "answers", quiet: bool = False
) -> list[QuestionScore]:
    """Score every question of every item about every image, in the order of items, images and questions.

    The images of an item are all values of k in `rows`; rows of other items (another split's, say) are passed
    over. Raises UserError, naming `where`, for no rows, none of the items, an unknown question, two answers
    to one question, or an expected answer other than the benchmark's. `quiet` suppresses the missing-answer warning.
    """
    answers = _index(items, rows, where)
    images = sorted({k for _, k, _ in answers})
    scores: list[QuestionScore] = []
    for item in items:
        above = ancestors({q.id: q.parents for q in item.questions})
        for k in images:
            given = {q.id: answers.get((item.id, k, q.id)) for q in item.questions}
            raw = {q.id: float(given[q.id] == q.answer) for q in item.questions}
            for q in item.questions:
                score = gated(q, raw)
                below = min([raw[q.id], *(raw[parent] for parent in above[q.id])])
                scores.append(
                    QuestionScore(
                        item.id, item.skill, q.category, k, q.id, given[q.id], raw[q.id], score, below
                    )
                )
    if not quiet:
        _warn_of_gaps(scores, where)
    return scores


def gated(question: Question, raw: Mapping[str, float]) -> float:
    """A question's raw score, at most that of any question it directly depends on; one that is absent counts as 0."""
    return min([raw[question.id], *(raw.get(parent, 0.0) for parent in question.parents)])


def _index(
    items: Sequence[Item], rows: Iterable[Mapping[str, Any]], where: str
) -> dict[tuple[str, int, str], str]:
    expected = {(item.id, q.id): q.answer for item in items for q in item.questions}
    if not expected:
        raise UserError(f"{where}: the benchmark has no questions; its images have preference scores only")
    names = {item.id for item in items}
    answers: dict[tuple[str, int, str], str] = {}
    number = 0
    for number, row in enumerate(rows, start=1):
        item, k, question = row["item"], row["k"], row["question"]
        answer, wanted = row["answer"], row["expected"]
        if item not in names:
            continue
        here = f"{where}, answer {number}: item {item!r}, image {k}, question {question!r}"
        if (item, question) not in expected:
            raise UserError(f"{here} is not in the benchmark; run the answer stage again")
        if wanted != expected[item, question]:
            raise UserError(
                f"{here} expects {wanted!r}, but the benchmark expects {expected[item, question]!r}"
            )
        if (item, k, question) in answers:
            raise UserError(f"{here} is answered twice")
        answers[item, k, question] = answer
    if not number:
        raise UserError(f"{where} holds no answers; a line for each question is needed")
    if not answers:
        raise UserError(
            f"{where} answers none of the benchmark's {len(names)} items; wrong benchmark or split?"
        )
    return answers


def _warn_of_gaps(scores: Sequence[QuestionScore], where: str) -> None:
    gaps = [score for score in scores if score.answer is None]
    if gaps:
        n_items = len({score.item for score in gaps})
        print(
            f"warning: {where}: {len(gaps)} answers are missing in {n_items} items (first: {gaps[0].item}, "
            f"image {gaps[0].k}, question {gaps[0].question}); they score 0",
            file=sys.stderr,
        )


# Aggregates ------------------------------------------------------------------------------------


def item_scores(scores: Iterable[QuestionScore], *, dependencies: bool = True) -> dict[str, float]:
    """Score of each item, in their order: mean over its images of the mean over an image's questions."""
    images: dict[tuple[str, int], list[float]] = defaultdict(list)
    for score in scores:
        images[score.item, score.k].append(score.score if dependencies else score.raw)
    return _mean_by((item, fmean(values)) for (item, _), values in images.items())


def macro(scores: Iterable[QuestionScore], *, dependencies: bool = True) -> float:
    """DSG's score of a model: mean over items. `dependencies=False` leaves out the voiding."""
    return fmean(item_scores(scores, dependencies=dependencies).values())


def micro(scores: Iterable[QuestionScore]) -> float:
    """What the SELMA paper reports: mean over answered questions, each void where any ancestor is answered wrongly.

    Items with many questions weigh more. paper_tables.py gives DSG's own micro mean, which voids by direct parents.
    """
    return fmean(score.cascading for score in scores if score.answer is not None)


def by_skill(scores: Sequence[QuestionScore]) -> dict[str, float]:
    """Macro score of each skill: mean over its items."""
    skills = {score.item: score.skill for score in scores}
    return _mean_by((skills[item], value) for item, value in item_scores(scores).items())


def by_category(scores: Iterable[QuestionScore]) -> dict[str, float]:
    """Mean over the questions of each category, void ones counted as 0 (micro), by name."""
    return dict(sorted(_mean_by((score.category, score.score) for score in scores).items()))


def clusters(scores: Iterable[QuestionScore]) -> dict[str, tuple[float, int]]:
    """Sum of the scores and number of the answered questions of each item that has any.

    Their quotient over all items is DSG's own micro mean; the items are what a bootstrap draws (bootstrap.py).
    """
    groups: dict[str, list[float]] = defaultdict(list)
    for score in scores:
        if score.answer is not None:
            groups[score.item].append(score.score)
    return {item: (sum(values), len(values)) for item, values in groups.items()}


def _mean_by(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    groups: dict[str, list[float]] = defaultdict(list)
    for key, value in pairs:
        groups[key].append(value)
    return {key: fmean(values) for key, values in groups.items()}
