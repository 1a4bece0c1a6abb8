"""Who started a stage: DVC, `selma.parallel`, or somebody by hand. With the first two, it also ends with them.

`kill -9` of `dvc repro` would leave the stage running: it holds the stage's lock, and the next `dvc repro` would be
told that another process is at work.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

UNIT = "SELMA_UNIT"  # in the environment of a stage that runs without DVC: the process that started it
_STARTER = (
    "SELMA_STARTER"  # of a stage that DVC started: that process, also in the child that it is handed over to
)
PARALLEL = "selma.parallel"
_PDEATHSIG = 1  # prctl's PR_SET_PDEATHSIG


def end_with_parent() -> None:
    """On Linux, have this process killed when its parent ends, if DVC or `selma.parallel` started it.

    Work folders are made for that: the next call goes on where this one was. A stage that was started by hand, perhaps
    by nohup, goes on.
    """
    if os.environ.get("DVC_STAGE"):
        os.environ[_STARTER] = f"dvc {os.getppid()}"
    elif not os.environ.get(UNIT):
        return
    tie()
    parent = os.environ.get(UNIT, "")
    if parent.isdecimal() and os.getppid() != int(parent) and not os.environ.get("DVC_STAGE"):
        os._exit(137)  # it ended before this was asked for


def tie() -> None:
    """On Linux, have this process killed when its parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def starter() -> str | None:
    """Who started this stage, as a name that stays the same for all stages that one `dvc repro` runs; None: by hand."""
    if os.environ.get("DVC_STAGE"):
        return os.environ.get(_STARTER)
    return PARALLEL if os.environ.get(UNIT) else None


def is_running(name: str) -> bool:
    """Whether the process of such a name is there."""
    return Path("/proc", name.rpartition(" ")[2]).exists()
