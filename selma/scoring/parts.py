"""Gains by skill and by kind of question, each with its interval: what a mean over all prompts hides."""

from __future__ import annotations

from collections.abc import Sequence

from selma.scoring.bootstrap import Interval, bootstrap_gain, bootstrap_mean
from selma.scoring.scores import QuestionScore, item_scores


def skill_gains(
    before: Sequence[QuestionScore], after: Sequence[QuestionScore], *, resamples: int, seed: int
) -> dict[str, Interval]:
    """By skill, the mean gain over its prompts with its 95% interval over them, paired: (mean, low, high), -1 to 1.

    Both are scores of the same items. Raises ValueError where they are not.
    """
    skills = {score.item: score.skill for score in before}
    first, second = item_scores(before), item_scores(after)
    if list(first) != list(second):
        raise ValueError("the two models were not asked about the same items")
    groups: dict[str, list[str]] = {}
    for item, skill in skills.items():
        groups.setdefault(skill, []).append(item)
    return {
        skill: bootstrap_gain(
            [first[item] for item in items], [second[item] for item in items], resamples=resamples, seed=seed
        )
        for skill, items in groups.items()
    }


def kind_gains(
    before: Sequence[QuestionScore], after: Sequence[QuestionScore], *, resamples: int, seed: int
) -> dict[str, Interval]:
    """By kind of question, the same over questions: a prompt's questions are drawn together by the bootstrap."""
    asked = [(score.item, score.k, score.question) for score in before]
    if asked != [(score.item, score.k, score.question) for score in after]:
        raise ValueError("the two models were not asked the same questions")
    differences: dict[str, dict[str, list[float]]] = {}  # by kind, then by item
    for one, other in zip(before, after, strict=True):
        differences.setdefault(one.category, {}).setdefault(one.item, []).append(other.score - one.score)
    return {
        kind: bootstrap_mean(
            [sum(values) for values in items.values()],
            [len(values) for values in items.values()],
            resamples=resamples,
            seed=seed,
        )
        for kind, items in sorted(differences.items())
    }
