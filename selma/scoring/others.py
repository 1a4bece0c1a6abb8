"""What is measured beside the primary benchmark: metrics/others.json, from answers and preference scores on file.

{benchmark: {<name>: what eval.json holds of the primary}, preference: {<name>: {<judge>: scores and gains}}},
without what was not measured, {} where nothing was. Scores of answers are 0 to 1 (`category` holds them by kind
of question, TIFA's twelve types of element, micro); preference scores stand on each judge's own scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from selma.ground.errors import UserError
from selma.ground.items import Item, load_split
from selma.scoring.saved import read_scores
from selma.scoring.scores import load_answers
from selma.scoring.summary import summarise, summarise_preferences


def measure(
    data: Path,
    primary: str,
    others: Sequence[str],
    *,
    models: Sequence[str],
    judges: Sequence[str],
    experts: Sequence[str],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """The contents of metrics/others.json, from the folders benchmarks, other_answers and preferences in `data`.

    Every benchmark in `others` that has questions is scored, and by every one of `judges` those and `primary`.
    Raises UserError for a file that is missing or spoilt, and for an image without a score.
    """
    found: dict[str, dict[str, Any]] = {"benchmark": {}, "preference": {}}
    for name in (primary, *others):
        items = load_split(data / "benchmarks" / name, "test")
        if name != primary and any(item.questions for item in items):
            scores = {
                model: load_answers(data / "other_answers" / f"{model}.jsonl", items, name)
                for model in models
            }
            found["benchmark"][name] = summarise(scores, experts, resamples=resamples, seed=seed)
        for judge in judges:
            files = {model: data / "preferences" / judge / model / f"{name}.jsonl" for model in models}
            means = {model: item_means(file, judge, items) for model, file in files.items()}
            found["preference"].setdefault(name, {})[judge] = summarise_preferences(
                means, items, experts, resamples=resamples, seed=seed
            )
    return {key: value for key, value in found.items() if value}


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
