"""Choosing a checkpoint: the prompts it is chosen on, and the rule.

The prompts are the leading benchmark's dev split, or prompts of each skill that the filter held out of training: the
published benchmarks have only a test split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from selma.ground.items import Item
from selma.ground.pairs import read_prompts


def held_out(folder: Path, skills: Sequence[str]) -> list[Item]:
    """The prompts that the filter held out of every skill, `folder`/<skill>/dev.jsonl, as items without questions."""
    return [
        Item(row["id"], row["text"], skill, "filter", ())
        for skill in skills
        for row in read_prompts(folder / skill / "dev.jsonl")
    ]


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
