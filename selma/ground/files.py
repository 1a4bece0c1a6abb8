"""Files as the stages exchange them: atomic writes, JSON, JSON lines and CSV, and their hashes.

Every writer goes through `atomic`, so a file is either complete or absent. Reading something missing,
truncated or malformed raises a UserError naming the file and, where there is one, the line.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from selma.ground.errors import UserError, first_line
from selma.ground.schema import check

HASH = "user.selma.sha256"  # an extended attribute of files
TEMPORARY = ".tmp-"  # how the names begin of what is being written

# Hashes ----------------------------------------------------------------------------------------


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(path: Path) -> str:
    """Hex sha256 over the relative paths and contents of every file under `path`, or of `path` if a file.

    Temporary files of `atomic` and Python's caches are left out. Raises UserError if `path` does not exist.
    """
    path = Path(path)
    if path.is_file():
        return sha256_file(path)
    if not path.is_dir():
        raise UserError(f"{path}: file or folder not found")
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_file() and not file.name.startswith(TEMPORARY) and "__pycache__" not in file.parts:
            digest.update(
                f"{file.relative_to(path).as_posix()}\0{sha256_file(file)}\n".encode(
                    "utf-8", "surrogateescape"
                )
            )
    return digest.hexdigest()


# Writing ---------------------------------------------------------------------------------------


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; on success it is flushed to disk and renamed to `path`.

    On an error the temporary file is removed and `path` is unchanged. Parent folders are created. A target has one
    temporary name, so that the next write replaces what a killed one left. A file of a work folder has its hash beside
    it where the file system can, by which damage is found out (selma/runtime/sound.py).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_of(path)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        if ".work" in path.absolute().parts and hasattr(os, "setxattr"):
            with suppress(OSError):
                os.setxattr(temporary, HASH, sha256_file(temporary).encode())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def hash_beside(path: Path) -> str | None:
    """The sha256 that `atomic` left beside a file's bytes; None where it or the file system left none."""
    with suppress(OSError, AttributeError):
        return os.getxattr(path, HASH).decode()
    return None


def temporary_of(path: Path) -> Path:
    """Where `path` is written before it is renamed; the suffix stays last, as writers such as PIL choose by it."""
    return path.with_name(f"{TEMPORARY}{path.name}")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with `\\n` line ends on every system."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, obj: Any) -> None:
    """Write indented JSON; NaN and infinity, which JSON does not have, raise ValueError."""
    write_text(path, json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]], fields: Sequence[str]) -> None:
    """Write a header and the `fields` of each row; a row with other fields raises ValueError."""
    with atomic(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(fields), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


# Reading ---------------------------------------------------------------------------------------


def read_json(path: Path) -> Any:
    """The contents of a JSON file; raises UserError, naming the line, if it is missing or malformed."""
    return _parse(read_text(path), path)


def read_record(path: Path, schema: Any) -> Any:
    """The same, checked against a schema (schema.py): a record of metrics, say."""
    return check(schema, read_json(path), str(path))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """One dict per non-blank line; raises UserError, naming the line, for one that is malformed or not an object."""
    return [row for _, row in lines(path)]


def read_rows(path: Path, schema: Any, *, once: Sequence[str] = ()) -> list[Any]:
    """The rows of a JSON Lines file, each checked once against a schema; no two may agree in all fields of `once`.

    Raises UserError naming the file, the line and what is allowed.
    """
    return [row for _, row in numbered_rows(path, schema, once=once)]


def numbered_rows(path: Path, schema: Any, *, once: Sequence[str] = ()) -> list[tuple[int, Any]]:
    """What `read_rows` reads, each row with the number of its line, from 1."""
    rows: list[tuple[int, Any]] = []
    seen: dict[tuple[Any, ...], int] = {}
    for number, row in lines(path):
        rows.append((number, check(schema, row, f"{path}, line {number}", "the row")))
        if once and (first := seen.setdefault(tuple(row.get(name) for name in once), number)) != number:
            same = ", ".join(f"{name} {row.get(name)!r}" for name in once)
            raise UserError(
                f"{path}, line {number}: {same} is in line {first} already; it must be there once"
            )
    return rows


def read_text(path: Path, newline: str | None = None) -> str:
    """The text of a UTF-8 file, with or without a byte order mark; raises UserError if it cannot be read.

    `newline` as `open` takes it: "" leaves line ends as they are.
    """
    try:
        with open(path, encoding="utf-8-sig", newline=newline) as file:
            return file.read()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or first_line(error)})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text") from None
    except ValueError as error:  # a null byte in the name
        raise UserError(f"{path}: cannot be read ({first_line(error)})") from None


def lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, row) of each non-blank line of a JSON Lines file; raises UserError as `read_jsonl` does."""
    # Not splitlines: it also splits at U+2028 and friends, which JSON strings may hold.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        row = _parse(line, path, number)
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: is not a JSON object")
        yield number, row


def _parse(text: str, path: Path, line: int | None = None) -> Any:
    """JSON as its standard has it: no NaN, no number beyond float, half an emoji or key twice, and 200 levels at most.

    `line` is the one that `text` is of the file, None if it is the whole.
    """
    try:
        from_json(text, allow_inf_nan=False)
        return json.loads(text, object_pairs_hook=_unique, parse_float=_finite)
    except ValueError as error:
        problem, at, place = first_line(error).rpartition(" at line ")
        number = line or (int(place.partition(" ")[0]) if at else None)
        where = f"{path}, line {number}" if number else f"{path}"
        raise UserError(f"{where}: is not valid JSON ({problem or place})") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)[:40]!r} twice")
    return found


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"number {text[:40]} out of range")
    return value


@dataclass(frozen=True)
class Row:
    """One row of a CSV file; `line` is the number of the line that it begins on, from 1."""

    line: int
    cells: dict[str, str]


def read_csv(path: Path, columns: Sequence[str]) -> list[Row]:
    """The rows of a CSV file, blank lines left out, with at least `columns`; other columns are kept.

    Raises UserError, naming the file and what is wrong, for one that is missing, not UTF-8, without one of
    the columns, without rows, or with a row of a different length than the header.
    """
    reader = csv.reader(io.StringIO(read_text(path, newline=""), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_header(path, header, columns)
        rows, line = [], reader.line_num + 1
        for cells in reader:
            begins, line = line, reader.line_num + 1  # a cell in quotes may go over several lines
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise UserError(
                    f"{path}, line {begins}: has {len(cells)} cells, the header has {len(header)}"
                )
            rows.append(Row(begins, dict(zip(header, cells, strict=True))))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: is not valid CSV ({error})") from None
    if not rows:
        raise UserError(f"{path}: holds no rows; a header and at least one row are needed")
    return rows


def number(path: Path, row: Row, column: str) -> float:
    """A cell as a finite number; raises UserError, naming file and line, otherwise."""
    with suppress(ValueError):
        if math.isfinite(value := float(row.cells[column])) and "_" not in row.cells[column]:
            return value
    raise UserError(
        f"{path}, line {row.line}: {column} is {row.cells[column][:40]!r}; it must be a finite number"
    )


def _check_header(path: Path, header: list[str], columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in header]
    if missing:
        raise UserError(
            f"{path}: has no column {', '.join(missing)}; needed: {', '.join(columns)}, "
            f"found: {', '.join(header) or 'none'}"
        )
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise UserError(f"{path}: has the column {', '.join(twice)} twice")
