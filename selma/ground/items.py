"""Benchmarks: prompts with atomic questions and their dependencies, in dev and test splits, in one schema.

One JSON Lines file per split, one item per line; the questions follow DSG (arXiv 2310.18235):

    {"id": "count-3", "prompt": "two red circles", "skill": "count", "source": "shapes", "questions": [
        {"id": "1", "question": "Is there a circle?", "choices": ["yes", "no"], "answer": "yes",
         "parents": [], "category": "shape"}, ...]}

A question whose parent is answered wrongly is void (scoring/scores.py). Parents may point forwards, at themselves
or in a cycle, as some of DSG's own do: only their own answers count, so that is harmless. A parent that the
benchmark names but lacks (DSG's tifa160_134) is listed in the item's `absent`, a key that other items do not have;
nobody can answer it. An item without questions is drawn for preference scores only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selma.ground.errors import UserError
from selma.ground.files import lines, write_jsonl
from selma.ground.schema import Id, Text, Texts, build, section

SPLITS = ("dev", "test")
YES_NO = ("yes", "no")  # the choices of most questions


@dataclass(frozen=True)
class Question:
    """An atomic question about an image; `answer` is the expected one of `choices`."""

    id: str
    text: str
    choices: tuple[str, ...]
    answer: str
    parents: tuple[str, ...]
    category: str


@dataclass(frozen=True)
class Item:
    """A prompt to draw and the questions to ask about the image."""

    id: str
    prompt: str
    skill: str
    source: str
    questions: tuple[Question, ...]
    absent: tuple[str, ...] = ()


def ancestors(parents: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """All that each question depends on at any remove, nearest first, of the questions that there are.

    In a circle a question is its own ancestor, which is harmless.
    """

    def above(id: str) -> list[str]:
        seen: dict[str, None] = {}  # in order of discovery; circles end here
        todo = list(parents[id])
        while todo:
            parent = todo.pop(0)
            if parent in parents and parent not in seen:
                seen[parent] = None
                todo += parents[parent]
        return list(seen)

    return {id: above(id) for id in parents}


# Files -----------------------------------------------------------------------------------------


def write_split(folder: Path, split: str, items: Iterable[Item]) -> None:
    """Write `folder/<split>.jsonl`, checked against everything that `load_split` requires.

    Raises UserError for an item that breaks the schema, and when a prompt or id is in the other split too.
    """
    path = _split_file(folder, split)
    rows = [_to_row(item) for item in items]
    _check_disjoint(path, _check_rows(rows, path), folder, split)
    write_jsonl(path, rows)


def load_split(folder: Path, split: str) -> list[Item]:
    """Read `folder/<split>.jsonl` in file order.

    Raises UserError naming file and line for a broken schema (missing or unknown key, wrong type, empty
    prompt, duplicate id, unknown parent, answer not among the choices), and when the folder's splits overlap.
    """
    path = _split_file(folder, split)
    if not path.is_file():
        found = splits(folder)
        why = f"this benchmark has a {found[0]} split only" if found else "the benchmark stage writes it"
        raise UserError(f"{path} is missing; {why}")
    items = _read(path)
    _check_disjoint(path, items, folder, split)
    return items


def write_items(path: Path, items: Iterable[Item]) -> None:
    """Write items as a JSON Lines file of the same schema, checked against everything that `load_items` requires."""
    rows = [_to_row(item) for item in items]
    _check_rows(rows, path)
    write_jsonl(path, rows)


def load_items(path: Path) -> list[Item]:
    """The items of a JSON Lines file of the same schema that is no split of a benchmark, in file order.

    Raises UserError as `load_split` does, and for a file that is not there.
    """
    return _read(path)


def splits(folder: Path) -> list[str]:
    """The splits that a benchmark's folder holds, in SPLITS' order: DSG, TIFA and HPS v2 have test only."""
    return [split for split in SPLITS if _split_file(folder, split).is_file()]


def exam_prompts(folders: Iterable[Path]) -> list[str]:
    """The prompts of every split of these benchmarks' folders; raises UserError where a test split is missing."""
    return [
        item.prompt
        for folder in folders
        for split in dict.fromkeys((*splits(folder), "test"))
        for item in load_split(folder, split)
    ]


