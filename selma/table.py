"""Print the short table of a run: every model's faithfulness, and the gains with their 95% intervals.

    python -m selma.table              fixed width, for the terminal
    python -m selma.table --markdown   the README's table

reads   metrics/eval.json
"""

from __future__ import annotations

import argparse
import sys

from selma.reporting import table
from selma.reporting.metrics import read_summary
from selma.runtime import command


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m selma.table", description=__doc__.splitlines()[0])
    parser.add_argument("--markdown", action="store_true", help="print Markdown, as in the README")
    show = table.markdown_table if parser.parse_args().markdown else table.text_table
    if code := command.run(lambda: print(show(read_summary()))):
        sys.exit(code)


if __name__ == "__main__":
    main()
