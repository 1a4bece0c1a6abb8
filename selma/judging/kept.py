"""What a judge said, on disk as it comes: a run that is stopped and started again asks nothing twice."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def tokens_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """`prompt_tokens` and `completion_tokens` of rows with `tokens`, (read, written); {} unless all have some."""
    if not rows or not all("tokens" in row for row in rows):
        return {}
    read, written = (sum(row["tokens"][i] for row in rows) for i in (0, 1))
    return {"prompt_tokens": read, "completion_tokens": written}


class Kept:
    """Rows by their `fields`: kept[item, k, question]. A line of the file is a JSON list of rows that came together.

    A line that a killed run left unfinished counts as absent, all of it: what was judged as a group is judged again as
    that group (groups.py).
    """

    def __init__(self, path: Path, fields: Sequence[str]) -> None:
        """Reads the file, if there is one."""
        self._path, self._fields = Path(path), tuple(fields)
        self._rows: dict[tuple[Any, ...], Row] = {}
        if self._path.exists():
            for line in self._path.read_bytes().split(b"\n"):
                self._rows |= {self._key(row): row for row in self._whole(line)}

    def __contains__(self, key: tuple[Any, ...]) -> bool:
        return key in self._rows

    def __getitem__(self, key: tuple[Any, ...]) -> Row:
        return self._rows[key]

    def keep(self, came: Iterable[Sequence[Row]]) -> Iterator[Row]:
        """Each row, after its group is in the file."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "ab") as file:
            if file.tell():
                file.write(b"\n")  # ends a line that was left unfinished
            for rows in came:
                file.write(json.dumps(rows, ensure_ascii=False, allow_nan=False).encode() + b"\n")
                file.flush()
                self._rows |= {self._key(row): row for row in rows}
                yield from rows

    def _key(self, row: Row) -> tuple[Any, ...]:
        return tuple(row[name] for name in self._fields)

    def _whole(self, line: bytes) -> list[Row]:
        """The rows of a line; none of one that was left unfinished."""
        try:
            rows = json.loads(line)
        except ValueError:
            return []
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            return []
        return rows if all(set(self._fields) <= row.keys() for row in rows) else []
