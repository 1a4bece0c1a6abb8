"""The rows of the comparison table, as ablations.yaml states them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from selma.ground.errors import UserError
from selma.ground.schema import Count, Seed, build, one_of, section
from selma.runtime import variants
from selma.runtime.params import Few, Merge, NonNegative
from selma.runtime.schema import ROW, ROW_WORDS, Name, RowName, load_yaml

FILE = Path("ablations.yaml")
EXAMINED, BEST = "examined", "best"  # the guidance of params.yaml, and each model's own best on dev
POINTS = (EXAMINED, BEST)


def _rising(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if list(values) != sorted(set(values)):
        raise ValueError("it must rise, each number once")
    return values


Scales = Annotated[tuple[NonNegative, ...], Field(min_length=1), AfterValidator(_rising)]
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1), AfterValidator(_rising)]


@section
class Claim:
    """What a paper finds of a row: that it is `better` or `worse` than the row `over`, in its own figures."""

    over: RowName
    finds: Annotated[str, one_of(("better", "worse"))]
    says: str


@section
class Row:
    """One row: an expert, or a merge, or neither (the base); from which runs; drawn by which guidance.

    `set` is a set of experiments.yaml whose runs, one for each seed, make the weights; `seeds`, some of the table's,
    are for a row that only looks around. `paper` is what the papers measured, `claim` what they conclude.
    """

    desc: str
    set: Name = "upstream"
    seeds: Seeds | None = None
    expert: RowName | None = None
    merge: Merge | None = None
    guidance: Annotated[str, one_of(variants.names("guidance"))] = "cfg"
    options: dict[str, Any] = Field(default_factory=dict)
    paper: str = ""
    claim: Claim | None = None


@section
class Table:
    """All of ablations.yaml.

    Models are examined on the test split of `benchmark`, `images` of each prompt and seed; each model's own guidance is
    the one of `scales` that scores best on its dev split. `base` and `selma` are the rows that gains are over;
    `reading` is what people made of the numbers.
    """

    benchmark: Name
    images: Few
    scales: Scales
    seeds: Seeds
    base: RowName
    selma: RowName
    pictures: Count
    rows: Annotated[dict[RowName, Row], Field(min_length=1)]
    reading: str = ""


def load_table(path: Path = FILE) -> Table:
    """The table that a file states; raises UserError, one line, for one that cannot be."""
    table = build(Table, load_yaml(path), where=str(path))
    for name in ("base", "selma"):
        if getattr(table, name) not in table.rows:
            raise UserError(f"{path}: {name} is {getattr(table, name)}; allowed: {', '.join(table.rows)}")
    for name, row in table.rows.items():
        _check_row(f"{path}, rows.{name}", row, table)
    return table


def _check_row(where: str, row: Row, table: Table) -> None:
    if strange := sorted(set(row.seeds or ()) - set(table.seeds)):
        raise UserError(f"{where}.seeds holds {strange[0]}; allowed: {', '.join(map(str, table.seeds))}")
    if row.claim is not None and row.seeds is not None:
        raise UserError(
            f"{where}: has a claim, which all of the table's seeds must carry; leave out its seeds"
        )
    if row.expert is not None and row.merge is not None:
        raise UserError(f"{where}: has an expert and a merge; allowed: one of them, or neither for the base")
    if row.merge is not None:
        variants.options("operators", row.merge.operator, row.merge.options, f"{where}.merge.options")
    variants.options("guidance", row.guidance, row.options, f"{where}.options")
    if row.claim is not None and row.claim.over not in table.rows:
        raise UserError(f"{where}.claim.over is {row.claim.over}; allowed: {', '.join(table.rows)}")


def chosen(table: Table, names: list[str] | None) -> dict[str, Row]:
    """The rows to compute: those named, and always `base` and `selma`; None for all of them."""
    if names is None:
        return dict(table.rows)
    for name in names:
        if not re.fullmatch(ROW, name) or name not in table.rows:
            known = ", ".join(table.rows) if re.fullmatch(ROW, name) else ROW_WORDS
            raise UserError(f"--rows: {name[:80]}; allowed: {known}")
    wanted = {table.base, table.selma, *names}
    return {name: row for name, row in table.rows.items() if name in wanted}
