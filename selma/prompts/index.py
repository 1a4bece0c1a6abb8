"""Texts among which the nearest to another is sought, a block of texts at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from selma.prompts.encoding import Code, Texts
from selma.prompts.keys import MOST_TEXTS, make_keys, renumbered
from selma.prompts.near import Keys, Pairs, compare, join, search, shared_keys

_FEW = 4096  # so many texts are compared sooner than their keys are made
_REORDER = 8  # the tokens' order from rare to common is found anew when there are so many times as many texts
_SMALL = 512  # so many new texts are compared with each other, all with all
_CROWDED = 1 << 26  # pairs of keys within a block, from which on half a block at a time is sooner done


@dataclass(frozen=True)
class Nearest:
    """The nearest text of an index to each of some texts: the highest F above the threshold, the first of equals.

    rank     its place in the index; -1 if there is none
    rouge_l  their F; 0.0 if there is none
    """

    rank: NDArray[np.int64]
    rouge_l: NDArray[np.float64]


class RougeIndex:
    """Encoded texts of one vocabulary, up to 2^27. One without tokens is near nothing."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._texts = Texts()
        self._runs: list[Keys] = []  # each sorted, and at least twice as long as the next
        self._ranks: NDArray[np.int64] | None = (
            None  # of each token, from rare to common; None: keys are not in use
        )
        self._ranked = 0  # how many texts that order was made from

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, codes: Sequence[Code]) -> None:
        """Add texts."""
        self._extend(codes, self._keys(Texts(codes)))

    def nearest(self, codes: Sequence[Code]) -> Nearest:
        """The nearest of each text."""
        block = Texts(codes)
        return _best(len(block), self._near(block, self._keys(block)))

    def admit(self, codes: Sequence[Code]) -> Nearest:
        """Add those texts that have no nearest, one after the other: a text that is added counts for those after it."""
        block = Texts(codes)
        keys = self._keys(block)
        known = self._near(block, keys)
        free = np.ones(len(block), bool)
        free[known[0]] = False
        if keys is None or len(block) <= _SMALL:
            asked, near, f = compare(block, block, self._threshold)
        else:
            left = renumbered(keys, np.where(free, np.arange(len(block)), -1))
            if shared_keys(keys, left) > _CROWDED:
                half = len(block) // 2
                first, second = self.admit(codes[:half]), self.admit(codes[half:])
                return Nearest(np.append(first.rank, second.rank), np.append(first.rouge_l, second.rouge_l))
            asked, near, f = search(block, keys, block, [left], self._threshold, earlier=True)
        before = near < asked
        asked, near, f = asked[before], near[before], f[before]
        added = _in_order(free, asked, near)

        use = added[near]
        ranks = len(self) + np.cumsum(added) - 1
        best = _best(len(block), join([known, (asked[use], ranks[near[use]], f[use])]))
        if keys is not None:
            keys = renumbered(keys, np.where(added, np.cumsum(added) - 1, -1))
        self._extend([codes[i] for i in np.flatnonzero(added).tolist()], keys)
        return best

    def _near(self, block: Texts, keys: Keys | None) -> Pairs:
        if keys is None:
            return compare(block, self._texts, self._threshold)
        return search(block, keys, self._texts, self._runs, self._threshold)

    def _keys(self, block: Texts) -> Keys | None:
        return None if self._ranks is None else make_keys(block, self._ranks, self._threshold)

    def _extend(self, codes: Sequence[Code], keys: Keys | None) -> None:
        """Add texts, and their keys by their places in `codes`."""
        first = len(self)
        if first + len(codes) > MOST_TEXTS:
            raise ValueError(f"{first + len(codes)} texts; an index holds {MOST_TEXTS} at most")
        self._texts.extend(codes)
        if len(self) > max(_FEW, _REORDER * self._ranked):
            self._ranks, self._ranked = _rare_to_common(self._texts), len(self)
            self._runs = [make_keys(self._texts, self._ranks, self._threshold)]
        elif keys is not None:
            run = renumbered(keys, np.arange(first, len(self)))
            run.sort()
            while self._runs and len(self._runs[-1]) < 2 * len(run):
                run = np.append(self._runs.pop(), run)
                run.sort(kind="stable")  # merges the two
            self._runs.append(run)


def _rare_to_common(texts: Texts) -> NDArray[np.int64]:
    """Each token number's place among all when sorted by the number of times that it stands in the texts."""
    counts = np.zeros(1, np.int64)
    for _, tokens in texts.numbers():
        found = np.bincount(tokens.ravel(), minlength=len(counts))
        found[: len(counts)] += counts
        counts = found
    ranks = np.empty(len(counts), np.int64)
    ranks[np.argsort(counts, kind="stable")] = np.arange(len(counts))
    return ranks


def _in_order(
    free: NDArray[np.bool_], asked: NDArray[np.int64], near: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which of the free texts stay when each goes that is near an earlier one that stays."""
    stay = free.tolist()
    order = np.argsort(asked, kind="stable")
    for later, earlier in zip(asked[order].tolist(), near[order].tolist(), strict=True):
        if stay[earlier]:
            stay[later] = False
    return np.array(stay, bool)


def _best(size: int, pairs: Pairs) -> Nearest:
    """The first pair of highest F of each of `size` texts."""
    asked, near, f = pairs
    order = np.lexsort((near, -f, asked))
    texts, first = np.unique(asked[order], return_index=True)
    rank, best = np.full(size, -1), np.zeros(size)
    rank[texts], best[texts] = near[order][first], f[order][first]
    return Nearest(rank, best)
