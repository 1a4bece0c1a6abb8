"""A free answer to a multiple-choice question becomes one of its choices (TIFA, arXiv 2303.11897, section 3.3).

An answer that is literally a choice is that choice; case, spaces and punctuation around it make no difference. To a
question of yes or no, what follows the first word makes none either: "Yes, there are two" is yes.
Any other is mapped to the choice nearest in meaning: the one with the highest cosine between sentence
embeddings (embedding.py), the earlier one in a tie.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

# From n texts to an array [n, d] of unit rows.
Embed = Callable[[Sequence[str]], "np.ndarray"]


def normal(text: str) -> str:
    """`text` in lower case, single-spaced and without punctuation at its ends: " Yes." is "yes"."""
    return " ".join(text.casefold().split()).strip(string.punctuation + string.whitespace)


_OPENING = re.compile(
    r"[\W_]*(?:(?:the )?(?:final )?answer(?: is)?[\W_]+)?(yes|no|true|false)\b(?!\s*(?:/|or\b)\s*(?:yes|no)\b)"
)
_SHORT = re.compile(r"[\s'\"]*([yn01])(?:\.0*)?[\s'\"]*")
_MEANS = {
    "yes": "yes",
    "y": "yes",
    "true": "yes",
    "1": "yes",
    "no": "no",
    "n": "no",
    "false": "no",
    "0": "no",
}


def yes_or_no(answer: str) -> str | None:
    """ "yes" or "no", as a free answer begins: "Yes, there are two", "**No**", "True", "1"; None if with neither."""
    found = _OPENING.match(said := answer.casefold()) or _SHORT.fullmatch(said)
    return _MEANS[found[1]] if found else None


def is_yes_no(offered: Sequence[str]) -> bool:
    """Whether a question's choices are yes and no."""
    return {normal(choice) for choice in offered} == {"yes", "no"}


def match(answer: str, choices: Sequence[str]) -> str | None:
    """The choice that `answer` says, literally, after `normal` or as `yes_or_no`; None if it matches no choice."""
    if answer in choices:
        return answer
    said = normal(answer)
    if is_yes_no(choices):
        said = yes_or_no(answer)
    return next((choice for choice in choices if said and normal(choice) == said), None)


def nearest(answer: str, choices: Sequence[str], embed: Embed) -> str:
    """The choice with the highest cosine to `answer`; raises ValueError if there are no choices."""
    if not choices:
        raise ValueError("there are no choices")
    said, *offered = embed([answer, *choices])
    cosines = [float(said @ choice) for choice in offered]
    return choices[cosines.index(max(cosines))]


def choose(answer: str, choices: Sequence[str], embed: Embed) -> str:
    """The choice that `answer` says, else the nearest."""
    said = match(answer, choices)
    return nearest(answer, choices, embed) if said is None else said


def chooser(embed: Embed) -> Callable[[str, Sequence[str]], str]:
    """`choose` as a function (answer, choices) -> choice."""
    return partial(choose, embed=embed)
