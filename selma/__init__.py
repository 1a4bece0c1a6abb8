"""The commands (`python -m selma.draw ...`) and the library, a room per step.

Importing torch takes seconds, in which Ctrl-C must end in one line too; selma/runtime/command.py takes over after that.
"""

import os
import signal
import sys
from itertools import pairwise


def _interrupted(signum: int, frame: object) -> None:
    os.write(2, b"interrupted\n")
    os._exit(130)


if any(flag == "-m" and name.startswith(("selma.", "bench.")) for flag, name in pairwise(sys.orig_argv)):
    signal.signal(signal.SIGINT, _interrupted)
