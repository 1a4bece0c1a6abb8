"""Print the short table of a run: every model's faithfulness, and the gains with their 95% intervals.

    python -m selma.table              fixed width, for the terminal
    python -m selma.table --markdown   the README's table

reads   metrics/eval.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from typing import Any

from selma.ground.errors import UserError
from selma.ground.files import read_json
from selma.reporting import table
from selma.runtime import command


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m selma.table", description=__doc__.splitlines()[0])
    parser.add_argument("--markdown", action="store_true", help="print Markdown, as in the README")
    show = table.markdown_table if parser.parse_args().markdown else table.text_table
    if code := command.run(lambda: print(_table(show))):
        sys.exit(code)


def _table(show: Callable[[Mapping[str, Any]], str]) -> str:
    try:
        return show(read_json(table.EVAL))
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # of an older run, or not a run's
        raise UserError(f"{table.EVAL}: not from a finished run ({error!r}); run `dvc repro`") from error


if __name__ == "__main__":
    main()
