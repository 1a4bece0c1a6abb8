"""Print where the seconds of each stage's last run went, in the DAG's order, and what was made per second.

    python -m selma.times [--wall SECONDS]     the table; `make profile-run` runs the pipeline before it
    python -m selma.times --totals             its last lines alone

reads   .work/times/   which every stage writes as it ends
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tabulate import tabulate

from selma.ground.errors import UserError
from selma.runtime import command, timing
from selma.runtime.dvcfile import load_stages
from selma.runtime.timing import PHASES, Times


def measured(root: Path) -> list[Times]:
    """The times of every stage of dvc.yaml that has run here, in its order."""
    return [found for name in load_stages(root) if (found := timing.read(root, name))]


def table(rows: list[Times]) -> str:
    """A row of seconds for each stage, and what it made per second of work."""
    body = [
        [
            row["stage"],
            *(row["seconds"].get(phase, 0.0) for phase in PHASES),
            sum(row["seconds"].values()),
            _rates(row),
        ]
        for row in rows
    ]
    return tabulate(body, ["seconds", *PHASES, "all", "per second of work"], floatfmt=".2f")


def totals(rows: list[Times], wall: float | None = None) -> str:
    """The sums in a line; of `wall` seconds, what the stages do not explain is DVC's and the processes' end."""
    sums = {phase: sum(row["seconds"].get(phase, 0.0) for row in rows) for phase in PHASES}
    warm = sum(row["warm"] for row in rows)
    parts = ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in sums.items())
    line = f"{len(rows)} stages ({warm} in a preloaded process), {sum(sums.values()):.1f} s: {parts}"
    if wall is not None:
        line += f"; {wall:.1f} s in all, {wall - sum(sums.values()):.1f} s of it outside of stages"
    return line


def _rates(row: Times) -> str:
    return ", ".join(
        f"{count['number'] / count['seconds']:.1f} {unit}"
        for unit, count in row["counts"].items()
        if count["seconds"]
    )


def main(arguments: list[str] | None = None) -> int:
    """Print the table; exit code 2 with one line where nothing was measured yet."""
    parser = command.Parser(prog="python -m selma.times", description=__doc__.splitlines()[0])
    parser.add_argument("--wall", type=_seconds, metavar="SECONDS", help="what the whole run took")
    parser.add_argument("--totals", action="store_true", help="the sums alone")
    given = parser.parse_args(arguments)
    return command.run(lambda: _print(given.wall, given.totals))


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 10**9:
        raise argparse.ArgumentTypeError(f"{text!r}; it must be seconds, 0 or more")
    return seconds


def _print(wall: float | None, short: bool) -> None:
    rows = measured(Path.cwd())
    if not rows:
        raise UserError(
            f"{timing.FOLDER}: no stage has run here; a pulled run has no times, `make profile-run` takes them"
        )
    if not short:
        print(table(rows), end="\n\n")
    print(f"the stages' last runs: {totals(rows, wall)}" if short else totals(rows, wall))


if __name__ == "__main__":
    sys.exit(main())
