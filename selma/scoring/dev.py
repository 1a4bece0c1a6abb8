"""Choosing a checkpoint: the prompts it is chosen on, and the rule.

The prompts are those that were held out of the expert's own images, or the leading benchmark's dev split: the published
benchmarks have only a test split.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from selma.ground.errors import UserError
from selma.ground.items import Item, load_split, splits
from selma.ground.pairs import HELD_OUT, parts, read_prompts


def dev_prompts(data: Path, benchmark: Path, skills: Sequence[str] | None = None) -> tuple[list[Item], bool]:
    """The prompts to choose an expert's checkpoints by, and whether they were held out of its images `data`.

    Of pooled images, `skills` are those that the expert is trained on (null: all).

    Those are in the held_out.jsonl beside the images, and have no questions. Where there are none it is the dev split
    of `benchmark`. Raises UserError where it has none either.
    """
    held_out = [
        Item(row["id"], row["text"], part.name, "filter", ())
        for part in parts(data, skills)
        if (part / HELD_OUT).is_file()
        for row in read_prompts(part / HELD_OUT)
    ]
    if held_out:
        return held_out, True
    if "dev" not in splits(benchmark):
        raise UserError(
            f"{data}: holds no {HELD_OUT} to choose a checkpoint by, and {benchmark} no dev split; "
            "raise filter.dev, or set select.policy to last"
        )
    return load_split(benchmark, "dev"), False


def dev_items(data: Iterable[tuple[Path, Sequence[str] | None]], benchmark: Path) -> tuple[list[Item], bool]:
    """The prompts to score what several experts made by, and whether they were held out of its images.

    Those of all experts, from their images' folders and skills `data`, where each has some; else the dev split of
    `benchmark`. Raises UserError where neither is there.
    """
    found = [dev_prompts(folder, benchmark, skills) for folder, skills in data]
    if all(held_out for _, held_out in found):
        return list({item.id: item for items, _ in found for item in items}.values()), True
    return load_split(benchmark, "dev"), False


def noise(first: Sequence[float], second: Sequence[float]) -> float:
    """Standard error over prompts of the paired difference of two models' mean scores; 0 for a single prompt."""
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return float(difference.std(ddof=1) / np.sqrt(len(difference))) if len(difference) > 1 else 0.0


def choose(scores: Mapping[int, Mapping[str, float]]) -> tuple[int, dict[int, float]]:
    """The step to keep, of scores by step and item, and every step's noise against the best one.

    A best score that is within its noise of a later one is no reason to train less: the last step that lies within one
    standard error of the best mean is kept (the one-standard-error rule, Breiman et al. 1984, turned towards training).
    """
    values = {step: [found[item] for item in sorted(found)] for step, found in scores.items()}
    means = {step: float(np.mean(found)) for step, found in values.items()}
    best = max(means, key=lambda step: (means[step], step))
    noises = {step: noise(values[step], values[best]) for step in values}
    return max(step for step in values if means[best] - means[step] <= noises[step]), noises