def _split_file(folder: Path, split: str) -> Path:
    if split not in SPLITS:
        raise UserError(f"benchmark split {split!r} is unknown; allowed: {', '.join(SPLITS)}")
    return Path(folder) / f"{split}.jsonl"


def _read(path: Path) -> list[Item]:
    return _parse(((f"{path}, line {number}", row) for number, row in lines(path)), path)


def _check_rows(rows: Iterable[dict[str, Any]], path: Path) -> list[Item]:
    return _parse(((f"{path}, item {i}", row) for i, row in enumerate(rows, start=1)), path)


def _parse(rows: Iterable[tuple[str, Any]], path: Path) -> list[Item]:
    items: list[Item] = []
    seen: set[str] = set()
    for where, row in rows:
        item = _item(row, where)
        if item.id.casefold() in seen:  # some disks take a.webp for A.webp
            raise UserError(
                f"{where}: item id {item.id!r} appears twice; ids must be unique in a file, in any case"
            )
        seen.add(item.id.casefold())
        items.append(item)
    if not items:
        raise UserError(f"{path}: has no items; it needs at least one")
    return items


def _check_disjoint(path: Path, items: Sequence[Item], folder: Path, split: str) -> None:
    """Settings are chosen on dev; an overlap would leak the test split into that choice."""
    for other in SPLITS:
        other_path = _split_file(folder, other)
        if other == split or not other_path.is_file():
            continue
        others = _read(other_path)
        ids, prompts = {item.id for item in others}, {_normal(item.prompt) for item in others}
        for item in items:
            if item.id in ids:
                raise UserError(f"{path}: id {item.id!r} is in {other_path} too; splits must be disjoint")
            if _normal(item.prompt) in prompts:
                raise UserError(
                    f"{path}: prompt {item.prompt!r} is in {other_path} too; splits must be disjoint"
                )


def _normal(prompt: str) -> str:
    return " ".join(prompt.casefold().split())


# Rows ------------------------------------------------------------------------------------------


@section
class _QuestionRow:
    id: Text
    question: Text
    choices: Texts
    answer: Text
    parents: Texts
    category: Text


@section
class _ItemRow:
    """An item as a line of a split."""

    id: Id
    prompt: Text
    skill: Text
    source: Text
    questions: list[_QuestionRow]
    absent: Texts = ()


def _to_row(item: Item) -> dict[str, Any]:
    questions = [
        {
            "id": q.id,
            "question": q.text,
            "choices": list(q.choices),
            "answer": q.answer,
            "parents": list(q.parents),
            "category": q.category,
        }
        for q in item.questions
    ]
    row = {
        "id": item.id,
        "prompt": item.prompt,
        "skill": item.skill,
        "source": item.source,
        "questions": questions,
    }
    return {**row, "absent": list(item.absent)} if item.absent else row


def _item(row: Any, where: str) -> Item:
    found = build(_ItemRow, row, where, "the row")
    questions = tuple(
        Question(q.id, q.question, tuple(q.choices), q.answer, tuple(q.parents), q.category)
        for q in found.questions
    )
    item = Item(found.id, found.prompt, found.skill, found.source, questions, tuple(found.absent))
    check_item(item, where)
    return item


def check_item(item: Item, where: str) -> None:
    """Raise UserError, opened by `where`, unless an item's questions fit each other and their own choices."""
    known = [question.id for question in item.questions]
    if there := set(item.absent) & set(known):
        raise UserError(
            f"{where}, item {item.id!r}: absent lists {', '.join(sorted(there))}, which the item has"
        )
    for question in item.questions:
        here = f"{where}, item {item.id!r}, question {question.id!r}"
        if known.count(question.id) > 1:
            raise UserError(f"{here} appears twice")
        if question.answer not in question.choices:
            raise UserError(
                f"{here}: answer {question.answer!r} is not among its choices; allowed: {', '.join(question.choices)}"
            )
        for parent in question.parents:
            if parent not in known and parent not in item.absent:
                raise UserError(f"{here} has the unknown parent {parent!r}; allowed: {', '.join(known)}")
