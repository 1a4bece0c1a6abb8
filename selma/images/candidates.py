"""The images that are drawn of training prompts: their files and seeds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from selma.ground.pairs import image_seed


def candidate_rows(
    prompts: Iterable[tuple[str, str]], images: int, seed: int, *, first: int = 0
) -> list[dict[str, Any]]:
    """Rows of metadata.jsonl for `images` images of each prompt (id, text), numbered from `first` on.

    Image k of a prompt has the seed that image k of it has everywhere in a run. Where there is but one, the
    first, its row has no `k` and its file is the prompt's.
    """
    rows = []
    for id, text in prompts:
        for k in range(first, first + images):
            row = {
                "file_name": f"{id}-{k}.webp",
                "text": text,
                "id": id,
                "seed": image_seed(seed, id, k),
                "k": k,
            }
            if (images, first) == (1, 0):
                row["file_name"] = f"{id}.webp"
                del row["k"]
            rows.append(row)
    return rows
