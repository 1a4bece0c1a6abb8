"""A model's scores on DSG, TIFA and HPS v2 as their papers table them, from answers alone.

Every figure is {mean, low, high, n}: its 95% bootstrap interval over prompts (bootstrap.py), and the number of
values that it averages, prompts in macro and given answers in micro. Scores of answers are in percent with 2
places, preference scores on the judge's own scale with 4.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from selma.ground.errors import UserError
from selma.ground.items import Item
from selma.judging.choices import match, yes_or_no
from selma.scoring.bootstrap import bootstrap_mean
from selma.scoring.saved import Saved
from selma.scoring.scores import QuestionScore, clusters, item_scores, score_answers
from selma.variants.benchmarks import dsg
from selma.variants.benchmarks.dsg import Proposition

# (sum of scores, number of scores) of each item -> a figure
Figure = Callable[[Sequence[tuple[float, int]]], dict[str, float]]


def percent(resamples: int, seed: int) -> Figure:
    """A figure in percent, of scores from 0 to 1."""
    return lambda clusters: _figure(clusters, resamples, seed, scale=100, places=2)


def plain(resamples: int, seed: int) -> Figure:
    """A figure on the scores' own scale."""
    return lambda clusters: _figure(clusters, resamples, seed, scale=1, places=4)


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
    there = _known((row.item for row in answers), annotations, where)
    answers = [row for row in answers if row.item in there]
    _warn_of_wording(answers, where, exact)
    rows = [_row(row, row.answer if exact else yes_or_no(row.answer) or "", "yes") for row in answers]
    present = {dsg.source_of(item) for item in there}
    scope = {item: found for item, found in annotations.items() if dsg.source_of(item) in present}
    official = score_answers(dsg.items(scope), rows, where=str(where))
    cascading = score_answers(dsg.cascading_items(scope), rows, where=str(where), quiet=True)
    broad = {(found.item, found.id): found.broad for all in scope.values() for found in all}

    def four(a: Sequence[QuestionScore], b: Sequence[QuestionScore]) -> dict[str, Any]:
        return {
            "official_macro": figure(_macro(a)),
            "no_dependency_macro": figure(_macro(a, dependencies=False)),
            **two(a, b),
        }

    def two(a: Sequence[QuestionScore], b: Sequence[QuestionScore]) -> dict[str, Any]:
        return {"official_micro": figure(_micro(a)), "cascading_micro": figure(_micro(b))}

    def kind(score: QuestionScore) -> str:
        return broad[score.item, score.question]

    return {
        **four(official, cascading),
        "by_source": _by(lambda score: score.skill, official, cascading, four),
        "by_category": _by(lambda score: score.category, *map(_given, (official, cascading)), two),
        "by_broad_category": _by(kind, *map(_given, (official, cascading)), two),
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
    there = _known((row.item for row in answers), {item.id for item in items}, where)
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
        rows.append(_row(row, chosen, question.answer))
    scores = score_answers(items, rows, where=str(where), quiet=True)
    gap = next((score for score in scores if score.answer is None), None)
    if gap is not None:
        raise UserError(
            f"{where}: item {gap.item!r}, image {gap.k}, question {gap.question!r} has no answer; TIFA needs all"
        )
    return {
        "macro": figure(_macro(scores)),
        "micro": figure(_micro(scores)),
        "by_source": _by(lambda score: score.skill, scores, scores, lambda a, _: figure(_macro(a))),
        "by_type": _by(lambda score: score.category, scores, scores, lambda a, _: figure(_micro(a))),
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
    present = {known[item] for item in _known(images, known, where)}
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


# Parts -----------------------------------------------------------------------------------------


def _figure(
    clusters: Sequence[tuple[float, int]], resamples: int, seed: int, *, scale: float, places: int
) -> dict[str, float]:
    sums, counts = [value for value, _ in clusters], [count for _, count in clusters]
    estimate = bootstrap_mean(sums, counts, resamples=resamples, seed=seed)
    mean, low, high = (round(scale * value, places) + 0.0 for value in estimate)
    return {"mean": mean, "low": low, "high": high, "n": sum(counts)}


def _macro(scores: Iterable[QuestionScore], *, dependencies: bool = True) -> list[tuple[float, int]]:
    return [(score, 1) for score in item_scores(scores, dependencies=dependencies).values()]


def _micro(scores: Iterable[QuestionScore]) -> list[tuple[float, int]]:
    return list(clusters(scores).values())


def _given(scores: Iterable[QuestionScore]) -> list[QuestionScore]:
    return [score for score in scores if score.answer is not None]


def _by(
    key: Callable[[QuestionScore], str],
    a: Sequence[QuestionScore],
    b: Sequence[QuestionScore],
    table: Callable[[Sequence[QuestionScore], Sequence[QuestionScore]], dict[str, Any]],
) -> dict[str, Any]:
    """`table` of the parts of two lists of scores of the same questions, grouped by a key of theirs, by name."""
    parts: dict[str, tuple[list[QuestionScore], list[QuestionScore]]] = {}
    for one, other in zip(a, b, strict=True):
        part = parts.setdefault(key(one), ([], []))
        part[0].append(one)
        part[1].append(other)
    return {name: table(*parts[name]) for name in sorted(parts)}


def _known(found: Iterable[str], known: Container[str], where: Path) -> set[str]:
    """The items that the benchmark has; others are left out with a warning; raises UserError if none remain."""
    names = dict.fromkeys(found)
    strangers = [name for name in names if name not in known]
    if len(strangers) == len(names):
        raise UserError(f"{where}: {strangers[0]!r} and all other items are not in the benchmark")
    if strangers:
        print(
            f"warning: {where}: left out {len(strangers)} items that are not in the benchmark "
            f"(first: {strangers[0]!r})",
            file=sys.stderr,
        )
    return set(names) - set(strangers)


def _row(row: Saved, answer: str, expected: str) -> dict[str, Any]:
    return {"item": row.item, "k": row.k, "question": row.question, "answer": answer, "expected": expected}


def _warn_of_wording(answers: Sequence[Saved], where: Path, exact: bool) -> None:
    """Warn about answers that are not read literally: other scorers may read them differently."""
    loose = [row.answer for row in answers if row.answer != "yes" and yes_or_no(row.answer) == "yes"]
    if loose:
        reading = "does not count, because of --exact" if exact else "counts as yes; with --exact it does not"
        print(f"warning: {where}: {loose[0]!r} ({len(loose)} answers like it) {reading}", file=sys.stderr)
    other = [row.answer for row in answers if yes_or_no(row.answer) is None]
    if other:
        print(
            f"warning: {where}: {len(other)} answers are neither yes nor no (first: {other[0]!r}); they score 0",
            file=sys.stderr,
        )
