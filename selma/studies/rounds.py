"""Rounds in which a model learns from its own drawings: what each judge says of what each round's model drew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from scipy import stats

from selma.runtime.params import Params
from selma.studies.sources import Source

Judged = Mapping[
    str, Mapping[str, float]
]  # by drawing model, in order, then by judge: the mean score of its images


def judged_draws(source: Source, params: Params) -> Judged:
    """The judges' mean scores of every row of `draws` that a run's `picks` choose of, by the model that drew it."""
    found = {}
    for name, row in params.draws.items():
        if any(pick.source == f"drawn/{name}" for pick in params.picks.values()):
            found[Path(row.weights).name] = {
                judge: source.metrics(f"metrics/rate/drawn/{name}/{judge}.json")["mean"]
                for judge in params.rate.judges
            }
    return found


def judge_lines(seeds: Sequence[Judged]) -> list[dict[str, Any]]:
    """A line for each drawing model: `judges` says by judge its mean score over seeds, and the change since the first
    model with its 95% interval over seeds (t; "" for the first, and with one seed no interval)."""
    first = next(iter(seeds[0]))
    lines = []
    for name, judges in seeds[0].items():
        cells = {}
        for judge in judges:
            change = np.array([each[name][judge] - each[first][judge] for each in seeds])
            cells[judge] = f"{fmean(each[name][judge] for each in seeds):.3f}"
            if name != first:
                cells[judge] += f" ({_change(change)})"
        lines.append({"name": name, "judges": cells})
    return lines


def _change(values: np.ndarray) -> str:
    mean = values.mean()
    if len(values) < 2:
        return f"{mean:+.3f}"
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return f"{mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}]"
