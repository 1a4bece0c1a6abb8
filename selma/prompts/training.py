"""The prompts that models learn on: the filtered ones with their questions, a benchmark's dev split, or captions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from selma.ground.items import Item, load_items, load_split
from selma.ground.pairs import prompt_id, read_training
from selma.runtime.places import BENCHMARKS, QUESTIONS

FILE = "prompts.jsonl"


def training_items(source: Path, skills: Sequence[str]) -> list[Item]:
    """The items of `source`.

    Those are data/questions' (of all `skills`), data/questions/<skill>'s, a rendered folder's, the dev split of a
    benchmark's folder, or, of any other folder, the captions of its images, which have no questions. Raises UserError
    where they are missing or broken.
    """
    source = Path(source)
    if source == Path(QUESTIONS):
        return [item for skill in skills for item in load_items(source / skill / FILE)]
    if source.parent == Path(QUESTIONS):
        return load_items(source / FILE)
    if source.parent == Path(BENCHMARKS):
        return load_split(source, "dev")
    if (source / FILE).is_file():
        return load_items(source / FILE)
    captions = dict.fromkeys(pair.text for pair in read_training(source))
    return [Item(prompt_id("caption", text), text, "caption", "captions", ()) for text in captions]
