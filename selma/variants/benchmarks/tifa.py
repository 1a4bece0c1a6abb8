"""TIFA v1.0 (arXiv 2303.11897): 4,081 prompts, 25,829 multiple-choice questions, 12 types of element.

Its questions file is one JSON list with an object per question, its text inputs one with an object per
prompt. The official scorer's output holds every question with the answers given to it: enough to score it
again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from selma.ground.errors import UserError
from selma.ground.files import read_json
from selma.ground.items import Item, Question

_PROMPT_KEYS = ("id", "caption")
_QUESTION_KEYS = (*_PROMPT_KEYS, "question", "choices", "answer", "element_type")
_ANSWERS = ("multiple_choice_vqa", "free_form_vqa")  # the first that an official result holds is scored

NEEDS = ()
TAKES = ("url", "path", "sha256")
FILES = {"questions": "questions.json"}  # kept next to the splits


def read(files: Mapping[str, Path]) -> list[Item]:
    """The items, all in the test split; raises UserError for a file that is not what TIFA's authors released."""
    return read_questions(files["questions"])


def read_questions(path: Path) -> list[Item]:
    """The items of a questions file, or of a text-inputs file, whose items have no questions.

    Questions are numbered from 1 in each item; `category` is the element's type. Raises UserError for an
    object without its keys and for a file that mixes both kinds.
    """
    rows = read_json(path)
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path}: is not a list of questions")
    bare = isinstance(rows[0], dict) and "question" not in rows[0]
    grouped: dict[str, list[dict[str, Any]]] = {}
    for number, row in enumerate(rows, start=1):
        _check(row, _PROMPT_KEYS if bare else _QUESTION_KEYS, f"{path}, entry {number}")
        if bare and "question" in row:
            raise UserError(f"{path}, entry {number}: has a question, but those before it do not")
        grouped.setdefault(str(row["id"]), []).append(row)
    if not bare:
        return [_item(id, found) for id, found in grouped.items()]
    twice = next((id for id, found in grouped.items() if len(found) > 1), None)
    if twice is not None:
        raise UserError(f"{path}: prompt {twice!r} appears twice")
    return [_prompt(id, found[0]) for id, found in grouped.items()]


def read_result(path: Path) -> tuple[list[Item], dict[tuple[str, str], str]]:
    """The items of an official result (`question_details`) and the answers by (item, question)."""
    result = read_json(path)
    if not isinstance(result, dict) or not isinstance(result.get("question_details"), dict):
        raise UserError(f"{path}: is not a result of the official scorer: it has no question_details")
    items: list[Item] = []
    answers: dict[tuple[str, str], str] = {}
    for id, questions in result["question_details"].items():
        rows = list(_result_rows(path, id, questions))
        items.append(_item(id, rows))
        for question, row in zip(items[-1].questions, rows, strict=True):
            answers[id, question.id] = next(str(row[key]) for key in _ANSWERS if key in row)
    if not items:
        raise UserError(f"{path}: question_details is empty")
    return items, answers


def source_of(item: str) -> str:
    """Where an item's prompt comes from: `coco` of coco_301091."""
    return item.rpartition("_")[0] or item


def _result_rows(path: Path, id: str, questions: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(questions, dict) or not questions:
        raise UserError(f"{path}: question_details of {id!r} is not an object of questions")
    for text, row in questions.items():
        _check(row, _QUESTION_KEYS, f"{path}, {id!r}, question {text!r}")
        if not any(key in row for key in _ANSWERS):
            raise UserError(f"{path}, {id!r}, question {text!r}: has no answer ({' or '.join(_ANSWERS)})")
        yield row


def _check(row: Any, keys: tuple[str, ...], where: str) -> None:
    if not isinstance(row, dict):
        raise UserError(f"{where}: is not an object with the keys {', '.join(keys)}")
    for key in keys:
        if key not in row:
            raise UserError(f"{where}: key {key!r} is missing; needed: {', '.join(keys)}")
    if "choices" in keys and (not isinstance(row["choices"], list) or not row["choices"]):
        raise UserError(f"{where}: choices is {row['choices']!r}; it must be a list of at least one")


def _prompt(id: str, row: dict[str, Any]) -> Item:
    return Item(id, str(row["caption"]), source_of(id), source_of(id), ())


def _item(id: str, rows: list[dict[str, Any]]) -> Item:
    questions = tuple(
        Question(
            id=str(number),
            text=str(row["question"]),
            choices=tuple(dict.fromkeys(map(str, row["choices"]))),  # a choice may be listed twice
            answer=str(row["answer"]),
            parents=(),
            category=str(row["element_type"]),
        )
        for number, row in enumerate(rows, start=1)
    )
    return Item(id, str(rows[0]["caption"]), source_of(id), source_of(id), questions)
