"""Made-up captions with a vocabulary as large and as uneven as that of photo captions."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, product
from random import Random

_ONSETS = ["", *"bdfghklmnprstvw", "br", "cl", "dr", "gr", "pl", "sh", "st", "th", "tr"]
_RHYMES = ["a", "e", "i", "o", "u", "an", "ar", "el", "en", "er", "il", "in", "on", "or", "um"]
_FRAMES = (
    "a {a} {n} {v} a {n} {p} the {n}",
    "the {n} {p} a {a} {n} is {v} the {a} {n}",
    "two {n} and a {n} {v} {p} a {a} {a} {n}",
    "a {n} with a {a} {n} {p} its {n}, {v} {n}",
    "{a} {n} {v} {n}",
    "there is a {a} {n} {v} {p} the {n} while a {n} is {v} some {n} {p} a {n}",
    "an image of a {n} {p} a {n}",
    "some {a} {n} are {v} {p} the {a} {n} next to a {n}",
)
_PREPOSITIONS = ["on", "in", "near", "under", "behind", "above", "beside", "across", "around", "inside"]
_REPEATED = 0.15  # of the captions are an earlier one with up to two words changed


def captions(n: int, seed: int = 0) -> list[str]:
    """n captions of 4 to 18 words; words fall off as in natural text (Zipf), 15% are near an earlier caption."""
    rng = Random(seed)
    words = _words(rng)
    classes = {
        "n": _zipf([next(words) for _ in range(20000)]),
        "a": _zipf([next(words) for _ in range(6000)]),
        "v": _zipf([next(words) + "ing" for _ in range(4000)]),
        "p": _zipf(_PREPOSITIONS),
    }
    frames = [frame.replace(",", " ,").split() for frame in _FRAMES]
    made: list[list[str]] = []
    for _ in range(n):
        if made and rng.random() < _REPEATED:
            caption = list(rng.choice(made))
            for _ in range(rng.randrange(3)):
                caption[rng.randrange(len(caption))] = _draw(rng, classes["n"])
        else:
            caption = [
                _draw(rng, classes[slot[1]]) if slot[0] == "{" else slot for slot in rng.choice(frames)
            ]
        made.append(caption)
    return [" ".join(caption).replace(" ,", ",") for caption in made]


def _words(rng: Random) -> Iterator[str]:
    """Distinct words, the short ones first; each syllable count in random order."""
    syllables = ["".join(pair) for pair in product(_ONSETS, _RHYMES)]
    rng.shuffle(syllables)
    for count in (2, 3):
        for parts in product(syllables, repeat=count):
            yield "".join(parts)


def _zipf(words: list[str]) -> tuple[list[str], list[float]]:
    """Words with their cumulated weights, 1/rank."""
    return words, list(accumulate(1 / rank for rank in range(1, len(words) + 1)))


def _draw(rng: Random, choice: tuple[list[str], list[float]]) -> str:
    words, weights = choice
    return rng.choices(words, cum_weights=weights)[0]
