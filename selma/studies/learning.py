"""What policies leave besides weights: their curves; and rows of the table that a page's run did not compute."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selma.ground.files import read_text
from selma.studies.rows import Table
from selma.studies.sources import Source, say

Curve = list[dict[str, float]]  # by round: images, seconds and what metrics/policy/<name>.csv holds
Curves = Mapping[str, dict[int, Curve]]  # by row and seed
SAME = 0.002  # of a score: what another processor's rounding may change


def policy_curve(source: Source, name: str, seconds: float) -> Curve:
    """The curve of a policy in a run. `seconds` are the stage's, shared out by images: rounds take equally long."""
    rows = list(csv.DictReader(io.StringIO(source.text(f"metrics/policy/{name}.csv"))))
    found = [{key: float(value) for key, value in row.items() if value} for row in rows]
    whole = max(row["images"] for row in found) or 1
    return [row | {"seconds": seconds * row["images"] / whole} for row in found]


def beside(
    table: Table, file: Path, lines: Sequence[Mapping[str, Any]], page: str | None
) -> list[dict[str, Any]]:
    """What a table's file holds after a run of the rows of `page`: their new lines, and those of other pages' rows as
    the file has them, in the table's order; None for a run of all rows.

    Says so where the base or SELMA has another score than in the file: gains of other pages are over that one.
    """
    new, kept = [dict(line) for line in lines], []
    if page is not None and file.is_file():
        old = [row for row in csv.DictReader(io.StringIO(read_text(file))) if row["row"] in table.rows]
        kept = [row for row in old if table.rows[row["row"]].page != page]
        for over in (table.base, table.selma):
            before, now = (
                next((float(row["score"]) for row in rows if row["row"] == over), None)
                for rows in (kept, new)
            )
            if before is not None and now is not None and abs(before - now) > SAME:
                say(
                    f"warning: {file}: rows of other pages are gains over a {over} of {before:g}, here {now:g}"
                )
        held = {row["row"] for row in kept}
        new = [line for line in new if line["row"] not in held]
    order = list(table.rows)
    return sorted([*new, *kept], key=lambda row: order.index(row["row"]))
