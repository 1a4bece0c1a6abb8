"""How a command ends: the exit code, and one line on stderr."""

from __future__ import annotations

import os
import signal

import pytest

from selma.ground.errors import UserError
from selma.runtime import command


def raising(error: BaseException):
    def work() -> None:
        raise error

    return work


def swallowed() -> None:
    """What numpy makes of Ctrl-C while it is imported."""
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        raise ImportError("cannot load module more than once per process") from None


@pytest.mark.parametrize(
    ("work", "code", "said"),
    [
        (lambda: None, 0, ""),
        (raising(UserError("x: wrong")), 2, "error: x: wrong\n"),
        (
            raising(OSError(30, "Read-only file system", "out")),
            2,
            "error: [Errno 30] Read-only file system: 'out'\n",
        ),
        (raising(KeyboardInterrupt()), 130, "interrupted\n"),
        (lambda: os.kill(os.getpid(), signal.SIGINT), 130, "interrupted\n"),
        (swallowed, 130, "interrupted\n"),
    ],
)
def test_exit_codes_and_the_one_line(work, code, said, capsys):
    before = signal.getsignal(signal.SIGINT)
    assert command.run(work) == code
    assert capsys.readouterr().err == said
    assert signal.getsignal(signal.SIGINT) is before


def test_a_bug_keeps_its_traceback_and_an_exit_its_code():
    with pytest.raises(ZeroDivisionError):
        command.run(lambda: 1 / 0)
    with pytest.raises(SystemExit):
        command.run(raising(SystemExit(3)))
