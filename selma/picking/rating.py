"""Judges score images for their prompts, some at a time, each part kept as it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from selma.ground.errors import UserError
from selma.ground.pairs import Pair, read_image

if TYPE_CHECKING:
    from PIL.Image import Image

    from selma.ground.items import Item
    from selma.rewards.judged import JudgeReward

PART = 128  # images that are judged and kept together: a stopped run judges at most so many again
PLACES = 6  # of scores


def rated(
    judge: JudgeReward, pairs: Sequence[Pair], items: Mapping[str, Item], done: Callable[[Pair], bool]
) -> Iterator[list[dict[str, Any]]]:
    """Rows {id, k, score} of a judge's scores, a part of the pairs at a time, but for parts that are `done`.

    With `tokens` (read, written) of judges that give them.

    Raises UserError for a pair that is of none of the items.
    """
    for start in range(0, len(pairs), PART):
        part = pairs[start : start + PART]
        if all(done(pair) for pair in part):
            continue
        scores = judge.scores([(item_of(pair, items), pair.k, read_image(pair.file)) for pair in part])
        yield [
            {"id": id, "k": k, "score": round(score, PLACES)}
            | ({"tokens": judge.tokens.pop((id, k))} if (id, k) in judge.tokens else {})
            for (id, k), score in scores.items()
        ]


def item_of(pair: Pair, items: Mapping[str, Item]) -> Item:
    """The item that a pair was drawn of."""
    item = items.get(pair.id)
    if item is None or item.prompt != pair.text:
        raise UserError(
            f"{pair.file}: {pair.id!r} is none of the prompts that it should be of; draw it again"
        )
    return item


def diversity(pairs: Sequence[Pair]) -> float | None:
    """How unlike the images of one prompt are: the root of the mean squared difference of two, over pixels (0 to 1).

    The mean over all pairs of images of a prompt, and over prompts; None where no prompt has two images.
    """
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair.id, []).append(pair)
    found = []
    for group in groups.values():
        pixels = [_pixels(read_image(pair.file)) for pair in group] if len(group) > 1 else []
        if pixels:
            found.append(fmean(np.sqrt(np.square(a - b).mean()) for a, b in combinations(pixels, 2)))
    return round(float(fmean(found)), PLACES) if found else None


def _pixels(image: Image) -> np.ndarray:
    return np.asarray(image, dtype=np.float32) / 255
