"""Error bars: the paired bootstrap over items."""

from __future__ import annotations

from collections.abc import Sequence

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
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK // difference.size)
    means = np.empty(resamples)
    for done in range(0, resamples, rows):
        chunk = means[done : done + rows]  # a view: filled in place
        chunk[:] = difference[generator.integers(difference.size, size=(chunk.size, difference.size))].mean(
            axis=1
        )
    low, high = np.percentile(means, (2.5, 97.5))
    return float(difference.mean()), float(low), float(high)
