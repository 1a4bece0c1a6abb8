"""Seconds of stages: those that do not depend on the amount, and those of one more; and bytes of their outs.

A rate is measured: by this machine's own runs (measured.py), or it stands in bench/rates.json with the machine and the
command that gave it. What has none is not timed. The seconds of one grow with what it is worth (`of`): an image with
its passes of the UNet, a step with its examples; nothing else is carried over from one setting to another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from selma.ground.files import read_record, write_json
from selma.ground.schema import record
from selma.planning.work import Work

TABLE = Path("bench/rates.json")

Number = Annotated[float, Field(ge=0)]


@record
class Rate(TypedDict):
    """The seconds of a kind of stage, or of an activity (drawing, training), on what `by` names.

    `fixed` of a stage whatever it makes; `each` of one `unit`, measured where it was worth `of`.
    """

    kind: str
    by: str
    fixed: Number
    unit: NotRequired[str]
    each: NotRequired[Number]
    of: NotRequired[Annotated[float, Field(gt=0)]]


@record
class Machine(TypedDict):
    """One machine's rates, and how they were measured; `between` are DVC's own seconds for each stage."""

    machine: str
    source: str
    between: NotRequired[Number]
    rates: list[Rate]


@record
class Size(TypedDict):
    """The bytes of one of something in an out; `source` says who measured it, if not --save."""

    what: str
    bytes: Number
    source: NotRequired[str]


@record
class Rates(TypedDict):
    """The table."""

    machines: list[Machine]
    sizes: list[Size]


def read(file: Path) -> Rates:
    """The table in a file; an empty one where it is not there. Raises UserError for a file that is none."""
    return read_record(file, Rates) if file.is_file() else {"machines": [], "sizes": []}


def save(file: Path, machine: Machine, sizes: Mapping[str, float]) -> None:
    """Put a machine's rates in place of what the table has of it, and the sizes; all else stays."""
    table = read(file)
    others = [one for one in table["machines"] if one["machine"] != machine["machine"]]
    found = {size["what"]: size for size in table["sizes"]}
    found |= {what: {"what": what, "bytes": round(size, 1)} for what, size in sizes.items()}
    write_json(file, {"machines": [machine, *others], "sizes": [found[what] for what in sorted(found)]})


@dataclass(frozen=True)
class Estimate:
    """A stage's seconds, the machine whose rates they are of, and what they leave out; no seconds: not timed."""

    seconds: float | None = None
    machine: str = ""
    without: str = ""


class Clock:
    """Estimates by machines' rates, those of the first machine first; a whole stage's before its parts' alone."""

    def __init__(self, machines: Sequence[Machine]) -> None:
        self._machines = [
            (one["machine"], {(rate["kind"], rate["by"]): rate for rate in one["rates"]}) for one in machines
        ]
        self.between, self.between_on = next(
            ((one["between"], one["machine"]) for one in machines if "between" in one), (0.0, "")
        )

    def of(self, kind: str, work: Work) -> Estimate:
        """What a stage takes, DVC's own time for it left out."""
        for machine, rates in self._machines:
            rate = rates.get((kind, work.by))
            if rate is not None and (not work.unit or rate.get("unit") == work.unit):
                return Estimate(_seconds(rate, work.number, work.of), machine)
        for machine, rates in self._machines if work.parts else ():
            found = [rates.get((part.activity, part.by)) for part in work.parts]
            if None not in found:
                parts = zip(found, work.parts, strict=True)
                seconds = sum(_seconds(rate, part.number, part.of) for rate, part in parts)
                return Estimate(seconds, machine, work.rest)
        return Estimate()


def _seconds(rate: Rate, number: int, of: float) -> float:
    return rate["fixed"] + rate.get("each", 0.0) * number * of / rate.get("of", 1.0)


def sizes_of(known: Iterable[tuple[Work, int | None]]) -> dict[str, float]:
    """The bytes of one of everything, from outs whose size is known."""
    sums: dict[str, tuple[float, float]] = {}
    for work, size in known:
        if work.stored and size is not None and work.stored[1] > 0:
            whole, number = sums.get(work.stored[0], (0.0, 0.0))
            sums[work.stored[0]] = whole + size, number + work.stored[1]
    return {what: whole / number for what, (whole, number) in sums.items()}
