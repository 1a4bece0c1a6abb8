"""Print the short table of a run: every model's faithfulness, and the gains with their 95% intervals.

    python -m selma.table              fixed width, for the terminal
    python -m selma.table --beside     then the last commit's numbers beside them, and the spread over training seeds
    python -m selma.table --markdown   the README's table

reads   metrics/eval.json; with --beside that of the last commit and metrics/study/seeds.json, too
"""

from __future__ import annotations

import sys

from selma.reporting import committed, table
from selma.reporting.metrics import read_summary
from selma.runtime import command


def main() -> None:
    parser = command.Parser(prog="python -m selma.table", description=__doc__.splitlines()[0])
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="print Markdown, as in the README")
    form.add_argument("--beside", action="store_true", help="the committed run beside this one")
    given = parser.parse_args()
    if code := command.run(lambda: _main(given.markdown, given.beside)):
        sys.exit(code)


def _main(markdown: bool, beside: bool) -> None:
    summary = read_summary()
    print((table.markdown_table if markdown else table.text_table)(summary))
    if beside and (theirs := committed.committed()):
        print(f"\n{committed.beside(summary, theirs)}")
    if beside and (line := committed.spread(summary)):
        print(line)


if __name__ == "__main__":
    main()
