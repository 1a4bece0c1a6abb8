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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from selma.ground.errors import UserError
from selma.ground.files import Row, read_csv
from selma.ground.items import Item, Question, ancestors

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
CHOICES = ("yes", "no")

NEEDS = ("url",)
TAKES = ("sha256",)
FILES = {"annotations": "annotations.csv"}  # kept next to the splits


def read(files: Mapping[str, Path]) -> list[Item]:
    """The items, all in the test split; raises UserError for a file that is not what DSG's authors released."""
    return items(read_annotations(files["annotations"]))


@dataclass(frozen=True)
class Proposition:
    """A row of the CSV: one thing that the prompt says; `dependency` is the cell as it is."""

    item: str
    prompt: str
    id: str
    dependency: str
    broad: str  # entity, attribute, relation, global or other
    category: str  # whole, part, color, spatial, ...
    question: str


def read_annotations(path: Path) -> dict[str, list[Proposition]]:
    """The propositions of every item, in the file's order; raises UserError, naming the line, for a broken row."""
    found: dict[str, list[Proposition]] = {}
    for row in read_csv(path, COLUMNS):
        proposition = _proposition(row, path)
        others = found.setdefault(proposition.item, [])
        if others and others[0].prompt != proposition.prompt:
            raise UserError(
                f"{path}, line {row.line}: item {proposition.item!r} has a different text in an earlier line"
            )
        if any(other.id == proposition.id for other in others):
            raise UserError(
                f"{path}, line {row.line}: item {proposition.item!r} has a proposition {proposition.id} already"
            )
        others.append(proposition)
    return found


def items(annotations: Mapping[str, Sequence[Proposition]]) -> list[Item]:
    """The benchmark as its authors score it: direct parents, none in an item with a malformed dependency."""
    return [_item(name, found, _official(found)) for name, found in annotations.items()]


def cascading_items(annotations: Mapping[str, Sequence[Proposition]]) -> list[Item]:
    """The benchmark with all ancestors as parents, so that a wrong answer voids what depends on it at any remove.

    The SELMA paper's figures are computed this way. Of a malformed dependency, only the ids that can be read count;
    a question that the item lacks voids nothing.
    """
    return [_item(name, found, _ancestors(found)) for name, found in annotations.items()]


def source_of(item: str) -> str:
    """The data set that an item's prompt comes from: `stanford_paragraph` of stanford_paragraph_54."""
    return item.rpartition("_")[0] or item


def _proposition(row: Row, path: Path) -> Proposition:
    cells = {name: row.cells[name].strip() for name in COLUMNS}
    for name in COLUMNS:
        if not cells[name]:
            raise UserError(f"{path}, line {row.line}: {name} is empty")
    if not _NUMBER.fullmatch(cells["proposition_id"]):
        raise UserError(
            f"{path}, line {row.line}: proposition_id is {cells['proposition_id'][:40]!r}; "
            "it must be a number of at most 9 digits"
        )
    broad, detailed = cells["category_broad"], cells["category_detailed"]
    return Proposition(
        item=cells["item_id"],
        prompt=row.cells["text"],
        id=str(int(cells["proposition_id"])),
        dependency=cells["dependency"],
        broad=broad,
        category=broad if detailed == "-" else detailed,
        question=cells["question_natural_language"],
    )


def _item(name: str, propositions: Sequence[Proposition], parents: Mapping[str, Sequence[str]]) -> Item:
    ids = {proposition.id for proposition in propositions}
    source = source_of(name)
    return Item(
        id=name,
        prompt=propositions[0].prompt,
        skill=source,  # DSG names no skills
        source=source,
        questions=tuple(
            Question(p.id, p.question, CHOICES, "yes", tuple(parents[p.id]), p.category) for p in propositions
        ),
        absent=tuple(dict.fromkeys(id for p in propositions for id in parents[p.id] if id not in ids)),
    )


def _official(propositions: Sequence[Proposition]) -> dict[str, list[str]]:
    try:
        return {p.id: _unique(int(part) for part in p.dependency.split(",")) for p in propositions}
    except ValueError:
        return {p.id: [] for p in propositions}


def _ancestors(propositions: Sequence[Proposition]) -> dict[str, list[str]]:
    return ancestors({p.id: _readable(p.dependency) for p in propositions})


def _readable(dependency: str) -> list[str]:
    parts = (part.strip() for part in dependency.split(","))
    return _unique(int(part) for part in parts if _NUMBER.fullmatch(part))


def _unique(ids: Iterable[int]) -> list[str]:
    """Ids as texts, each once; 0 means no dependency."""
    return [str(id) for id in dict.fromkeys(ids) if id != 0]
