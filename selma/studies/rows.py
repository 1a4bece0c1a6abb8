"""The rows of the comparison table, as ablations.yaml states them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from selma.ground.errors import UserError
from selma.ground.schema import Count, Seed, build, one_of, section
from selma.runtime import variants
from selma.runtime.params import Few, Merge
from selma.runtime.schema import ROW, ROW_WORDS, Name, RowName, load_yaml

FILE = Path("ablations.yaml")
EXAMINED, BEST = "examined", "best"  # the guidance of params.yaml, and each model's own best on dev
POINTS = (EXAMINED, BEST)
PAGES = ("ablations", "selfimprove", "longer", "trained", "stronger", "asked", "features")  # docs/<page>.md
CARRYING = 3  # training seeds that a claim needs


def _rising(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if list(values) != sorted(set(values)):
        raise ValueError("it must rise, each number once")
    return values


def _one_cell(value: str) -> str:
    if "|" in value or not value.isprintable():
        raise ValueError("it must be one line without |: it becomes a cell of a table")
    return value


Cell = Annotated[str, AfterValidator(_one_cell)]
Scales = Annotated[
    tuple[Annotated[float, Field(ge=0, le=1000)], ...], Field(min_length=1), AfterValidator(_rising)
]
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1), AfterValidator(_rising)]


@section
class Claim:
    """What a paper finds of a row: that it is `better` or `worse` than the row `over`, in its own figures."""

    over: RowName
    finds: Annotated[str, one_of(("better", "worse"))]
    says: Cell


@section
class Row:
    """One row: an expert, or a merge, or neither (the base); from which runs; drawn by which guidance.

    `set` is a set of experiments.yaml whose runs, one for each seed, make the weights; `seeds`, some of the table's,
    are for a row that only looks around. `expert` may be a policy, too. `paper` is what the papers measured,
    `claim` what they conclude. `page` is the one that shows it, beside the rows that gains are over.
    """

    desc: Cell
    set: Name = "upstream"
    seeds: Seeds | None = None
    expert: RowName | None = None
    merge: Merge | None = None
    guidance: Annotated[str, one_of(variants.names("guidance"))] = "cfg"
    options: dict[str, Any] = Field(default_factory=dict)
    paper: Cell = ""
    claim: Claim | None = None
    page: Annotated[str, one_of(PAGES)] = PAGES[0]


@section
class Over:
    """The two rows that the gains of a page are over."""

    base: RowName
    selma: RowName


@section
class Table:
    """All of ablations.yaml.

    Models are examined on the test split of `benchmark`, `images` of each prompt and seed; each model's own guidance is
    the one of `scales` that scores best on its dev split. `base` and `selma` are the rows that gains are over, on pages
    that do not name others under `over`; `reading` is what people made of the numbers, by page.
    """

    benchmark: Name
    images: Few
    scales: Scales
    seeds: Seeds
    base: RowName
    selma: RowName
    pictures: Count
    rows: Annotated[dict[RowName, Row], Field(min_length=1)]
    over: dict[Annotated[str, one_of(PAGES[1:])], Over] = Field(default_factory=dict)
    reading: dict[Annotated[str, one_of(PAGES)], str] = Field(default_factory=dict)


def load_table(path: Path = FILE) -> Table:
    """The table that a file states; raises UserError, one line, for one that cannot be."""
    table = build(Table, load_yaml(path), where=str(path))
    for page in (PAGES[0], *table.over):
        _check_over(path, for_page(table, page), page)
    for name, row in table.rows.items():
        _check_row(f"{path}, rows.{name}", name, row, table)
    return table


def _check_over(path: Path, table: Table, page: str) -> None:
    where = str(path) if page == PAGES[0] else f"{path}, over.{page}"
    for key in ("base", "selma"):
        name = getattr(table, key)
        own = [row for row, found in table.rows.items() if page == PAGES[0] or found.page == page]
        if name not in own:
            raise UserError(f"{where}: {key} is {name}; allowed: {', '.join(own) or 'no row has this page'}")
        if table.rows[name].seeds is not None:
            raise UserError(f"{path}, rows.{name}: gains are over it, with every seed; leave out its seeds")
    if table.base == table.selma or table.rows[table.base].expert or table.rows[table.base].merge:
        raise UserError(
            f"{where}: base is {table.base}; it must be a row without expert and merge, and not selma"
        )


def _check_row(where: str, name: str, row: Row, table: Table) -> None:
    if strange := sorted(set(row.seeds or ()) - set(table.seeds)):
        raise UserError(f"{where}.seeds holds {strange[0]}; allowed: {', '.join(map(str, table.seeds))}")
    if row.expert is not None and row.merge is not None:
        raise UserError(f"{where}: has an expert and a merge; allowed: one of them, or neither for the base")
    if row.merge is not None:
        variants.options("operators", row.merge.operator, row.merge.options, f"{where}.merge.options")
    variants.options("guidance", row.guidance, row.options, f"{where}.options")
    if row.claim is not None:
        others = [other for other, found in table.rows.items() if other != name and found.seeds is None]
        if row.claim.over not in others:
            raise UserError(f"{where}.claim.over is {row.claim.over}; allowed: {', '.join(others)}")
        if row.seeds is not None or len(table.seeds) < CARRYING:
            raise UserError(
                f"{where}: has a claim, which {CARRYING} seeds or more must carry, all of the table's"
            )


def for_page(table: Table, page: str) -> Table:
    """The table as a page reads it: `base` and `selma` are the rows that its gains are over."""
    over = table.over.get(page)
    return table if over is None else replace(table, base=over.base, selma=over.selma)


def on_page(table: Table, page: str) -> list[str]:
    """The rows of a page: its own, and those that gains are over."""
    own = for_page(table, page)
    return [name for name, row in table.rows.items() if row.page == page or name in (own.base, own.selma)]


def chosen(table: Table, names: list[str] | None) -> dict[str, Row]:
    """The rows to compute: those named, and always those that their gains are over; None for all of them."""
    if names is None:
        return dict(table.rows)
    wanted = set(names)
    for name in names:
        if not re.fullmatch(ROW, name) or name not in table.rows:
            known = ", ".join(table.rows) if re.fullmatch(ROW, name) else ROW_WORDS
            raise UserError(f"--rows: {name[:80]}; allowed: {known}")
        own = for_page(table, table.rows[name].page)
        wanted |= {own.base, own.selma}
    return {name: row for name, row in table.rows.items() if name in wanted}
