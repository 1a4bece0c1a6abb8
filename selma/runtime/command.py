"""How every command of `selma/*.py` ends: exit code 0, 2 with one line for bad input, 130 when interrupted."""

from __future__ import annotations

import sys
from collections.abc import Callable

from selma.ground.errors import UserError


def run(work: Callable[[], object], interrupted: str = "interrupted") -> int:
    """Call `work` and return the exit code that fits; anything but bad input is a bug and keeps its traceback.

    An OSError counts as bad input: a command writes where its options say. `interrupted` is what Ctrl-C says.
    """
    try:
        work()
    except (UserError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
    return 0
