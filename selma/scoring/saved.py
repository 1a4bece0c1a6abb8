"""Answers and scores saved in files, by this pipeline or by others, to be scored without any model.

.jsonl   this pipeline's: data/answers/ {item, k, question, answer, ...}, data/preferences/ {item, k, judge, score}
any other name   CSV, as DSG's authors released their judges' answers: item_id, question_id, answer, ...
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from selma.ground.errors import UserError
from selma.ground.files import Row, lines, number, read_csv
from selma.ground.schema import Index, Text, check, record

MODEL = "t2i_model"
LARGEST = 1e9  # of a preference score


@dataclass(frozen=True)
class Saved:
    """One answer to one question about image `k` of an item; `line` is its line in the file."""

    item: str
    k: int
    question: str
    answer: str
    line: int


@record
class _Answer(TypedDict):
    """A row of data/answers; other people's files may lack what is not read."""

    item: Text
    k: Index
    question: Text
    answer: str | None


@record
class _Score(TypedDict):
    """A row of data/preferences."""

    item: Text
    k: NotRequired[Index]
    judge: NotRequired[Text]
    score: float


def read_answers(path: Path, *, model: str | None = None, questions_by: str | None = None) -> list[Saved]:
    """The answers in a file, each question's once.

    `model` picks the rows of one text-to-image model (column t2i_model), `questions_by` those to the questions
    of one generator (column qg_model, where there is one). Raises UserError for a file without answers, for rows of
    several models with none picked, for an unknown model, and for two answers to one question.
    """
    if Path(path).suffix == ".jsonl":
        if model is not None:
            raise UserError(f"{path}: holds the answers about one model; there is nothing to pick")
        found = [
            Saved(row["item"], row["k"], _id(row["question"]), row["answer"] or "", line)
            for line, row in _checked(path, _Answer)
        ]
    else:
        rows = _pick(read_csv(path, ("item_id", "question_id", "answer")), path, model)
        found = [_from_csv(row, path) for row in _by_generator(rows, path, questions_by)]
    if not found:
        raise UserError(f"{path}: holds no answers")
    return _once(found, path)


def read_scores(path: Path, *, judge: str | None = None) -> dict[tuple[str, int], float]:
    """Preference scores by (item, k): CSV {item_id, score}, or JSON Lines {item, k, judge, score}.

    Raises UserError for a file without scores, a score that is not a number, two scores of one image, and for the
    scores of several judges without `judge`.
    """
    if Path(path).suffix == ".jsonl":
        rows = _pick_json(path, "judge", judge)
        found = [(row["item"], row.get("k", 0), row["score"], line) for line, row in rows]
    elif judge is not None:
        raise UserError(f"{path}: a CSV file holds one judge's scores; --judge picks from JSON Lines")
    else:
        found = [
            (row.cells["item_id"].strip(), 0, number(path, row, "score"), row.line)
            for row in read_csv(path, ("item_id", "score"))
        ]
    scores: dict[tuple[str, int], float] = {}
    for item, k, score, line in found:
        if (item, k) in scores:
            raise UserError(f"{path}, line {line}: item {item!r}, image {k} already has a score")
        if abs(score) > LARGEST:  # sums of such are infinite
            raise UserError(f"{path}, line {line}: score is {score:g}; it must be within {LARGEST:g} of 0")
        scores[item, k] = score
    if not scores:
        raise UserError(f"{path}: holds no scores")
    return scores


def _pick(rows: Sequence[Row], path: Path, model: str | None) -> list[Row]:
    """The rows of one text-to-image model."""
    if MODEL not in rows[0].cells:
        if model is not None:
            raise UserError(f"{path}: has no column {MODEL} to pick {model!r} by")
        return list(rows)
    _check_choice(path, MODEL, sorted({row.cells[MODEL].strip() for row in rows}), model, "--t2i-model")
    return [row for row in rows if model is None or row.cells[MODEL].strip() == model]


def _pick_json(path: Path, key: str, wanted: str | None) -> list[tuple[int, _Score]]:
    """(line, row) of a JSON Lines file of scores, where `key` is `wanted` if anything is."""
    rows = list(_checked(path, _Score))
    found = sorted({row[key] for _, row in rows if key in row})
    _check_choice(path, key, found, wanted, f"--{key}")
    return [(line, row) for line, row in rows if wanted is None or row.get(key) == wanted]


def _checked(path: Path, schema: Any) -> Iterator[tuple[int, Any]]:
    """(line, row) of a JSON Lines file, each row checked against a schema."""
    for line, row in lines(path):
        yield line, check(schema, row, f"{path}, line {line}", "the row")


def _check_choice(path: Path, column: str, found: Sequence[str], wanted: str | None, option: str) -> None:
    if wanted is None and len(found) > 1:
        raise UserError(f"{path}: {column} holds {', '.join(found)}; pick one with {option}")
    if wanted is not None and wanted not in found:
        raise UserError(f"{path}: {column} holds no {wanted!r}; allowed: {', '.join(found) or 'none'}")


def _by_generator(rows: list[Row], path: Path, wanted: str | None) -> list[Row]:
    """The rows to the questions of generator `wanted`: others number theirs the same way, but ask different things."""
    if wanted is None or "qg_model" not in rows[0].cells:
        return rows
    found = [row for row in rows if row.cells["qg_model"].strip() == wanted]
    others = sorted({row.cells["qg_model"].strip() for row in rows} - {wanted})
    if not found:
        raise UserError(f"{path}: answers the questions of {', '.join(others)} (qg_model), not of {wanted}")
    if others:
        print(f"warning: {path}: left out the answers to questions of {', '.join(others)}", file=sys.stderr)
    return found


def _from_csv(row: Row, path: Path) -> Saved:
    item, question = row.cells["item_id"].strip(), row.cells["question_id"].strip()
    if not item or not question:
        raise UserError(
            f"{path}, line {row.line}: item_id and question_id are {item!r} and {question!r}; both are needed"
        )
    return Saved(item, 0, _id(question), row.cells["answer"], row.line)


def _id(question: str) -> str:
    """A question's number as the benchmarks write it: spreadsheets make 1 into 1.0, others 01."""
    head, dot, tail = question.partition(".")
    if head.isdecimal() and len(head) < 10 and (not dot or set(tail) <= {"0"}):
        return str(int(head))
    return question


def _once(answers: Sequence[Saved], path: Path) -> list[Saved]:
    seen: dict[tuple[str, int, str], Saved] = {}
    again = 0
    for answer in answers:
        before = seen.setdefault((answer.item, answer.k, answer.question), answer)
        if before.answer != answer.answer:
            raise UserError(
                f"{path}, line {answer.line}: item {answer.item!r}, question {answer.question!r} is answered "
                f"{answer.answer!r}, in line {before.line} {before.answer!r}; one answer is allowed"
            )
        again += before is not answer
    if again:
        print(f"warning: {path}: {again} answers appear twice; each counts once", file=sys.stderr)
    return list(seen.values())
