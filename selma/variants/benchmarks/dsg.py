"""DSG-1K (arXiv 2310.18235): 1,060 prompts, 8,182 yes/no questions and the answers they depend on.

The released CSV has a row per question. Its dependencies were written by language models and are not all sound: some
name the question itself, a later one or each other in a cycle, "0" (none) appears next to other ids, ids appear
twice; all of that is harmless to scores (scoring/scores.py). Two things are not:

- In 8 items a dependency is not a list of ids ("5, right"). The official parser then gives the whole item no
  dependencies, and so does `items`.
- tifa160_134 has no question 1, on which all its others depend: they are void whatever the image shows, which
  agrees with the item's official score of 0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from selma.ground.items import Item, ancestors
from selma.ground.propositions import Proposition, item_of, read_propositions, unique

_NUMBER = re.compile(r"[0-9]{1,9}")
COLUMNS = (
    "item_id",
    "text",
    "proposition_id",
    "dependency",
    "category_broad",
    "category_detailed",
    "question_natural_language",
)
NEEDS = ("url",)
TAKES = ("sha256",)
FILES = {"annotations": "annotations.csv"}  # kept next to the splits


def read(files: Mapping[str, Path]) -> list[Item]:
    """The items, all in the test split; raises UserError for a file that is not what DSG's authors released."""
    return items(read_annotations(files["annotations"]))


def read_annotations(path: Path) -> dict[str, list[Proposition]]:
    """The propositions of every item, in the file's order; raises UserError, naming the line, for a broken row."""
    return read_propositions(path, COLUMNS, _kind)


def _kind(cells: Mapping[str, str]) -> tuple[str, str]:
    broad, detailed = cells["category_broad"], cells["category_detailed"]
    return broad, broad if detailed == "-" else detailed


def items(annotations: Mapping[str, Sequence[Proposition]]) -> list[Item]:
    """The benchmark as its authors score it: direct parents, none in an item with a malformed dependency."""
    return [item_of(name, found, _official(found), source_of(name)) for name, found in annotations.items()]


def cascading_items(annotations: Mapping[str, Sequence[Proposition]]) -> list[Item]:
    """The benchmark with all ancestors as parents, so that a wrong answer voids what depends on it at any remove.

    The SELMA paper's figures are computed this way. Of a malformed dependency, only the ids that can be read count;
    a question that the item lacks voids nothing.
    """
    return [item_of(name, found, _ancestors(found), source_of(name)) for name, found in annotations.items()]


def source_of(item: str) -> str:
    """The data set that an item's prompt comes from: `stanford_paragraph` of stanford_paragraph_54."""
    return item.rpartition("_")[0] or item


def _official(propositions: Sequence[Proposition]) -> dict[str, list[str]]:
    try:
        return {p.id: unique(int(part) for part in p.dependency.split(",")) for p in propositions}
    except ValueError:
        return {p.id: [] for p in propositions}


def _ancestors(propositions: Sequence[Proposition]) -> dict[str, list[str]]:
    return ancestors({p.id: _readable(p.dependency) for p in propositions})


def _readable(dependency: str) -> list[str]:
    parts = (part.strip() for part in dependency.split(","))
    return unique(int(part) for part in parts if _NUMBER.fullmatch(part))
