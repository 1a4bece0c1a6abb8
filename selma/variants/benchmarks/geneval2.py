"""GenEval 2 (arXiv 2512.16853): 800 prompts, 100 for each number of atoms from 3 to 10, and questions about each atom.

Its data is a JSON object per line: the prompt, its `atom_count`, its questions with their answers (`vqa_list`) and the
skill that each is about. A question "How many ...?" has a number as a word for an answer, any other has Yes. The data
is CC BY-NC 4.0: it is read by URL and nothing of it is part of this repository.

The official judge is Qwen3-VL-8B-Instruct, asked "{question} Answer in one word."; Soft-TIFA scores the probability of
its first token (scoring/soft_tifa.py). Here a question about a number offers the words from zero to ten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from selma.ground.errors import UserError
from selma.ground.files import lines
from selma.ground.items import YES_NO, Item, Question
from selma.ground.schema import Count, Text, check, record

NEEDS = ("url",)
TAKES = ("sha256",)
FILES = {"data": "data.jsonl"}  # kept next to the splits

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_Pair = Annotated[list[Text], Field(min_length=2, max_length=2)]


@record
class _Row(TypedDict):
    prompt: Text
    atom_count: Count
    vqa_list: Annotated[list[_Pair], Field(min_length=1)]
    skills: list[Text]


@dataclass(frozen=True)
class Prompt:
    """A line of the data; `questions` are (question, answer, skill)."""

    text: str
    atoms: int
    questions: tuple[tuple[str, str, str], ...]


def read(files: Mapping[str, Path]) -> list[Item]:
    """The items, all in the test split; the skill is the number of atoms ("atoms-3"), a question's category its skill.

    Raises UserError, naming the line, for one that is not such data.
    """
    return items(read_data(files["data"]))


def read_data(path: Path) -> list[Prompt]:
    """The file's prompts in their order; raises UserError, naming the line, for one that is not such data."""
    found = []
    for line, row in lines(path):
        where = f"{path}, line {line}"
        check(_Row, row, where, "the line")
        if len(row["skills"]) != len(row["vqa_list"]):
            raise UserError(f"{where}: has {len(row['vqa_list'])} questions and {len(row['skills'])} skills")
        for question, answer in row["vqa_list"]:
            allowed = NUMBERS if is_count(question) else YES_NO
            if answer.casefold() not in allowed:
                raise UserError(
                    f"{where}: {question[:80]!r} has the answer {answer[:40]!r}; allowed: {', '.join(allowed)}"
                )
        questions = tuple((*pair, skill) for pair, skill in zip(row["vqa_list"], row["skills"], strict=True))
        found.append(Prompt(row["prompt"], row["atom_count"], questions))
    if not found:
        raise UserError(f"{path}: holds no prompts; a line for each is needed")
    return found


def items(prompts: Sequence[Prompt]) -> list[Item]:
    """The prompts as items, numbered in their order."""
    return [
        Item(
            id=f"geneval2-{number:05d}",
            prompt=prompt.text,
            skill=f"atoms-{prompt.atoms}",
            source="geneval2",
            questions=tuple(
                Question(str(i), text, NUMBERS if is_count(text) else YES_NO, answer.casefold(), (), category)
                for i, (text, answer, category) in enumerate(prompt.questions, start=1)
            ),
        )
        for number, prompt in enumerate(prompts)
    ]


def is_count(question: str) -> bool:
    """Whether a question is about a number, told as the official script tells it."""
    return question.startswith("How many")
