"""GenEval 2's answers saved in files, as sums that Soft-TIFA scores (soft_tifa.py).

.jsonl   a judge's answers, {item, k, question, ...}: this pipeline's own have `answer` and `p_yes`; others may have
         `first`, {token, p} of the first token of each spelling of the expected answer, for both ways to sum
any other name   the official script's output: a JSON list by prompt of the scores of its questions, summed already
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from selma.ground.errors import UserError
from selma.ground.files import read_json, read_rows
from selma.ground.items import Question
from selma.ground.schema import Fraction, Index, Text, check, record
from selma.judging.choices import match
from selma.scoring.soft_tifa import Masses, mass
from selma.variants.benchmarks import geneval2
from selma.variants.benchmarks.geneval2 import Prompt

_Sum = Annotated[float, Field(ge=0, le=6)]  # six spellings of one token, each counted


@record
class _First(TypedDict):
    token: int
    p: Fraction


@record
class _Row(TypedDict):
    item: Text
    k: Index
    question: Text
    answer: NotRequired[str]
    p_yes: NotRequired[Fraction | None]
    first: NotRequired[Annotated[list[_First], Field(min_length=1)]]


def read_sums(path: Path, prompts: Sequence[Prompt]) -> dict[str, Masses]:
    """The sums in a file, by how they count: "saved" as the official output has them; of answers with `first`
    "deduplicated" and "literal"; of this pipeline's own "judged": P(yes) against no, and 1 or 0 for a number.

    Raises UserError for a question without an answer or with two, one that is not in the data, rows with and without
    `first` in one file, and official lists that are not as many or as long as the data's.
    """
    if Path(path).suffix != ".jsonl":
        return {"saved": _score_lists(path, prompts)}
    rows = _rows(path, prompts)
    if "first" not in next(iter(rows.values())):
        return {"judged": _masses(path, prompts, rows, _judged)}
    return {
        "deduplicated": _masses(path, prompts, rows, lambda row, _: mass(_pairs(row))),
        "literal": _masses(path, prompts, rows, lambda row, _: mass(_pairs(row), dedupe=False)),
    }


def _score_lists(path: Path, prompts: Sequence[Prompt]) -> Masses:
    lists = check(list[list[_Sum]], read_json(path), str(path))
    if len(lists) != len(prompts):
        raise UserError(f"{path}: holds scores of {len(lists)} prompts; the data has {len(prompts)}")
    for number, (scores, prompt) in enumerate(zip(lists, prompts, strict=True), start=1):
        if len(scores) != len(prompt.questions):
            raise UserError(
                f"{path}, prompt {number} ({prompt.text[:60]!r}): has {len(scores)} scores; "
                f"the data has {len(prompt.questions)} questions"
            )
    return [[scores] for scores in lists]


def _rows(path: Path, prompts: Sequence[Prompt]) -> dict[tuple[str, int, str], _Row]:
    asked = {(item.id, q.id) for item in geneval2.items(prompts) for q in item.questions}
    found: dict[tuple[str, int, str], _Row] = {}
    for number, row in enumerate(read_rows(path, _Row, once=("item", "k", "question")), start=1):
        here = f"{path}, answer {number}: item {row['item']!r}, question {row['question']!r}"
        if (row["item"], row["question"]) not in asked:
            raise UserError(f"{here} is not in the data")
        if "first" not in row and "answer" not in row:
            raise UserError(f"{here} has neither `first` nor `answer`; one is needed")
        found[row["item"], row["k"], row["question"]] = row
    if not found:
        raise UserError(f"{path}: holds no answers")
    if len({"first" in row for row in found.values()}) > 1:
        raise UserError(f"{path}: some rows have `first`, others not; all must have it, or none")
    return found


def _masses(
    path: Path,
    prompts: Sequence[Prompt],
    rows: dict[tuple[str, int, str], _Row],
    count: Callable[[_Row, Question], float],
) -> Masses:
    """[prompt][image][question]; the images are all values of k in the file."""
    images = sorted({k for _, k, _ in rows})

    def of(item: str, k: int, question: Question) -> float:
        if (row := rows.get((item, k, question.id))) is None:
            raise UserError(
                f"{path}: item {item!r}, image {k}, question {question.id!r} has no answer; all need one"
            )
        return count(row, question)

    return [[[of(item.id, k, q) for q in item.questions] for k in images] for item in geneval2.items(prompts)]


def _pairs(row: _Row) -> list[tuple[int, float]]:
    return [(first["token"], first["p"]) for first in row["first"]]


def _judged(row: _Row, question: Question) -> float:
    p_yes = row.get("p_yes")
    if p_yes is None:
        return float(match(row["answer"], question.choices) == question.answer)
    return p_yes if question.answer == "yes" else 1 - p_yes
