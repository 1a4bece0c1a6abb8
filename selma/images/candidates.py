"""The images that are drawn of prompts: their files and seeds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from selma.ground.pairs import image_seed


def candidate_rows(
    prompts: Iterable[tuple[str, str]], images: int, seed: int, *, first: int = 0, numbered: bool = True
) -> list[dict[str, Any]]:
    """Rows of metadata.jsonl for `images` images of each prompt (id, text), numbered from `first` on.

    Image k of a prompt has the seed that image k of it has everywhere in a run. Unless they are `numbered`, of which
    there can be one alone, a row has no `k` and its file is the prompt's.
    """
    return [
        {
            "file_name": f"{id}-{k}.webp" if numbered else f"{id}.webp",
            "text": text,
            "id": id,
            "seed": image_seed(seed, id, k),
            **({"k": k} if numbered else {}),
        }
        for id, text in prompts
        for k in range(first, first + images)
    ]
