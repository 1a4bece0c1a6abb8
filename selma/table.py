"""Print the short table of a run: every model's faithfulness, and the gains with their 95% intervals.

    python -m selma.table              fixed width, for the terminal
    python -m selma.table --markdown   the README's table

reads   metrics/eval.json
"""

from __future__ import annotations

import argparse
import sys

from selma.ground.errors import UserError
from selma.ground.files import read_json
from selma.reporting import table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m selma.table", description=__doc__.splitlines()[0])
    parser.add_argument("--markdown", action="store_true", help="print Markdown, as in the README")
    as_markdown = parser.parse_args().markdown
    try:
        summary = read_json(table.EVAL)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(table.markdown_table(summary) if as_markdown else table.text_table(summary))


if __name__ == "__main__":
    main()
