"""Error bars over training seeds AND prompts: what the next seed on the next prompts will show.

A single run's interval is over prompts only; training again moves the gain by as much or more. Seeds and prompts are
crossed random effects (every seed is examined on the same prompts), so the variance of the grand mean is

    (MS_seeds + MS_prompts - MS_rest) / (seeds * prompts)

of the two-way analysis of variance with one observation per cell, and t has Satterthwaite's degrees of freedom
(Satterthwaite 1946; Searle, Casella and McCulloch, Variance Components, 1992, chapter 4). A bootstrap is no help here:
drawn from two or three seeds it misses a third to a half of their variance, and every quantile of t.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from selma.scoring.bootstrap import Interval


def over_seeds(gains: Sequence[Sequence[float]] | np.ndarray) -> Interval:
    """Mean gain with its 95% interval over seeds and prompts: (mean, low, high).

    gains[s][i] is the gain of training seed s on prompt i, every seed on the same prompts. A variance component whose
    estimate is negative counts as zero, and the degrees of freedom are those with it: on the safe side. Raises
    ValueError for fewer than two seeds or two prompts.
    """
    table = np.asarray(gains, dtype=np.float64)  # [seeds, prompts]
    if table.ndim != 2 or min(table.shape) < 2:
        raise ValueError(
            f"need gains of two seeds on two prompts or more, got an array of shape {table.shape}"
        )
    seeds, prompts = table.shape
    mean = table.mean()
    by_seed, by_prompt = table.mean(axis=1, keepdims=True) - mean, table.mean(axis=0, keepdims=True) - mean
    rest = table - mean - by_seed - by_prompt
    freedom = np.array([seeds - 1, prompts - 1, (seeds - 1) * (prompts - 1)], dtype=np.float64)
    squares = (
        np.array([prompts * (by_seed**2).sum(), seeds * (by_prompt**2).sum(), (rest**2).sum()]) / freedom
    )
    total = max(squares[0] + squares[1] - squares[2], squares[0], squares[1])
    if total == 0:  # every gain is the same
        return float(mean), float(mean), float(mean)
    degrees = 1 / ((squares / total) ** 2 / freedom).sum()
    half = stats.t.ppf(0.975, degrees) * np.sqrt(total / table.size)
    return float(mean), float(mean - half), float(mean + half)
