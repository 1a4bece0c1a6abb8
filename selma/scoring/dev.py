"""The prompts on which checkpoints are chosen.

They are the leading benchmark's dev split, or prompts of each skill that the filter held out of training: the published
benchmarks have only a test split.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from selma.ground.items import Item
from selma.ground.pairs import read_prompts


def held_out(folder: Path, skills: Sequence[str]) -> list[Item]:
    """The prompts that the filter held out of every skill, `folder`/<skill>/dev.jsonl, as items without questions."""
    return [
        Item(row["id"], row["text"], skill, "filter", ())
        for skill in skills
        for row in read_prompts(folder / skill / "dev.jsonl")
    ]
