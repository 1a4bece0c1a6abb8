"""How every command of `selma/*.py` ends: exit code 0, 2 with one line for bad input, 130 when interrupted."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

from selma.ground.errors import UserError


def run(work: Callable[[], object], interrupted: str = "interrupted") -> int:
    """Call `work` and return the exit code that fits; anything but bad input is a bug and keeps its traceback.

    An OSError counts as bad input: a command writes where its options say. `interrupted` is what Ctrl-C says, whatever
    becomes of the KeyboardInterrupt: numpy, stopped while it is imported, raises errors of its own.
    """
    pressed = False

    def stop(*_: object) -> None:
        nonlocal pressed
        pressed = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, stop)
    try:
        work()
    except BaseException as error:
        if pressed or isinstance(error, KeyboardInterrupt):
            print(interrupted, file=sys.stderr)
            return 130
        if not isinstance(error, UserError | OSError):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)
    return 0
