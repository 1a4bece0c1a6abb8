"""From answers and preference scores on disk to what a run claims, for every benchmark in use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from selma.ground.errors import UserError
from selma.ground.items import Item, load_split
from selma.scoring.saved import read_scores
from selma.scoring.scores import QuestionScore, load_answers
from selma.scoring.summary import Pairs, summarise, summarise_preferences


def read_benchmark(data: Path, name: str, models: Sequence[str]) -> Mapping[str, list[QuestionScore]]:
    """Every model's scores on the test split of a benchmark, from data/answers; empty for one without questions.

    Raises UserError for a file that is missing or malformed.
    """
    items = load_split(data / "benchmarks" / name, "test")
    if not any(item.questions for item in items):
        return {}
    return {model: load_answers(data / "answers" / model / f"{name}.jsonl", items) for model in models}


def further_benchmarks(
    data: Path, names: Sequence[str], models: Sequence[str], compare: Pairs, *, resamples: int, seed: int
) -> dict[str, Any]:
    """The contents of metrics/benchmarks.json: by name, what eval.json holds of the leading one."""
    read = {name: read_benchmark(data, name, models) for name in names}
    return {
        name: summarise(scores, compare, resamples=resamples, seed=seed)
        for name, scores in read.items()
        if scores
    }


def preferences(
    data: Path,
    names: Sequence[str],
    judges: Sequence[str],
    models: Sequence[str],
    compare: Pairs,
    *,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """The contents of metrics/preferences.json: by benchmark and judge, on each judge's own scale; {} without judges.

    Raises UserError for a file that is missing or malformed, and for an image without a score.
    """
    found: dict[str, Any] = {}
    for name in names if judges else ():
        items = load_split(data / "benchmarks" / name, "test")
        for judge in judges:
            files = {model: data / "preferences" / judge / model / f"{name}.jsonl" for model in models}
            means = {model: item_means(file, judge, items) for model, file in files.items()}
            found.setdefault(name, {})[judge] = summarise_preferences(
                means, items, compare, resamples=resamples, seed=seed
            )
    return found


def item_means(path: Path, judge: str, items: Sequence[Item]) -> dict[str, float]:
    """One judge's score of each item, the mean over its images, from a file of rows {item, k, judge, score}.

    Raises UserError unless every item has a score of every image, and nothing else has one.
    """
    scores = read_scores(path, judge=judge)
    images = sorted({k for _, k in scores})
    known = {item.id for item in items}
    stranger = next((item for item, _ in scores if item not in known), None)
    if stranger is not None:
        raise UserError(f"{path}: item {stranger!r} is not in the benchmark; run the prefer stage again")
    for item in items:
        for k in images:
            if (item.id, k) not in scores:
                raise UserError(f"{path}: item {item.id!r}, image {k} has no score by {judge}")
    return {item.id: fmean(scores[item.id, k] for k in images) for item in items}
