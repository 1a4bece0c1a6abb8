"""From answers to scores, by DSG's rules (arXiv 2310.18235); every score is 0 to 1.

A question about an image scores 1 when the answer is the expected one, and is void (0) when the RAW score of
any DIRECT parent is 0: there is no use in a colour when the object is not there. Only raw scores of direct
parents count, so nothing cascades further and circles among the parents do no harm. An image's score is the
mean over its questions, an item's the mean over its images, a model's the mean over its items (macro).

A missing answer is a score of 0 with a warning, never a smaller denominator.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from selma.benchmarks import Item
from selma.errors import UserError
from selma.records import read_jsonl


@dataclass(frozen=True)
class QuestionScore:
    """One question about image `k` of one item: `raw` is 1 for the expected answer, `score` is 0 where void.

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


def load_answers(path: Path, items: Sequence[Item]) -> list[QuestionScore]:
    """Scores of an answers file of rows {item, k, question, answer, p_yes, expected}; see `score_answers`."""
    if not Path(path).is_file():
        raise UserError(f"{path} is missing; the answer stage writes it")
    return score_answers(items, read_jsonl(path), where=str(path))


def score_answers(
    items: Sequence[Item], rows: Iterable[Mapping[str, Any]], *, where: str = "answers"
) -> list[QuestionScore]:
    """Score every question of every item about every image, in the order of items, images and questions.

    The images of an item are all values of k in `rows`; rows of other items (another split's, say) are passed
    over. Raises UserError, naming `where`, for no rows, none of the items, an unknown question, two answers
    to one question, or an expected answer other than the benchmark's.
    """
    answers = _index(items, rows, where)
    images = sorted({k for _, k, _ in answers})
    scores: list[QuestionScore] = []
    for item in items:
        for k in images:
            given = {q.id: answers.get((item.id, k, q.id)) for q in item.questions}
            raw = {q.id: float(given[q.id] == q.answer) for q in item.questions}
            for q in item.questions:
                score = min([raw[q.id], *(raw[parent] for parent in q.parents)])
                scores.append(
                    QuestionScore(item.id, item.skill, q.category, k, q.id, given[q.id], raw[q.id], score)
                )
    _warn_of_gaps(scores, where)
    return scores


def _index(
    items: Sequence[Item], rows: Iterable[Mapping[str, Any]], where: str
) -> dict[tuple[str, int, str], str]:
    expected = {(item.id, q.id): q.answer for item in items for q in item.questions}
    names = {item.id for item in items}
    answers: dict[tuple[str, int, str], str] = {}
    number = 0
    for number, row in enumerate(rows, start=1):
        try:
            item, k, question = row["item"], int(row["k"]), row["question"]
            answer, wanted = row["answer"], row["expected"]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{where}, answer {number}: {error!r}; item, k, question, answer and expected are needed"
            ) from None
        if item not in names:
            continue
        here = f"{where}, answer {number}: item {item!r}, image {k}, question {question!r}"
        if (item, question) not in expected:
            raise UserError(f"{here} is not in the benchmark; answer the images again")
        if wanted != expected[item, question]:
            raise UserError(f"{here} expected {wanted!r}, the benchmark {expected[item, question]!r}")
        if (item, k, question) in answers:
            raise UserError(f"{here} is answered twice")
        answers[item, k, question] = answer
    if not number:
        raise UserError(f"{where} holds no answers; one per line and question is needed")
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
    """DSG's score of a model: mean over items. `dependencies=False` leaves the voiding out."""
    return fmean(item_scores(scores, dependencies=dependencies).values())


def micro(scores: Iterable[QuestionScore], *, dependencies: bool = True) -> float:
    """Mean over answered questions: items with many questions weigh more. What the SELMA paper reports."""
    return fmean(score.score if dependencies else score.raw for score in scores if score.answer is not None)


def by_skill(scores: Sequence[QuestionScore]) -> dict[str, float]:
    """Macro score of each skill: mean over its items."""
    skills = {score.item: score.skill for score in scores}
    return _mean_by((skills[item], value) for item, value in item_scores(scores).items())


def by_category(scores: Iterable[QuestionScore]) -> dict[str, float]:
    """Mean over the questions of each category, void ones counted as 0 (micro), by name."""
    return dict(sorted(_mean_by((score.category, score.score) for score in scores).items()))


def _mean_by(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    groups: dict[str, list[float]] = defaultdict(list)
    for key, value in pairs:
        groups[key].append(value)
    return {key: fmean(values) for key, values in groups.items()}
