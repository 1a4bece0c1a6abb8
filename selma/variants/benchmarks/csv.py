"""Questions of one's own in a plain CSV file: a row per question, the rows of one prompt share its text.

    prompt,question,answer,category,parents
    two red circles,Is there a circle?,yes,shape,
    two red circles,Are the circles red?,yes,colour,1
    two red circles,Is there a square?,no,shape,

`answer` is the right one, yes or no; with a column `choices` it may be any of those that the row lists ("red; blue").
`parents` are the numbers of the questions of the same prompt that must be answered rightly before this one counts ("1",
"1; 2"), as DSG's dependencies are; questions are numbered from 1 in each prompt. Commas, semicolons and tabs between
cells are read, as a spreadsheet writes them.

An item's id is a hash of its prompt: a row more or less changes no other prompt's noise.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from hashlib import sha256
from pathlib import Path

from selma.ground.errors import UserError, first_line
from selma.ground.items import YES_NO, Item, Question

NEEDS = ("url",)
TAKES = ("sha256",)
FILES = {"questions": "questions.csv"}  # kept next to the splits

COLUMNS, OPTIONAL = ("prompt", "question", "answer"), ("category", "parents", "choices")
CATEGORY = "question"  # where the file names none
_SEPARATORS = (",", ";", "\t")
_LIST = re.compile(r"[;,]")


@dataclass(frozen=True)
class _Row:
    """A question as its row says it; `where` opens its errors."""

    where: str
    cells: Mapping[str, str]


def read(files: Mapping[str, Path]) -> list[Item]:
    """The items in the order of their first rows, all in the test split.

    Raises UserError, naming file and line, for a file that is not such a table, an unknown or missing column, an empty
    cell, an answer that is not allowed, a question that its prompt has twice, and parents that the prompt lacks or that
    wait for each other.
    """
    rows: dict[str, list[_Row]] = {}
    for row in _rows(files["questions"]):
        rows.setdefault(row.cells["prompt"], []).append(row)
    return [_item(prompt, found) for prompt, found in rows.items()]


# Rows ------------------------------------------------------------------------------------------


_QUOTED = (
    '; a cell that holds a separator, a quote or a line end stands in double quotes: "a red, round ball"'
)


def _rows(path: Path) -> Iterator[_Row]:
    """The table's rows, blank ones left out; cells without the spaces around them."""
    text = _text(path)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_separator(text), strict=True)
    count, start = 0, 1
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_header(header, f"{path}, line 1")
        # A cell may hold line ends, so a row is named by the line that it begins on.
        start = reader.line_num + 1
        for cells in reader:
            where, start = f"{path}, line {start}", reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise UserError(f"{where}: has {len(cells)} cells, the header has {len(header)}{_QUOTED}")
            count += 1
            yield _row(where, dict(zip(header, (cell.strip() for cell in cells), strict=True)))
    except csv.Error as error:
        raise UserError(f"{path}, line {start}: is not valid CSV ({error}){_QUOTED}") from None
    if not count:
        raise UserError(f"{path}: holds no questions; a header and at least one row are needed")


def _text(path: Path) -> str:
    """The file's text, without a byte order mark; line ends as they are."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or first_line(error)})") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}: is not UTF-8 text; save the table as `CSV UTF-8` (.csv, no workbook)"
        ) from None
    if "\0" in text:
        raise UserError(
            f"{path}, line {text[: text.index(chr(0))].count(chr(10)) + 1}: holds a null character"
        )
    return text


def _separator(text: str) -> str:
    """What stands between the header's cells; a spreadsheet writes semicolons where commas mark decimals."""
    header = text.partition("\n")[0]
    return max(_SEPARATORS, key=header.count)


def _check_header(header: Sequence[str], where: str) -> None:
    allowed = f"needed: {', '.join(COLUMNS)}; allowed, too: {', '.join(OPTIONAL)}"
    for name in header:
        if name not in (*COLUMNS, *OPTIONAL):
            raise UserError(f"{where}: unknown column {name[:40]!r}; {allowed}")
        if header.count(name) > 1:
            raise UserError(f"{where}: has the column {name} twice")
    if missing := [name for name in COLUMNS if name not in header]:
        raise UserError(f"{where}: has no column {', '.join(missing)}; {allowed}")


def _row(where: str, cells: Mapping[str, str]) -> _Row:
    for name in COLUMNS:
        if not cells[name]:
            raise UserError(f"{where}: {name} is empty; every row needs {', '.join(COLUMNS)}")
    return _Row(where, cells)


# Items -----------------------------------------------------------------------------------------


def _item(prompt: str, rows: Sequence[_Row]) -> Item:
    questions = tuple(_question(str(i), row, len(rows)) for i, row in enumerate(rows, start=1))
    _check_once(questions, rows)
    _check_order(questions, rows)
    id = f"csv-{sha256(prompt.encode()).hexdigest()[:12]}"
    return Item(id=id, prompt=prompt, skill="csv", source="csv", questions=questions)


def _question(number: str, row: _Row, count: int) -> Question:
    choices = _choices(row)
    said = row.cells["answer"]
    answer = next((choice for choice in choices if choice.casefold() == said.casefold()), None)
    if answer is None:
        other = "" if row.cells.get("choices") else "; a column `choices` may list other answers (red; blue)"
        raise UserError(
            f"{row.where}: answer is {said[:40]!r}; it must be one of: {', '.join(choices)}{other}"
        )
    return Question(
        id=number,
        text=row.cells["question"],
        choices=choices,
        answer=answer,
        parents=_parents(row, count),
        category=row.cells.get("category") or CATEGORY,
    )


def _choices(row: _Row) -> tuple[str, ...]:
    if not row.cells.get("choices"):
        return YES_NO
    found = [choice.strip() for choice in row.cells["choices"].split(";")]
    if len({choice.casefold() for choice in found}) < len(found) or len(found) < 2 or not all(found):
        raise UserError(
            f"{row.where}: choices is {row.cells['choices'][:80]!r}; "
            "it must list two different answers or more, with semicolons between them: red; blue"
        )
    return tuple(found)


def _parents(row: _Row, count: int) -> tuple[str, ...]:
    """The numbers in the cell, each once, as they stand there."""
    cell = row.cells.get("parents", "")
    found = [part.strip() for part in _LIST.split(cell)] if cell else []
    for part in found:
        if not re.fullmatch(r"[1-9][0-9]{0,5}", part) or int(part) > count:
            raise UserError(
                f"{row.where}: parents is {cell[:40]!r}; it must be numbers of this prompt's questions, 1 to {count}, "
                'with semicolons between them ("1; 2"), or empty'
            )
    return tuple(dict.fromkeys(found))


def _check_once(questions: Sequence[Question], rows: Sequence[_Row]) -> None:
    seen: dict[str, str] = {}
    for question, row in zip(questions, rows, strict=True):
        first = seen.setdefault(" ".join(question.text.casefold().split()), row.where)
        if first != row.where:
            raise UserError(
                f"{row.where}: question {question.text[:60]!r} is in line {first.rpartition(' ')[2]} already; "
                "a prompt asks each question once"
            )


def _check_order(questions: Sequence[Question], rows: Sequence[_Row]) -> None:
    """Nothing would ever void a circle's questions as meant, so it is a slip."""
    try:
        TopologicalSorter({question.id: question.parents for question in questions}).prepare()
    except CycleError as error:
        circle = error.args[1][::-1]  # each before its parent
        where = rows[int(circle[0]) - 1].where
        raise UserError(
            f"{where}: parents go in a circle ({' needs '.join(circle)}); a question must not wait for itself"
        ) from None
