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

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selma.ground.errors import UserError
from selma.ground.files import read_jsonl, write_jsonl

SPLITS = ("dev", "test")

_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # ids name image files
_ITEM_KEYS = ("id", "prompt", "skill", "source", "questions")
_QUESTION_KEYS = ("id", "question", "choices", "answer", "parents", "category")


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


# Files -----------------------------------------------------------------------------------------


def write_split(folder: Path, split: str, items: Iterable[Item]) -> None:
    """Write `folder/<split>.jsonl`, checked against everything that `load_split` requires.

    Raises UserError for an item that breaks the schema, and when a prompt or id is in the other split too.
    """
    path = _split_file(folder, split)
    rows = [_to_row(item) for item in items]
    checked = _parse(((f"{path}, item {i}", row) for i, row in enumerate(rows, start=1)), path)
    _check_disjoint(path, checked, folder, split)
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


def splits(folder: Path) -> list[str]:
    """The splits that a benchmark's folder holds, in SPLITS' order: DSG, TIFA and HPS v2 have test only."""
    return [split for split in SPLITS if _split_file(folder, split).is_file()]


def _split_file(folder: Path, split: str) -> Path:
    if split not in SPLITS:
        raise UserError(f"benchmark split {split!r} is unknown; allowed: {', '.join(SPLITS)}")
    return Path(folder) / f"{split}.jsonl"


def _read(path: Path) -> list[Item]:
    rows = read_jsonl(path)
    return _parse(((f"{path}, line {i}", row) for i, row in enumerate(rows, start=1)), path)


def _parse(rows: Iterable[tuple[str, Any]], path: Path) -> list[Item]:
    items: list[Item] = []
    seen: set[str] = set()
    for where, row in rows:
        item = _item(row, where)
        if item.id in seen:
            raise UserError(f"{where}: item id {item.id!r} appears twice; ids must be unique in a split")
        seen.add(item.id)
        items.append(item)
    if not items:
        raise UserError(f"{path}: has no items; a split needs at least one")
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
    _check_keys(row, _ITEM_KEYS, where, optional=("absent",))
    id, prompt, skill, source = (_text(row, key, where) for key in ("id", "prompt", "skill", "source"))
    if not _SAFE_ID.fullmatch(id):
        raise UserError(f"{where}: id {id!r} must be letters, digits, '.', '_' or '-': it names image files")
    if not isinstance(row["questions"], list):
        raise UserError(f"{where}: questions of item {id!r} is {row['questions']!r}; it must be a list")
    questions = tuple(_question(question, f"{where}, item {id!r}") for question in row["questions"])
    known = [question.id for question in questions]
    absent = _texts(row, "absent", f"{where}, item {id!r}") if "absent" in row else ()
    if there := set(absent) & set(known):
        raise UserError(f"{where}, item {id!r}: absent lists {', '.join(sorted(there))}, which the item has")
    for question in questions:
        if known.count(question.id) > 1:
            raise UserError(f"{where}, item {id!r}: question id {question.id!r} appears twice")
        for parent in question.parents:
            if parent not in known and parent not in absent:
                raise UserError(
                    f"{where}, item {id!r}: question {question.id!r} has the unknown parent {parent!r}; "
                    f"allowed: {', '.join(known)}"
                )
    return Item(id, prompt, skill, source, questions, absent)


def _question(row: Any, where: str) -> Question:
    _check_keys(row, _QUESTION_KEYS, where)
    id, text, answer, category = (_text(row, key, where) for key in ("id", "question", "answer", "category"))
    choices, parents = (_texts(row, key, f"{where}, question {id!r}") for key in ("choices", "parents"))
    if answer not in choices:
        raise UserError(
            f"{where}, question {id!r}: answer {answer!r} is not among its choices; "
            f"allowed: {', '.join(choices) or 'none given'}"
        )
    return Question(id, text, choices, answer, parents, category)


def _check_keys(row: Any, keys: Sequence[str], where: str, optional: Sequence[str] = ()) -> None:
    if not isinstance(row, Mapping):
        raise UserError(f"{where}: {json.dumps(row)[:40]} is not an object with the keys {', '.join(keys)}")
    for key in (*keys, *(key for key in row if key not in optional)):
        if (key in row) != (key in keys):
            problem = "is missing" if key in keys else "is unknown"
            raise UserError(f"{where}: key {key!r} {problem}; allowed: {', '.join(keys)}")


def _text(row: Mapping[str, Any], key: str, where: str) -> str:
    value = row[key]
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: {key} is {value!r}; it must be a non-empty string")
    return value


def _texts(row: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    values = row[key]
    if not isinstance(values, list) or not all(isinstance(v, str) and v.strip() for v in values):
        raise UserError(f"{where}: {key} is {values!r}; it must be a list of non-empty strings")
    if len(set(values)) < len(values):
        raise UserError(f"{where}: {key} {values!r} holds the same string twice")
    return tuple(values)
