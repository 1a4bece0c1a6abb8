"""How every command of `selma/*.py` ends: exit code 0, 2 with one line for bad input, 130 when interrupted."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from selma.ground.errors import UserError
from selma.runtime import unread

PATIENCE = 3.0  # seconds for cleaning up, after which Ctrl-C is raised again
_ALARM = hasattr(signal, "setitimer")  # not on Windows


class Parser(argparse.ArgumentParser):
    """argparse's parser, which says in one line what is wrong with the arguments, and how to call the command where one
    is missing or unknown; exit code 2."""

    def error(self, message: str) -> NoReturn:
        one = message.startswith("argument ")  # one argument has a wrong value, and the message says which
        usage = "" if one else f"; {self.format_usage()}"
        self.exit(2, " ".join(f"error: {message.removeprefix('argument ')}{usage}".split()) + "\n")


def said(error: UserError | OSError) -> str:
    """An error as one line; of a file that cannot be read or written its name, and why."""
    name, why = getattr(error, "filename", None), getattr(error, "strerror", None)
    if name and why:
        other = getattr(error, "filename2", None)
        return " ".join(f"{name}{f' -> {other}' if other else ''}: {why.lower()}".split())
    return " ".join(str(error).split())


def run(work: Callable[[], object], interrupted: str = "interrupted") -> int:
    """Call `work` and return the exit code that fits; anything but bad input is a bug and keeps its traceback.

    An OSError counts as bad input: a command writes where its options say. `interrupted` is what Ctrl-C says, whatever
    becomes of the KeyboardInterrupt: numpy, stopped while it is imported, raises errors of its own, and what another
    library catches and forgets is raised again until the work ends.
    """
    pressed = False

    def stop(*_: object) -> None:
        nonlocal pressed
        pressed = True
        if _ALARM:
            signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, stop)
    alarm = signal.signal(signal.SIGALRM, stop) if _ALARM else None
    try:
        with unread.noted():
            work()
    except BaseException as error:
        if _ALARM:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if pressed or isinstance(error, KeyboardInterrupt):
            print(interrupted, file=sys.stderr)
            return 130
        if not isinstance(error, UserError | OSError):
            raise
        print(f"error: {said(error)}", file=sys.stderr)
        return 2
    finally:
        if _ALARM:
            signal.signal(signal.SIGALRM, alarm or signal.SIG_DFL)
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)
    return 0
