"""Which two images a rater sees of a prompt, in what order, and on which side.

Order and sides are stable hashes of the seed, the rater and the prompt: a rater who returns sees the same, and another
number of pairs reorders nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from selma.ground.errors import UserError
from selma.ground.files import sha256_file
from selma.ground.pairs import Pair, read_pairs
from selma.runtime.places import BROUGHT

Models = tuple[str, str]


@dataclass(frozen=True)
class Couple:
    """The first image of one prompt by each of two models; `id` is a hash of the prompt's id and both images."""

    id: str
    item: str
    prompt: str
    files: Mapping[str, Path]  # by model


def read_couples(samples: Path, models: Models, benchmark: str) -> list[Couple]:
    """The couples of two models' folders data/samples/<model>/<benchmark>, in the benchmark's order.

    The first image (k = 0) of a prompt is that of both, which start from the same noise. Raises UserError for a folder
    that is missing or malformed, and where the two were not drawn for the same prompts.
    """
    first, second = (_first_images(samples / model / benchmark) for model in models)
    for one, other, model in ((first, second, models[1]), (second, first, models[0])):
        for item, pair in one.items():
            if item not in other or other[item].text != pair.text:
                raise UserError(
                    f"{samples / model / benchmark}: has no image of {item!r}, {pair.text[:80]!r}, as {pair.file} "
                    "is; run `dvc repro` so that both models draw the same prompts"
                )
    return [
        Couple(
            _digest(item, *sorted(f"{m}:{sha256_file(p.file)}" for m, p in zip(models, both, strict=True))),
            item,
            both[0].text,
            {model: pair.file for model, pair in zip(models, both, strict=True)},
        )
        for item, both in ((item, (first[item], second[item])) for item in first)
    ]


def _first_images(folder: Path) -> dict[str, Pair]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; {BROUGHT}, of rows of `models`")
    found = {pair.id: pair for pair in read_pairs(folder) if pair.k == 0}
    if not found:
        raise UserError(f"{folder}: has no first image (k 0) of any prompt; run the sample stage again")
    return found


def chosen(couples: Sequence[Couple], seed: int, most: int | None) -> list[Couple]:
    """At most `most` of the couples, at random, the same for every rater; a larger number adds to a smaller one's."""
    return sorted(couples, key=lambda one: _digest("chosen", str(seed), one.item))[:most]


def ordered(couples: Sequence[Couple], seed: int, rater: str) -> list[Couple]:
    """The couples in one rater's order."""
    return sorted(couples, key=lambda one: _digest("order", str(seed), rater, one.item))


def sides(couple: Couple, seed: int, rater: str) -> Models:
    """The models whose images one rater sees on the left and on the right."""
    one, other = sorted(couple.files)  # not as the command line names them: `A B` and `B A` show the same
    return (one, other) if int(_digest("side", str(seed), rater, couple.item), 16) % 2 else (other, one)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
