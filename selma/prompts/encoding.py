"""Texts as strings of one character per token, on which a longest common subsequence is a matter of bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from selma.prompts.tokens import tokens

Code = str | tuple[int, ...]

_CHARACTERS = 0x110000


class Vocabulary:
    """Gives each distinct token a number, and so a character.

    There are 1,114,112 characters; a text with a further token is a tuple of numbers, which is slower to compare.
    """

    def __init__(self) -> None:
        self._characters: dict[str, str] = {}
        self._numbers: dict[str, int] = {}  # of the tokens for which no character was left

    def encode(self, text: str) -> Code:
        """One character, or number, per token of the text."""
        split, known = tokens(text), self._characters
        if len(known) + len(split) <= _CHARACTERS:
            return "".join([known.get(token) or known.setdefault(token, chr(len(known))) for token in split])
        numbers = tuple(self._number(token) for token in split)
        return numbers if max(numbers, default=0) >= _CHARACTERS else "".join(map(chr, numbers))

    def _number(self, token: str) -> int:
        if token in self._characters:
            return ord(self._characters[token])
        return self._numbers.setdefault(token, _CHARACTERS + len(self._numbers))


class Texts:
    """Encoded texts, in order of arrival."""

    def __init__(self, codes: Sequence[Code] = ()) -> None:
        self.codes: list[Code] = []
        self.lengths = np.empty(0, np.int64)  # in tokens
        self.signatures = np.empty(0, np.uint64)  # a bit for each token; some tokens share a bit
        self._places = np.empty(0, np.int64)
        self._groups: dict[int, slice] = {}
        self.extend(codes)

    def __len__(self) -> int:
        return len(self.codes)

    def extend(self, codes: Sequence[Code]) -> None:
        """Add texts at the end."""
        self.codes.extend(codes)
        lengths = np.fromiter(map(len, codes), np.int64, len(codes))
        self.lengths = np.append(self.lengths, lengths)
        self.signatures = np.append(self.signatures, _signatures(codes, lengths))
        self._by_length: list[Code] = []

    def by_length(self) -> list[Code]:
        """The codes, fewest tokens first; without those that have no token."""
        if not self._by_length and len(self):
            order = np.argsort(self.lengths, kind="stable")
            lengths = self.lengths[order]
            self._places = order[lengths > 0]
            self._by_length = [self.codes[i] for i in self._places.tolist()]
            found, starts = np.unique(lengths[lengths > 0], return_index=True)
            bounds = [*starts.tolist(), len(self._places)]
            self._groups = dict(zip(found.tolist(), map(slice, bounds, bounds[1:]), strict=False))
        return self._by_length

    @property
    def places(self) -> NDArray[np.int64]:
        """The places of `by_length` in `codes`."""
        self.by_length()
        return self._places

    @property
    def groups(self) -> dict[int, slice]:
        """Each number of tokens but 0, and its part of `by_length`."""
        self.by_length()
        return self._groups

    def numbers(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint32]]]:
        """The places of each group, and the numbers of their texts' tokens, (texts, tokens)."""
        for length, part in self.groups.items():
            places, codes = self.places[part], self.by_length()[part]
            yield places, _numbers(codes).reshape(-1, length)


def _numbers(codes: Sequence[Code]) -> NDArray[np.uint32]:
    """The numbers of all tokens, text after text."""
    if all(isinstance(code, str) for code in codes):
        return np.frombuffer("".join(codes).encode("utf-32-le", "surrogatepass"), np.uint32)
    return np.array(
        [token if isinstance(token, int) else ord(token) for code in codes for token in code], np.uint32
    )


def _signatures(codes: Sequence[Code], lengths: NDArray[np.int64]) -> NDArray[np.uint64]:
    found = np.zeros(len(codes), np.uint64)
    some = lengths > 0
    if some.any():
        bits = np.uint64(1) << (_numbers(codes) & np.uint32(63)).astype(np.uint64)
        found[some] = np.bitwise_or.reduceat(bits, (np.cumsum(lengths) - lengths)[some])
    return found
