"""DVC's own command line, without its warnings that the pretraining stages are frozen: they are so by design.

    python -m selma.dvc repro
    python -m selma.dvc status

Everything else, with all options and exit codes, is DVC's. `make repro` runs this.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

# Where DVC says it, and how: it has no setting for this.
_LOGGERS = ("dvc.repo.reproduce", "dvc.repo.status")
_FROZEN = "%s is frozen."


def main(argv: Sequence[str]) -> int:
    """DVC's exit code."""
    from dvc.cli import main as dvc

    for name in _LOGGERS:
        logging.getLogger(name).addFilter(lambda record: not str(record.msg).startswith(_FROZEN))
    return dvc(list(argv))


if __name__ == "__main__":
    if sys.argv[1:] in (["-h"], ["--help"]):
        print(__doc__)
        sys.exit(0)
    sys.exit(main(sys.argv[1:]))
