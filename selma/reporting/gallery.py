"""What the experts trained on, to look at: some prompts of each skill with the images that were drawn for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from selma.ground.pairs import read_pairs
from selma.reporting.thumbnails import strip

NUMBER = 8  # of each skill


def trained_on(images: Path, skills: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """A part for each skill's folder of `images`: how many images it holds, and some by chance, with their prompts.

    Raises UserError for a folder that cannot be read.
    """
    found = []
    for skill in skills:
        pairs = read_pairs(images / skill)
        some = Random(f"{seed}:{skill}").sample(pairs, min(NUMBER, len(pairs)))
        pictures = [{"prompt": pair.text, "uri": strip([pair.file])} for pair in some]
        found.append({"skill": skill, "number": len(pairs), "pictures": pictures})
    return found
