"""A model's scores on DSG, TIFA and HPS v2 as their papers table them, from answers alone (figures.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from selma.ground.errors import UserError
from selma.ground.items import Item
from selma.ground.propositions import Proposition
from selma.judging.choices import match
from selma.scoring.figures import (
    Figure,
    answer_row,
    answered,
    known_items,
    macro,
    micro,
    percent,
    plain,
    split,
    warn_of_wording,
    yes_rows,
)
from selma.scoring.saved import Saved
from selma.scoring.scores import QuestionScore, score_answers
from selma.variants.benchmarks import dsg

__all__ = ["dsg_table", "percent", "plain", "style_table", "tifa_table"]


def dsg_table(
    annotations: Mapping[str, Sequence[Proposition]],
    answers: Sequence[Saved],
    figure: Figure,
    *,
    where: Path,
    exact: bool = False,
) -> dict[str, Any]:
    """DSG's scores, over every annotated prompt of the data sets that the answers are about.

    official_macro, no_dependency_macro and official_micro follow DSG's authors, cascading_micro the SELMA
    paper (dsg.py). An answer counts as the judges' own do (`yes_or_no`): "Yes, there are two", "True" and 1 are yes;
    with `exact` only the literal "yes" is, as in the official scorer. Raises UserError for answers that match no
    prompt or no question.
    """
    there = known_items((row.item for row in answers), annotations, where)
    answers = [row for row in answers if row.item in there]
    warn_of_wording(answers, where, exact)
    rows = yes_rows(answers, exact=exact)
    present = {dsg.source_of(item) for item in there}
    scope = {item: found for item, found in annotations.items() if dsg.source_of(item) in present}
    official = score_answers(dsg.items(scope), rows, where=str(where))
    cascading = score_answers(dsg.cascading_items(scope), rows, where=str(where), quiet=True)
    broad = {(found.item, found.id): found.broad for all in scope.values() for found in all}

    def four(a: Sequence[QuestionScore], b: Sequence[QuestionScore]) -> dict[str, Any]:
        return {
            "official_macro": figure(macro(a)),
            "no_dependency_macro": figure(macro(a, dependencies=False)),
            **two(a, b),
        }

    def two(a: Sequence[QuestionScore], b: Sequence[QuestionScore]) -> dict[str, Any]:
        return {"official_micro": figure(micro(a)), "cascading_micro": figure(micro(b))}

    def kind(score: QuestionScore) -> str:
        return broad[score.item, score.question]

    return {
        **four(official, cascading),
        "by_source": split(lambda score: score.skill, official, cascading, four),
        "by_category": split(lambda score: score.category, *map(answered, (official, cascading)), two),
        "by_broad_category": split(kind, *map(answered, (official, cascading)), two),
    }


def tifa_table(
    items: Sequence[Item],
    answers: Sequence[Saved],
    figure: Figure,
    *,
    where: Path,
    choose: Callable[[str, Sequence[str]], str | None] = match,
) -> dict[str, Any]:
    """TIFA's score (macro over captions), by the captions' source, and accuracy by type of element (micro).

    `choose` makes a free answer one of a question's choices (choices.py); by default it must say one. Raises
    UserError for an answer that is not one of the choices and for a question without an answer: a missing
    image is an error, never a smaller denominator.
    """
    questions = {(item.id, q.id): q for item in items for q in item.questions}
    there = known_items((row.item for row in answers), {item.id for item in items}, where)
    rows = []
    for row in (row for row in answers if row.item in there):
        question = questions.get((row.item, row.question))
        if question is None:
            raise UserError(f"{where}: item {row.item!r} has no question {row.question!r}")
        chosen = choose(row.answer, question.choices)
        if chosen is None:
            raise UserError(
                f"{where}: item {row.item!r}, question {row.question!r} is answered {row.answer!r}, which is "
                f"not one of {', '.join(question.choices)}; --embedder FOLDER picks the nearest"
            )
        rows.append(answer_row(row, chosen, question.answer))
    scores = score_answers(items, rows, where=str(where), quiet=True)
    gap = next((score for score in scores if score.answer is None), None)
    if gap is not None:
        raise UserError(
            f"{where}: item {gap.item!r}, image {gap.k}, question {gap.question!r} has no answer; TIFA needs all"
        )
    return {
        "macro": figure(macro(scores)),
        "micro": figure(micro(scores)),
        "by_source": split(lambda score: score.skill, scores, scores, lambda a, _: figure(macro(a))),
        "by_type": split(lambda score: score.category, scores, scores, lambda a, _: figure(micro(a))),
    }


def style_table(
    items: Sequence[Item], scores: Mapping[tuple[str, int], float], figure: Figure, *, where: Path
) -> dict[str, Any]:
    """Preference scores by style (HPS v2's four) and over all, means over prompts of means over their images.

    Over every prompt of the styles that the scores are about; one without a score of every image raises UserError.
    """
    images: dict[str, list[float]] = {}
    for (item, _), score in scores.items():
        images.setdefault(item, []).append(score)
    known = {item.id: item.skill for item in items}
    present = {known[item] for item in known_items(images, known, where)}
    scope = [item for item in items if item.skill in present]
    numbers = sorted({k for _, k in scores})
    for item in scope:
        if item.id not in images:
            raise UserError(f"{where}: item {item.id!r} has no score; every prompt of its style needs one")
        if missing := [k for k in numbers if (item.id, k) not in scores]:
            raise UserError(
                f"{where}: item {item.id!r}, image {missing[0]} has no score, but others have; "
                f"every prompt needs {len(numbers)}"
            )
    means = {item.id: (sum(images[item.id]) / len(images[item.id]), 1) for item in scope}
    styles = dict.fromkeys(item.skill for item in scope)
    return {
        "macro": figure(list(means.values())),
        "by_style": {s: figure([means[item.id] for item in scope if item.skill == s]) for s in styles},
    }
