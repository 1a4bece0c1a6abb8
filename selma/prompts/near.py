"""All pairs of near texts between two sets: by comparing all, or those that share a key, whichever is less work."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist

from selma.prompts import keys as keyed
from selma.prompts.encoding import Texts
from selma.prompts.rouge import fmeasure, needed_lcs, needed_with

# Of each pair the text asked about, the text near to it, and their F.
Pairs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]
Keys = NDArray[np.uint64]
_Hits = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]

Part, Result = TypeVar("Part"), TypeVar("Result")

_LOOKED_UP = 1 << 18  # keys that are looked up at once
_AT_ONCE = 1 << 17  # pairs that share a key: few enough for the processor's cache
_MATRIX = 1 << 22  # pairs that are compared at once
_THREADED = 1 << 18  # from so many on, threads save more than it takes to start them
_DEARER = 3.0  # what a shared key costs beside comparing a pair of texts, by measurement
_WORKERS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compare(block: Texts, others: Texts, threshold: float, lengths: Sequence[int] | None = None) -> Pairs:
    """The near pairs, from comparing all that are not too different in length; of the block, only these lengths."""
    parts: list[Pairs] = []
    for m in block.groups if lengths is None else lengths:
        part = _window(m, others, threshold)
        if part.start < part.stop:
            parts += _compare(block, block.groups[m], others, part, threshold)
    return join(parts)


def search(
    block: Texts, keys: Keys, others: Texts, runs: Sequence[Keys], threshold: float, earlier: bool = False
) -> Pairs:
    """The near pairs; the block's keys are sorted, and so is each run of the others' keys.

    earlier  a pair of a text with itself or a later one may be left out: the block is compared with itself
    """
    hits = [_lookup(keys, run) for run in runs]
    asked = [block.lengths[keyed.texts(keys[found])] for found, _, _ in hits]
    shared = sum(
        np.bincount(m, counts, keyed.LONGEST + 1) for m, (_, _, counts) in zip(asked, hits, strict=True)
    )
    compared = np.zeros(keyed.LONGEST + 1, bool)
    lengths = []
    for m, rows in block.groups.items():
        window = _window(m, others, threshold)
        pairs = (rows.stop - rows.start) * (window.stop - window.start)
        longest = others.lengths[others.places[window.stop - 1]] if pairs else m
        if max(m, longest) > keyed.LONGEST or pairs < _DEARER * shared[m]:
            lengths.append(m)
    compared[[m for m in lengths if m <= keyed.LONGEST]] = True
    parts = [compare(block, others, threshold, lengths)]
    for m, run, hit in zip(asked, runs, hits, strict=True):
        use = ~compared[m]
        parts += _verify(block, keys, others, run, tuple(part[use] for part in hit), threshold, earlier)
    return join(parts)


def shared_keys(keys: Keys, run: Keys) -> int:
    """How many pairs of a key in the one and a key in the other there are."""
    return int(_lookup(keys, run)[2].sum())


def join(parts: Sequence[Pairs]) -> Pairs:
    """The pairs of all parts."""
    none = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    asked, near, f = (np.concatenate(columns) for columns in zip(none, *parts, strict=True))
    return asked, near, f


def _window(m: int, others: Texts, threshold: float) -> slice:
    """The part of the others by length with which a text of m tokens can be near."""
    n = np.fromiter(others.groups, np.int64)
    near = n[needed_with(m, n, threshold) <= np.minimum(m, n)].tolist()
    return slice(others.groups[near[0]].start, others.groups[near[-1]].stop) if near else slice(0, 0)


def _compare(block: Texts, rows: slice, others: Texts, columns: slice, threshold: float) -> list[Pairs]:
    """The near pairs of texts of one number of tokens in the block and a range of them among the others."""
    m = int(block.lengths[block.places[rows.start]])
    n = others.lengths[others.places[columns]]
    needed = needed_with(m, n, threshold)
    asked, near = block.by_length()[rows], others.by_length()[columns]
    step = max(_MATRIX // len(near), 1)
    parts = []
    for start in range(0, len(asked), step):
        lcs = cdist(
            asked[start : start + step],
            near,
            scorer=LCSseq.similarity,
            score_cutoff=int(needed.min()),
            dtype=np.uint8 if m < 255 else np.uint32,
            workers=_WORKERS if min(step, len(asked)) * len(near) > _THREADED else 1,
        )
        row, column = np.nonzero(lcs >= np.minimum(needed, m + 1).astype(lcs.dtype))
        f = fmeasure(lcs[row, column].astype(np.int64), m, n[column])
        parts.append((block.places[rows][start + row], others.places[columns][column], f))
    return parts


def _lookup(keys: Keys, run: Keys) -> _Hits:
    """The keys that a run has, too: their places, the place of the first in the run, and the number there."""

    def part(start: int) -> _Hits:
        wanted = keyed.hashes(keys[start : start + _LOOKED_UP])
        first = np.searchsorted(run, wanted)
        found = np.flatnonzero(first < len(run))
        found = found[keyed.hashes(run[first[found]]) == wanted[found]]
        first = first[found]
        return start + found, first, np.searchsorted(run, keyed.last_of(wanted[found]), side="right") - first

    places, first, counts = zip(*_side_by_side(part, range(0, max(len(keys), 1), _LOOKED_UP)), strict=True)
    return np.concatenate(places), np.concatenate(first), np.concatenate(counts)


def _verify(
    block: Texts, keys: Keys, others: Texts, run: Keys, hits: _Hits, threshold: float, earlier: bool
) -> list[Pairs]:
    """The near pairs among those that share a key."""
    found, first, counts = hits
    if not len(found):
        return []
    text = keyed.texts(keys[found])
    order = np.argsort(text)
    text, found, first, counts = text[order], found[order], first[order], counts[order]
    width = int(max(block.lengths[text].max(), min(others.lengths.max(), keyed.LONGEST))) + 1
    own, theirs = keyed.allowed(width, threshold)
    short = np.minimum(others.lengths, keyed.LONGEST).astype(np.uint16)

    def part(some: slice) -> Pairs:
        amount = counts[some]
        ends = np.cumsum(amount)
        places = np.repeat(first[some] - (ends - amount), amount)
        places += np.arange(len(places))
        other = run[places]
        near = keyed.texts(other)
        at = np.repeat(block.lengths[text[some]] * width, amount)
        at += short[near]
        fit = own.take(at) >= np.repeat(keyed.lacking(keys[found[some]]), amount)
        fit &= theirs.take(at) >= keyed.lacking(other)
        asked = np.repeat(text[some], amount)
        if earlier:
            fit &= near < asked
        asked, near, at = asked[fit], near[fit], at[fit]
        a, b = block.signatures[asked], others.signatures[near]
        possible = np.bitwise_count(a & ~b) <= own.take(
            at
        )  # a bit that the other lacks is a token that it lacks
        possible &= np.bitwise_count(b & ~a) <= theirs.take(at)
        pairs = asked[possible] << 32 | near[possible]
        pairs.sort()
        pairs = pairs[np.diff(pairs, prepend=-1) != 0]
        return _measure(block, pairs >> 32, others, pairs & 0xFFFFFFFF, threshold)

    return _side_by_side(part, _portions(text, counts))


def _portions(text: NDArray[np.int64], counts: NDArray[np.int64]) -> list[slice]:
    """Parts of about _AT_ONCE counts that end where a text, of sorted ones, ends."""
    last = np.append(np.flatnonzero(np.diff(text)), len(text) - 1)
    portion = np.cumsum(counts)[last] // _AT_ONCE
    ends = [0, *(last[np.flatnonzero(np.diff(portion))] + 1).tolist(), len(text)]
    return [slice(start, end) for start, end in pairwise(ends)]


def _side_by_side(work: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """`work` on each part, in threads: numpy and rapidfuzz leave Python to the others while they work."""
    if len(parts) < 2:
        return [work(part) for part in parts]
    with ThreadPoolExecutor(_WORKERS) as pool:
        return list(pool.map(work, parts))


def _measure(
    block: Texts, asked: NDArray[np.int64], others: Texts, near: NDArray[np.int64], threshold: float
) -> Pairs:
    """The near ones of some pairs, which are sorted by the text asked about."""
    rows, starts = np.unique(asked, return_index=True)
    bounds = [*starts.tolist(), len(asked)]
    codes = others.codes
    candidates = [codes[i] for i in near.tolist()]
    lcs = np.empty(len(asked), np.int64)
    for row, start, stop in zip(rows.tolist(), bounds, bounds[1:], strict=False):
        lcs[start:stop] = cdist(
            [block.codes[row]], candidates[start:stop], scorer=LCSseq.similarity, dtype=np.uint32
        )[0]
    m, n = block.lengths[asked], others.lengths[near]
    use = lcs >= needed_lcs(m, n, threshold)
    return asked[use], near[use], fmeasure(lcs[use], m[use], n[use])
