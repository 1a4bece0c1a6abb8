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
