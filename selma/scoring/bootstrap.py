"""Error bars: the bootstrap over items, of one model's score and, paired, of a gain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

_CHUNK = 2**22  # resampled indices held at once: 32 MiB, whatever the number of items


def bootstrap_gain(
    base: Sequence[float], other: Sequence[float], *, resamples: int, seed: int
) -> tuple[float, float, float]:
    """Mean gain of `other` over `base` with its 95% percentile interval: (mean, low, high).

    Entry i of both is the same item's score under the two models. Items are resampled with replacement and a
    pair stays together, so what makes an item hard for both models cancels out. The indices depend on `seed`,
    `resamples` and the number of items alone. Raises ValueError for empty or unequal inputs or no resamples.
    """
    if len(base) != len(other) or len(base) == 0:
        raise ValueError(f"need two lists of paired scores, got {len(base)} and {len(other)} scores")
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}, must be at least 1")
    difference = np.asarray(other, dtype=np.float64) - np.asarray(base, dtype=np.float64)
    means = np.empty(resamples)
    for chunk, indices in _resampled(means, difference.size, seed):
        chunk[:] = difference[indices].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(difference.mean()), float(low), float(high)


def bootstrap_mean(
    sums: Sequence[float], counts: Sequence[int] | None = None, *, resamples: int, seed: int
) -> tuple[float, float, float]:
    """Mean of scores with its 95% percentile interval over items: (mean, low, high).

    Entry i of `sums` is the sum of item i's `counts[i]` scores (by default one): an item's scores are drawn
    together, as its questions are about one picture, and the mean is over scores. Raises ValueError for empty
    or unequal inputs, a count below 1 or no resamples.
    """
    counts = [1] * len(sums) if counts is None else counts
    if len(sums) != len(counts) or len(sums) == 0 or min(counts) < 1:
        raise ValueError(f"need sums of scores and their counts, got {len(sums)} and {len(counts)}")
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}, must be at least 1")
    total, number = np.asarray(sums, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    means = np.empty(resamples)
    for chunk, indices in _resampled(means, total.size, seed):
        chunk[:] = total[indices].sum(axis=1) / number[indices].sum(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(total.sum() / number.sum()), float(low), float(high)


def _resampled(means: np.ndarray, items: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Views of `means` to fill and the items drawn for each of their entries, of shape (entries, items)."""
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK // items)
    for done in range(0, means.size, rows):
        chunk = means[done : done + rows]
        yield chunk, generator.integers(items, size=(chunk.size, items))
