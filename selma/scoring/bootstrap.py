"""Error bars over prompts, by the bootstrap: of one model's score and of a paired gain of one training run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

Interval = tuple[float, float, float]  # mean, low, high

_CHUNK = 2**22  # resampled values held at once, whatever the number of items


def bootstrap_gain(first: Sequence[float], second: Sequence[float], *, resamples: int, seed: int) -> Interval:
    """Mean gain of `second` over `first` with its 95% percentile interval: (mean, low, high).

    Entry i of both is the same item's score under the two models. Items are resampled with replacement and a
    pair stays together, so what makes an item hard for both models cancels out. Raises ValueError for empty or
    unequal inputs or no resamples.
    """
    if len(first) != len(second):
        raise ValueError(f"need two lists of paired scores, got {len(first)} and {len(second)} scores")
    difference = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    return bootstrap_mean(difference, resamples=resamples, seed=seed)


def bootstrap_mean(
    sums: Sequence[float] | np.ndarray,
    counts: Sequence[int] | None = None,
    *,
    resamples: int,
    seed: int,
) -> Interval:
    """Mean of scores with its 95% percentile interval over items: (mean, low, high).

    Entry i of `sums` is the sum of item i's `counts[i]` scores (by default one): an item's scores are drawn
    together, as its questions are about one image, and the mean is over scores. Raises ValueError for empty
    or unequal inputs, a count below 1 or no resamples.
    """
    total = np.asarray(sums, dtype=np.float64)
    number = np.ones_like(total) if counts is None else np.asarray(counts, dtype=np.float64)
    if len(total) != len(number) or len(total) == 0 or number.min() < 1:
        raise ValueError(f"need sums of scores and their counts, got {len(total)} and {len(number)}")
    return _interval(
        (total, number),
        lambda a, b, axis: a.sum(axis=axis) / b.sum(axis=axis),
        resamples=resamples,
        seed=seed,
    )


def bootstrap_strata(strata: Sequence[Sequence[tuple[float, int]]], *, resamples: int, seed: int) -> Interval:
    """Mean over strata of each one's mean of scores, with its 95% percentile interval: (mean, low, high).

    A stratum holds its items' (sum of scores, number of scores); items are resampled within their stratum. Raises
    ValueError for no strata, one without items, a count below 1 or no resamples.
    """
    if not strata or not all(len(found) for found in strata) or resamples < 1:
        raise ValueError(f"need strata that hold items and resamples, got {len(strata)} and {resamples}")
    if min(count for found in strata for _, count in found) < 1:
        raise ValueError("need counts of 1 or more")
    random, means, value = np.random.default_rng(seed), np.zeros(resamples), 0.0
    for found in strata:
        table = np.asarray(found, dtype=np.float64)  # [items, 2]
        value += table[:, 0].sum() / table[:, 1].sum() / len(strata)
        rows = max(1, _CHUNK // len(table))
        for start in range(0, resamples, rows):
            drawn = table[random.integers(len(table), size=(min(rows, resamples - start), len(table)))].sum(
                axis=1
            )
            means[start : start + rows] += drawn[:, 0] / drawn[:, 1] / len(strata)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(value), float(low), float(high)


def _interval(
    data: tuple[np.ndarray, ...], statistic: Callable[..., Any], *, resamples: int, seed: int
) -> Interval:
    """The statistic of paired columns, and scipy's percentile interval of it."""
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}, must be at least 1")
    value = float(statistic(*data, axis=-1))
    if len(data[0]) == 1:  # scipy refuses: nothing to resample
        return value, value, value
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", stats.DegenerateDataWarning
        )  # all scores equal: an interval of zero width
        found = stats.bootstrap(
            data,
            statistic,
            n_resamples=resamples,
            batch=max(1, _CHUNK // len(data[0])),
            paired=True,
            vectorized=True,
            method="percentile",
            rng=seed,
        ).confidence_interval
    return value, float(found.low), float(found.high)
