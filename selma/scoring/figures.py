"""Figures of a paper's table, and what answers in a file become before they are tabled.

Every figure is {mean, low, high, n}: its 95% bootstrap interval over prompts (bootstrap.py), and the number of
values that it averages, prompts in macro and given answers in micro. Scores of answers are in percent with 2
places, preference scores on the judge's own scale with 4.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path
from typing import Any

from selma.ground.errors import UserError
from selma.judging.choices import yes_or_no
from selma.scoring.bootstrap import bootstrap_mean
from selma.scoring.saved import Saved
from selma.scoring.scores import QuestionScore, clusters, item_scores

# (sum of scores, number of scores) of each item -> a figure
Figure = Callable[[Sequence[tuple[float, int]]], dict[str, float]]


def percent(resamples: int, seed: int) -> Figure:
    """A figure in percent, of scores from 0 to 1."""
    return lambda clusters: _figure(clusters, resamples, seed, scale=100, places=2)


def plain(resamples: int, seed: int) -> Figure:
    """A figure on the scores' own scale."""
    return lambda clusters: _figure(clusters, resamples, seed, scale=1, places=4)


def _figure(
    clusters: Sequence[tuple[float, int]], resamples: int, seed: int, *, scale: float, places: int
) -> dict[str, float]:
    sums, counts = [value for value, _ in clusters], [count for _, count in clusters]
    estimate = bootstrap_mean(sums, counts, resamples=resamples, seed=seed)
    return named(estimate, sum(counts), scale=scale, places=places)


def named(
    estimate: tuple[float, float, float], n: int, *, scale: float = 100, places: int = 2
) -> dict[str, float]:
    """(mean, low, high) of `n` values as a figure."""
    mean, low, high = (round(scale * value, places) + 0.0 for value in estimate)
    return {"mean": mean, "low": low, "high": high, "n": n}


# Scores ----------------------------------------------------------------------------------------


def macro(scores: Iterable[QuestionScore], *, dependencies: bool = True) -> list[tuple[float, int]]:
    """Each item's score."""
    return [(score, 1) for score in item_scores(scores, dependencies=dependencies).values()]


def micro(scores: Iterable[QuestionScore]) -> list[tuple[float, int]]:
    """Each item's answered questions."""
    return list(clusters(scores).values())


def answered(scores: Iterable[QuestionScore]) -> list[QuestionScore]:
    """The scores of questions that were answered."""
    return [score for score in scores if score.answer is not None]


def split(
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


# Answers ---------------------------------------------------------------------------------------


def known_items(found: Iterable[str], known: Container[str], where: Path) -> set[str]:
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


def yes_rows(answers: Sequence[Saved], *, exact: bool) -> list[dict[str, Any]]:
    """Answers to questions of which yes is expected, read as the judges' own; with `exact` only "yes" is yes."""
    return [answer_row(row, row.answer if exact else yes_or_no(row.answer) or "", "yes") for row in answers]


def answer_row(row: Saved, answer: str, expected: str) -> dict[str, Any]:
    """An answer as `score_answers` takes it."""
    return {"item": row.item, "k": row.k, "question": row.question, "answer": answer, "expected": expected}


def warn_of_wording(answers: Sequence[Saved], where: Path, exact: bool) -> None:
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
