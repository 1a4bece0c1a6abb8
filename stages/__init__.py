"""The stages of dvc.yaml, one script each: `python -m stages.images count`.

Importing torch takes seconds, in which Ctrl-C must end in one line too; selma/runtime/stage.py takes over after that.
"""

import os
import signal
import sys


def _interrupted(signum: int, frame: object) -> None:
    os.write(2, b"interrupted: run the same command again to resume\n")
    os._exit(130)


if sys.orig_argv[1:2] == ["-m"] and sys.orig_argv[2:3] and sys.orig_argv[2].startswith("stages."):
    signal.signal(signal.SIGINT, _interrupted)
