"""The stages of dvc.yaml, one script each: `python -m stages.images count`.

Importing torch takes seconds, in which Ctrl-C must end in one line too; selma/runtime/stage.py takes over after that.
Before anything heavy is imported, a stage gives itself over to a process that has it already (selma/runtime/warm.py).
"""

import os
import signal
import sys

HEAVY = (
    "stages.images",
    "stages.draw",
    "stages.expert",
    "stages.select",
    "stages.mixture",
    "stages.select_mixture",
    "stages.policy",
    "stages.sample",
)  # these start such a process


def _interrupted(signum: int, frame: object) -> None:
    os.write(2, b"interrupted: run the same command again to resume\n")
    os._exit(130)


if sys.orig_argv[1:2] == ["-m"] and sys.orig_argv[2:3] and sys.orig_argv[2].startswith("stages."):
    signal.signal(signal.SIGINT, _interrupted)
    if os.name == "posix" and "selma_warm" not in sys.modules:  # it is not in one already
        from selma.runtime.parent import end_with_parent
        from selma.runtime.warm import hand_over

        end_with_parent()
        hand_over(sys.orig_argv[2], start=sys.orig_argv[2] in HEAVY)
