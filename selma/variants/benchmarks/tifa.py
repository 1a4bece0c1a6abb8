"""TIFA v1.0 (arXiv 2303.11897): 4,081 prompts, 25,829 multiple-choice questions, 12 types of element.

Its questions file is one JSON list with an object per question, its text inputs one with an object per
prompt. The official scorer's output holds every question with the answers given to it: enough to score it
again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from selma.ground.errors import UserError
from selma.ground.files import read_json, read_record
from selma.ground.items import Item, Question, check_item
from selma.ground.schema import Text, check, record

_ANSWERS = ("multiple_choice_vqa", "free_form_vqa")  # the first that an official result holds is scored

NEEDS = ("url",)
TAKES = ("sha256",)
FILES = {"questions": "questions.json"}  # kept next to the splits


@record
class _Prompt(TypedDict):
    id: Text
    caption: Text


@record
class _Question(_Prompt):
    question: Text
    choices: Annotated[list[Text], Field(min_length=1)]
    answer: Text
    element_type: Text
    multiple_choice_vqa: NotRequired[str]
    free_form_vqa: NotRequired[str]


_Details = Annotated[dict[str, dict[str, _Question]], Field(min_length=1)]


@record
class _Result(TypedDict):
    """An official result: by item, then by the question's text."""

    question_details: _Details


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
        check(_Prompt if bare else _Question, row, f"{path}, entry {number}", "the entry")
        if bare and "question" in row:
            raise UserError(f"{path}, entry {number}: has a question, but those before it do not")
        grouped.setdefault(row["id"], []).append(row)
    if not bare:
        return [_item(id, found, str(path)) for id, found in grouped.items()]
    twice = next((id for id, found in grouped.items() if len(found) > 1), None)
    if twice is not None:
        raise UserError(f"{path}: prompt {twice!r} appears twice")
    return [_prompt(id, found[0]) for id, found in grouped.items()]


def read_result(path: Path) -> tuple[list[Item], dict[tuple[str, str], str]]:
    """The items of an official result (`question_details`) and the answers by (item, question)."""
    items: list[Item] = []
    answers: dict[tuple[str, str], str] = {}
    for id, questions in read_record(path, _Result)["question_details"].items():
        rows = list(questions.values())
        if not rows:
            raise UserError(f"{path}: question_details of {id!r} is empty")
        items.append(_item(id, rows, str(path)))
        for question, row in zip(items[-1].questions, rows, strict=True):
            said = next((row[key] for key in _ANSWERS if key in row), None)
            if said is None:
                raise UserError(
                    f"{path}, {id!r}, question {question.text!r}: has no answer ({' or '.join(_ANSWERS)})"
                )
            answers[id, question.id] = said
    return items, answers


def source_of(item: str) -> str:
    """Where an item's prompt comes from: `coco` of coco_301091."""
    return item.rpartition("_")[0] or item


def _prompt(id: str, row: dict[str, Any]) -> Item:
    return Item(id, row["caption"], source_of(id), source_of(id), ())


def _item(id: str, rows: list[dict[str, Any]], where: str) -> Item:
    questions = tuple(
        Question(
            id=str(number),
            text=row["question"],
            choices=tuple(dict.fromkeys(row["choices"])),  # a choice may be listed twice
            answer=row["answer"],
            parents=(),
            category=row["element_type"],
        )
        for number, row in enumerate(rows, start=1)
    )
    item = Item(id, rows[0]["caption"], source_of(id), source_of(id), questions)
    check_item(item, where)
    return item
