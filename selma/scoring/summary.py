"""What a run claims: every model's score and every compared pair's gain, with 95% intervals, as plain dicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from selma.ground.errors import UserError
from selma.ground.items import Item
from selma.scoring.bootstrap import bootstrap_gain, bootstrap_mean
from selma.scoring.scores import QuestionScore, by_category, by_skill, item_scores, macro, micro

PLACES = 4  # of every score in a metrics file

Scores = Mapping[str, Sequence[QuestionScore]]  # by model; the same items, in the same order, for each
Means = Mapping[str, Mapping[str, float]]  # by model, then by item; the same items for each
Pairs = Sequence[tuple[str, str]]  # models compared: the first over the second


def over(first: str, second: str) -> str:
    """The name of a gain in a metrics file: "merged over base"."""
    return f"{first} over {second}"


def summarise(models: Scores, compare: Pairs, *, resamples: int, seed: int) -> dict[str, Any]:
    """What metrics/eval.json says about one benchmark; scores are 0 to 1 with 4 places, gains are their differences.

    `models` holds each model's mean (macro, with its interval over prompts), micro mean and mean without dependencies;
    `gains`, by "<first> over <second>", each compared pair's paired bootstrap over prompts.
    """
    n_images = _images_per_prompt(models)
    means = {name: item_scores(found) for name, found in models.items()}
    return {
        "n_prompts": len(next(iter(means.values()))),
        "images_per_prompt": n_images,
        "models": {
            name: {
                **score,
                "micro": rounded(micro(models[name])),
                "no_dependencies": rounded(macro(models[name], dependencies=False)),
            }
            for name, score in scores(means, resamples=resamples, seed=seed).items()
        },
        "gains": gains(means, compare, resamples=resamples, seed=seed),
    }


def headline(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The few numbers of metrics/headline.json, which DVC's own tables show: the compared models and their gains.

    `faithful` holds a model's mean, `gain` a pair's, with its interval, all 0 to 1 and of the leading benchmark.
    """
    compared = dict.fromkeys(name for pair in summary["gains"] for name in reversed(pair.split(" over ")))
    return {
        "faithful": {name: summary["models"][name]["mean"] for name in compared},
        "gain": {name: dict(gain) for name, gain in summary["gains"].items()},
    }


def summarise_preferences(
    models: Means, items: Sequence[Item], compare: Pairs, *, resamples: int, seed: int
) -> dict[str, Any]:
    """One judge's scores of all models on one benchmark, as in `summarise`, but on the judge's own scale.

    A score is the mean over prompts of the means over a prompt's images; `skill` holds it for each skill of the items,
    which are the four styles in HPS v2, where there are several.
    """
    groups: dict[str, list[str]] = {}
    for item in items:
        groups.setdefault(item.skill, []).append(item.id)
    summary: dict[str, Any] = {"n_prompts": len(items), "models": {}}
    for name, score in scores(models, resamples=resamples, seed=seed).items():
        parts = {skill: rounded(fmean(models[name][item] for item in ids)) for skill, ids in groups.items()}
        summary["models"][name] = score | ({"skill": parts} if len(parts) > 1 else {})
    return summary | {"gains": gains(models, compare, resamples=resamples, seed=seed)}


def scores(models: Means, *, resamples: int, seed: int) -> dict[str, dict[str, float]]:
    """Each model's mean over items, with its interval."""
    return {
        name: interval(bootstrap_mean(list(found.values()), resamples=resamples, seed=seed))
        for name, found in models.items()
    }


def gains(models: Means, compare: Pairs, *, resamples: int, seed: int) -> dict[str, dict[str, float]]:
    """Each pair's gain, the first model over the second, with its paired interval over items."""
    found = {}
    for first, second in compare:
        a, b = models[first], models[second]
        estimate = bootstrap_gain(list(b.values()), [a[item] for item in b], resamples=resamples, seed=seed)
        found[over(first, second)] = interval(estimate)
    return found


def interval(estimate: tuple[float, float, float]) -> dict[str, float]:
    """(mean, low, high) as a metrics file holds it."""
    return dict(zip(("mean", "low", "high"), map(rounded, estimate), strict=True))


def rounded(value: float) -> float:
    """A score as a metrics file holds it: 4 places, and no negative zero."""
    return round(value, PLACES) + 0.0


def skill_rows(models: Scores) -> list[dict[str, Any]]:
    """Rows {model, skill, score} of metrics/by_skill.csv, in the models' and the benchmark's order."""
    return [
        {"model": model, "skill": skill, "score": rounded(score)}
        for model, scores in models.items()
        for skill, score in by_skill(scores).items()
    ]


def category_rows(models: Scores) -> list[dict[str, Any]]:
    """Rows {model, category, score} of metrics/by_category.csv, in the models' order, categories by name."""
    return [
        {"model": model, "category": category, "score": rounded(score)}
        for model, scores in models.items()
        for category, score in by_category(scores).items()
    ]


def item_rows(models: Scores) -> list[dict[str, Any]]:
    """Rows {item, skill, <model>...} of metrics/items.csv: every model's score of every prompt, side by side."""
    scores = {name: item_scores(found) for name, found in models.items()}
    skills = {score.item: score.skill for score in next(iter(models.values()))}
    return [
        {"item": item, "skill": skill, **{name: rounded(found[item]) for name, found in scores.items()}}
        for item, skill in skills.items()
    ]


def example(item: Item, pictures: Mapping[str, str], models: Scores) -> dict[str, Any]:
    """An item for data/grid/examples/examples.json: its image (k = 0), questions and answers by model.

    `pictures` maps models to file names; `scores` are the questions' scores after voiding (scores.py).
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


def _images_per_prompt(models: Scores) -> int:
    """The number of images per prompt, which must be one for all: gains compare like with like."""
    counts = {name: len({score.k for score in scores}) for name, scores in models.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise UserError(
            f"images per prompt differ between the models' answers ({listed}); they must be equal"
        )
    return next(iter(counts.values()))
