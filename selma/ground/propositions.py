"""Tables of annotated prompts, a row for each thing that a prompt says, as DSG's authors and others release them.

Columns item_id, text, proposition_id, dependency (ids with commas between them; 0: none) and
question_natural_language, to which yes is the expected answer; how categories are written differs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from selma.ground.errors import UserError
from selma.ground.files import Row, read_csv
from selma.ground.items import YES_NO, Item, Question

_NUMBER = re.compile(r"[0-9]{1,9}")


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


# A row's cells -> its broad category and its category.
Kind = Callable[[Mapping[str, str]], tuple[str, str]]


def read_propositions(path: Path, columns: Sequence[str], kind: Kind) -> dict[str, list[Proposition]]:
    """The propositions of every item, in the file's order; raises UserError, naming the line, for a broken row.

    `columns` are those that no row may leave empty, `kind` reads the categories from them.
    """
    found: dict[str, list[Proposition]] = {}
    for row in read_csv(path, columns):
        proposition = _proposition(row, path, columns, kind)
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


def item_of(
    name: str,
    propositions: Sequence[Proposition],
    parents: Mapping[str, Sequence[str]],
    source: str,
) -> Item:
    """An item of yes/no questions, of a set of prompts, `source`.

    `parents` are by proposition; those that the item lacks become `absent`.
    """
    ids = {proposition.id for proposition in propositions}
    return Item(
        id=name,
        prompt=propositions[0].prompt,
        skill=source,  # such tables name no skills
        source=source,
        questions=tuple(
            Question(p.id, p.question, YES_NO, "yes", tuple(parents[p.id]), p.category) for p in propositions
        ),
        absent=tuple(dict.fromkeys(id for p in propositions for id in parents[p.id] if id not in ids)),
    )


def unique(ids: Iterable[int]) -> list[str]:
    """Ids as texts, each once; 0 means no dependency."""
    return [str(id) for id in dict.fromkeys(ids) if id != 0]


def _proposition(row: Row, path: Path, columns: Sequence[str], kind: Kind) -> Proposition:
    cells = {name: row.cells[name].strip() for name in columns}
    for name in columns:
        if not cells[name]:
            raise UserError(f"{path}, line {row.line}: {name} is empty")
    if not _NUMBER.fullmatch(cells["proposition_id"]):
        raise UserError(
            f"{path}, line {row.line}: proposition_id is {cells['proposition_id'][:40]!r}; "
            "it must be a number of at most 9 digits"
        )
    broad, category = kind(cells)
    return Proposition(
        item=cells["item_id"],
        prompt=row.cells["text"],
        id=str(int(cells["proposition_id"])),
        dependency=cells["dependency"],
        broad=broad,
        category=category,
        question=cells["question_natural_language"],
    )
