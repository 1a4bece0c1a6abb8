"""What a run claims: scores of all models on one benchmark, and gains with 95% intervals, as plain dicts."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from selma.ground.errors import UserError
from selma.ground.items import Item
from selma.scoring.bootstrap import bootstrap_gain
from selma.scoring.scores import QuestionScore, by_category, by_skill, item_scores, macro, micro

BASE, MERGED, SINGLE = "base", "merged", "all"  # `all` is the one LoRA trained on every skill's images
_NAMED = ((BASE, "base"), (MERGED, "merged"), (SINGLE, "single"))
_GAINS = ((BASE, "gain"), (SINGLE, "gain_over_single"))
_PLACES = 4

Scores = Mapping[str, Sequence[QuestionScore]]  # by model; the same items, in the same order, for each
Means = Mapping[str, Mapping[str, float]]  # by model, then by item; the same items for each


def summarise(models: Scores, experts: Sequence[str], *, resamples: int, seed: int) -> dict[str, Any]:
    """The contents of metrics/eval.json; scores are 0 to 1 with 4 places, gains are differences of scores.

    `gain` is merged over base, `gain_over_single` merged over the single LoRA, each with a paired bootstrap
    over prompts. What needs a model that is not among `models` is left out, with a warning.
    """
    _warn_of_missing(models, experts)
    first = next(iter(models.values()))
    summary: dict[str, Any] = {
        "n_prompts": len({score.item for score in first}),
        "images_per_prompt": _images_per_prompt(models),
    }
    for name, key in _NAMED:
        if name in models:
            summary[key] = {
                "mean": _round(macro(models[name])),
                "micro": _round(micro(models[name])),
                "no_dependencies": _round(macro(models[name], dependencies=False)),
            }
    summary.update(_gains({name: item_scores(found) for name, found in models.items()}, resamples, seed))
    summary["expert"] = {name: {"mean": _round(macro(models[name]))} for name in experts if name in models}
    if BASE in models and MERGED in models:
        base, merged = models[BASE], models[MERGED]
        summary["skill"] = _side_by_side(by_skill(base), by_skill(merged))
        summary["category"] = _side_by_side(by_category(base), by_category(merged))
    return summary


def summarise_preferences(
    models: Means, items: Sequence[Item], experts: Sequence[str], *, resamples: int, seed: int
) -> dict[str, Any]:
    """One judge's scores of all models on one benchmark, as in `summarise`, but on the judge's own scale.

    A score is the mean over prompts of the means over a prompt's images. `skill` holds base beside merged for
    each skill of the items, which are the four styles in HPS v2.
    """
    summary: dict[str, Any] = {"n_prompts": len(items)}
    for name, key in _NAMED:
        if name in models:
            summary[key] = {"mean": _round(fmean(models[name].values()))}
    summary.update(_gains(models, resamples, seed))
    summary["expert"] = {
        name: {"mean": _round(fmean(models[name].values()))} for name in experts if name in models
    }
    if BASE in models and MERGED in models:
        groups: dict[str, list[str]] = {}
        for item in items:
            groups.setdefault(item.skill, []).append(item.id)
        base, merged = (
            {skill: fmean(models[name][item] for item in ids) for skill, ids in groups.items()}
            for name in (BASE, MERGED)
        )
        summary["skill"] = _side_by_side(base, merged)
    return summary


def skill_rows(models: Scores) -> list[dict[str, Any]]:
    """Rows {model, skill, score} of metrics/by_skill.csv, in the models' and the benchmark's order."""
    return [
        {"model": model, "skill": skill, "score": _round(score)}
        for model, scores in models.items()
        for skill, score in by_skill(scores).items()
    ]


def category_rows(models: Scores) -> list[dict[str, Any]]:
    """Rows {model, category, score} of metrics/by_category.csv, in the models' order, categories by name."""
    return [
        {"model": model, "category": category, "score": _round(score)}
        for model, scores in models.items()
        for category, score in by_category(scores).items()
    ]


def item_rows(models: Scores) -> list[dict[str, Any]]:
    """Rows {item, skill, <model>...} of metrics/items.csv: every model's score of every prompt, side by side."""
    scores = {name: item_scores(found) for name, found in models.items()}
    skills = {score.item: score.skill for score in next(iter(models.values()))}
    return [
        {"item": item, "skill": skill, **{name: _round(found[item]) for name, found in scores.items()}}
        for item, skill in skills.items()
    ]


def example(item: Item, pictures: Mapping[str, str], models: Scores) -> dict[str, Any]:
    """An item for data/grid/examples.json: its picture (image 0), questions and answers by model.

    `pictures` maps models to file names; `scores` are the questions' scores after voiding (scoring.py).
    """
    found = {
        name: {score.question: score for score in models[name] if (score.item, score.k) == (item.id, 0)}
        for name in pictures
    }
    questions = [
        {
            "id": question.id,
            "question": question.text,
            "expected": question.answer,
            "answers": {name: found[name][question.id].answer for name in pictures},
            "scores": {name: found[name][question.id].score for name in pictures},
        }
        for question in item.questions
    ]
    return {
        "id": item.id,
        "skill": item.skill,
        "prompt": item.prompt,
        "images": dict(pictures),
        "questions": questions,
    }


def _warn_of_missing(models: Scores, experts: Sequence[str]) -> None:
    missing = [name for name in (BASE, MERGED, SINGLE, *experts) if name not in models]
    if missing:
        names = ", ".join(missing)
        print(f"warning: not in params' models: {names}; their scores are left out", file=sys.stderr)


def _images_per_prompt(models: Scores) -> int:
    """The number of images per prompt, which must be one for all: gains compare like with like."""
    counts = {name: len({score.k for score in scores}) for name, scores in models.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise UserError(
            f"images per prompt differ between the models' answers ({listed}); they must be equal"
        )
    return next(iter(counts.values()))


def _gains(models: Means, resamples: int, seed: int) -> dict[str, dict[str, float]]:
    """Merged over base and over the single LoRA, as far as they are there."""
    gains = {}
    for reference, key in _GAINS:
        if reference in models and MERGED in models:
            a, b = models[reference], models[MERGED]
            estimate = bootstrap_gain(
                list(a.values()), [b[item] for item in a], resamples=resamples, seed=seed
            )
            gains[key] = dict(zip(("mean", "low", "high"), map(_round, estimate), strict=True))
    return gains


def _side_by_side(base: Mapping[str, float], merged: Mapping[str, float]) -> dict[str, dict[str, float]]:
    return {
        key: {
            "base": _round(base[key]),
            "merged": _round(merged[key]),
            "gain": _round(merged[key] - base[key]),
        }
        for key in base
    }


def _round(value: float) -> float:
    return round(value, _PLACES) + 0.0  # no negative zero in a metrics file
