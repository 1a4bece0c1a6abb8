"""CSV files as others write them: a byte order mark, any line ends, columns in any order and more of them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selma.ground.errors import UserError


@dataclass(frozen=True)
class Row:
    """One row of a CSV file; `line` is the number of the line that it ends on, from 1."""

    line: int
    cells: dict[str, str]


def read_csv(path: Path, columns: Sequence[str]) -> list[Row]:
    """The rows of a CSV file, blank lines left out, with at least `columns`; other columns come along.

    Raises UserError, naming the file and what is wrong, for one that is missing, not UTF-8, without one of
    the columns, without rows, or with a row of another length than the header.
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
                        f"{path}, line {reader.line_num}: has {len(cells)} cells, the header {len(header)}"
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
