"""Keys that any two texts near each other share: what makes an exact search among a million prompts short.

Texts of m and n tokens above the threshold share a subsequence of a = `needed_lcs` tokens: the one lacks at most m - a
of its own in it, the other n - a. Fix an order of tokens from rare to common, and any l <= a. The l rarest tokens of
the shared subsequence lie among the m - a + l rarest of the one text and the n - a + l rarest of the other, in the same
sequence. So each l of those, in the text's sequence, make a key, and near texts have a key in common: the prefix filter
of set similarity joins (Chaudhuri et al. 2006; Bayardo et al. 2007), on subsequences in the place of single tokens.
With l = 1 it is that filter; with l = a, texts share a key only if they are near.

A key is 64 bits that sort: a hash of the l tokens (32), the text (27), and how many of the text's tokens are rarer than
the key's most common one and not in the key (5; 31 is that many or more). The text must lack these for the key to be
that of the l rarest, so a key counts only between texts that may lack as many.
"""

from __future__ import annotations

from functools import cache, lru_cache
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from selma.prompts.encoding import Texts
from selma.prompts.rouge import needed_lcs

LONGEST = 500  # tokens; longer texts have no keys
MOST_TEXTS = 1 << 27

_HASH = np.uint64(0xFFFFFFFF << 32)
_LACKING = np.uint64(31)

_KEYS = 64  # of one text with one l, at most, unless l is 1: by measurement, see bench/filter.py
_TOKENS = 12  # in a key, at most
_LOOSE = 0.3  # below this threshold every token is a key: texts of almost any two lengths may be near
_ROWS = 1 << 13

_ODD, _MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)


def hashes(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """What keys of the same tokens have in common: the first key that there can be with these tokens."""
    return keys & _HASH


def last_of(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The last key that there can be with the tokens of each."""
    return keys | ~_HASH


def texts(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The text of each key, by number."""
    return (keys >> np.uint64(5) & np.uint64(MOST_TEXTS - 1)).astype(np.int64)


def lacking(keys: NDArray[np.uint64]) -> NDArray[np.int8]:
    """How many tokens each key's text must be allowed to lack (`allowed`)."""
    return (keys & _LACKING).astype(np.int8)


@lru_cache(maxsize=8)
def allowed(width: int, threshold: float) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """How many tokens a text of m tokens may lack, and how many one of n, to be near each other.

    Both at m * width + n, for m and n below `width`; -1 where they cannot be near, and 127 for 31 and more.
    """
    m, n = np.ogrid[:width, :width]
    needed = needed_lcs(np.maximum(m, 1), np.maximum(n, 1), threshold)
    apart = needed > np.minimum(m, n)
    first, second = (
        np.where(apart, -1, np.where(size - needed < int(_LACKING), size - needed, 127)) for size in (m, n)
    )
    return first.astype(np.int8).ravel(), second.astype(np.int8).ravel()


def renumbered(keys: NDArray[np.uint64], numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The same keys, of texts whose number i has become `numbers[i]`; without those where that is below 0."""
    new = numbers[texts(keys)]
    stay = new >= 0
    return keys[stay] & (_HASH | _LACKING) | new[stay].astype(np.uint64) << np.uint64(5)


def make_keys(block: Texts, ranks: NDArray[np.int64], threshold: float) -> NDArray[np.uint64]:
    """The sorted keys of texts, which are numbered by their places.

    ranks  each token number's place in the order from rare to common; tokens beyond it are rarer, the later the more
    """
    made = [np.empty(0, np.uint64)]
    for places, tokens in block.numbers():
        if tokens.shape[1] > LONGEST:
            continue
        for start in range(0, len(tokens), _ROWS):
            part = tokens[start : start + _ROWS]
            inside = np.minimum(part, len(ranks) - 1)
            order = np.where(part < len(ranks), ranks[inside], -part.astype(np.int64))
            made += _keys_of_group(part, order, places[start : start + _ROWS], threshold)
    keys = np.concatenate(made)
    keys.sort()
    return keys


def _keys_of_group(
    tokens: NDArray[np.uint32], order: NDArray[np.int64], places: NDArray[np.int64], threshold: float
) -> list[NDArray[np.uint64]]:
    """The keys of texts of one number of tokens."""
    # Of equal tokens the first counts as the rarest: so it is in both texts.
    rarest = np.argsort(order, axis=1, kind="stable")
    rarity = np.empty(rarest.shape, np.uint16)
    np.put_along_axis(rarity, rarest, np.arange(tokens.shape[1], dtype=np.uint16)[None], axis=1)
    spread = (tokens.astype(np.uint64) + np.uint64(1)) * _ODD
    spread ^= spread >> np.uint64(31)
    low = places.astype(np.uint64) << np.uint64(5)
    made = []
    for size, lacks in _plan(tokens.shape[1], threshold):
        chosen = np.sort(rarest[:, : size + lacks], axis=1)
        parts = (np.take_along_axis(values, chosen, 1).T for values in (spread, rarity))
        made.append((_subsequences(*parts, size) | low).ravel())
    return made


def _subsequences(spread: NDArray[np.uint64], rarity: NDArray[np.uint16], size: int) -> NDArray[np.uint64]:
    """The keys, without the text's number, of each `size` of the tokens, (tokens, texts): (keys, texts)."""
    (_, first), *further = _choices(len(spread), size)
    hashed, common = spread[first], rarity[first]
    for shorter, last in further:
        hashed = hashed[shorter] * _MIX + spread[last]
        common = np.maximum(common[shorter], rarity[last])
    hashed *= _MIX
    hashed ^= hashed >> np.uint64(29)
    hashed *= _ODD
    return hashed & _HASH | np.minimum(common.astype(np.uint64) - np.uint64(size - 1), _LACKING)


@lru_cache(maxsize=256)
def _choices(n: int, size: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """How all choices of `size` of n places grow, place by place: out of which shorter one, by which place."""
    steps = []
    known: dict[tuple[int, ...], int] = {(): 0}
    for k in range(1, size + 1):
        grown = list(combinations(range(n - size + k), k))
        steps.append((np.array([known[c[:-1]] for c in grown]), np.array([c[-1] for c in grown])))
        known = {choice: i for i, choice in enumerate(grown)}
    return steps


@cache
def _plan(n: int, threshold: float) -> list[tuple[int, int]]:
    """The keys of a text of n tokens: their number of tokens, and the most that the text may lack with such keys.

    Near texts must both have keys of one size: it follows from the pair's numbers of tokens alone.
    """
    if threshold < _LOOSE:
        return [(1, n - 1)]
    shortest = max(int(n * threshold / (2 - threshold)) - 1, 1)
    longest = int(n * (2 - threshold) / threshold) + 1
    other = np.arange(shortest, longest + 1)
    lacks: dict[int, int] = {}
    for m, needed in zip(other.tolist(), needed_lcs(other, n, threshold).tolist(), strict=True):
        if needed <= min(m, n):
            size = min(needed, _size(max(m, n) - needed))
            lacks[size] = max(lacks.get(size, 0), n - needed)
    return sorted(lacks.items())


@cache
def _size(lacks: int) -> int:
    """The number of tokens in a key where the longer text may lack so many: as many as _KEYS allows."""
    return max((size for size in range(2, _TOKENS + 1) if comb(lacks + size, size) <= _KEYS), default=1)
