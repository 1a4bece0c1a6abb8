"""Files as the stages exchange them: atomic writes, JSON, JSON lines and CSV, and their hashes.

Every writer goes through `atomic`, so a file is either complete or absent. Reading something missing,
truncated or malformed raises a UserError naming the file.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selma.ground.errors import UserError

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
        if file.is_file() and not _is_temporary(file) and "__pycache__" not in file.parts:
            digest.update(f"{file.relative_to(path).as_posix()}\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()


# Writing ---------------------------------------------------------------------------------------


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; on success it is flushed to disk and renamed to `path`.

    On an error the temporary file is removed and `path` is unchanged. Parent folders are created.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: writers such as PIL choose the format by it.
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _is_temporary(file: Path) -> bool:
    return file.name.startswith(".tmp-")


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
    try:
        return json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: is not valid JSON ({error.msg})") from None


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """One dict per non-blank line; raises UserError, naming the line, for one that is malformed or not an object."""
    rows = []
    # Not splitlines: it also splits at U+2028 and friends, which JSON strings may hold.
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number}: is not valid JSON ({error.msg})") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: is not a JSON object")
        rows.append(row)
    return rows


def _read_text(path: Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text") from None


@dataclass(frozen=True)
class Row:
    """One row of a CSV file; `line` is the number of the line that it ends on, from 1."""

    line: int
    cells: dict[str, str]


def read_csv(path: Path, columns: Sequence[str]) -> list[Row]:
    """The rows of a CSV file, blank lines left out, with at least `columns`; other columns are kept.

    Raises UserError, naming the file and what is wrong, for one that is missing, not UTF-8, without one of
    the columns, without rows, or with a row of a different length than the header.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            _check_header(path, header, columns)
            rows = []
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) != len(header):
                    raise UserError(
                        f"{path}, line {reader.line_num}: has {len(cells)} cells, the header has {len(header)}"
                    )
                rows.append(Row(reader.line_num, dict(zip(header, cells, strict=True))))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text") from None
    except csv.Error as error:
        raise UserError(f"{path}: is not valid CSV ({error})") from None
    if not rows:
        raise UserError(f"{path}: holds no rows; a header and at least one row are needed")
    return rows


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
