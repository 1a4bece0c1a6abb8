"""DPG-Bench (ELLA, arXiv 2403.05135): 1,065 dense prompts and the yes/no questions of their graphs.

Its CSV has DSG's columns and a `tuple`, "attribute - color (barn, red)", by which the official script names the
categories of a question. Two things differ from DSG, as compute_dpg_bench.py takes an item's questions in turn:

- A question voided by its parent voids, in turn, what depends on it and stands below it. `items` lists as parents all
  that can void a question so, by which the scores of this repository are the official ones.
- Every dependency must be a list of ids, or the script ends.

Written from that script and its column names; not tried on the real file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from selma.ground.errors import UserError
from selma.ground.items import Item
from selma.ground.propositions import Proposition, item_of, read_propositions, unique

COLUMNS = ("item_id", "text", "proposition_id", "dependency", "tuple", "question_natural_language")

NEEDS = ("url",)
TAKES = ("sha256",)
FILES = {"annotations": "annotations.csv"}  # kept next to the splits

_ID = re.compile(r"\s*[0-9]{1,9}\s*")


def read(files: Mapping[str, Path]) -> list[Item]:
    """The items, all in the test split; raises UserError for a file that is not what ELLA's authors released."""
    return items(read_annotations(files["annotations"]))


def read_annotations(path: Path) -> dict[str, list[Proposition]]:
    """The propositions of every item, in the file's order.

    Raises UserError, naming the line, as DSG's reader does, and for a dependency that is not a list of ids.
    """
    found = read_propositions(path, COLUMNS, _kind)
    for propositions in found.values():
        for p in propositions:
            if not all(_ID.fullmatch(part) for part in p.dependency.split(",")):
                raise UserError(
                    f"{path}, item {p.item!r}, proposition {p.id}: dependency is {p.dependency[:40]!r}; "
                    'it must be ids with commas between them ("1,2"), or 0 for none'
                )
    return found


def items(annotations: Mapping[str, Sequence[Proposition]]) -> list[Item]:
    """The benchmark as its authors score it: parents are all questions whose "no" makes this one 0."""
    return [item_of(name, found, voiding(found), source_of(name)) for name, found in annotations.items()]


def voiding(propositions: Sequence[Proposition]) -> dict[str, list[str]]:
    """By proposition, those that void it: its parents, and what voids a parent that stands above it in the file."""
    found: dict[str, list[str]] = {}
    for p in propositions:
        above: dict[str, None] = {}
        for parent in unique(int(part) for part in p.dependency.split(",")):
            above |= dict.fromkeys([parent, *found.get(parent, ())])
        found[p.id] = list(above)
    return found


def source_of(item: str) -> str:
    """The set of prompts that an item is from: `partiprompts` of partiprompts97, `dpg` of a bare number."""
    return item.rstrip("0123456789_-") or "dpg"


def _kind(cells: Mapping[str, str]) -> tuple[str, str]:
    """("attribute", "attribute - color") of the tuple "attribute - color (barn, red)": levels 1 and 2."""
    category = cells["tuple"].partition("(")[0].strip() or "other"
    return category.partition("-")[0].strip() or category, category
