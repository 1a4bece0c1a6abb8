"""How every stage script runs: arguments by main's signature, errors as one line, Ctrl-C resumable.

    if __name__ == "__main__":
        stage.run(main)

Exit codes: 0 done, 2 bad input or no disk (one line on stderr), 130 interrupted. Anything else is a bug and
keeps its traceback.
"""

from __future__ import annotations

import errno
import inspect
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from selma.ground.errors import UserError
from selma.runtime import tracking

T = TypeVar("T")


def run(main: Callable[..., None]) -> None:
    """Call `main` with sys.argv's strings and leave the process with the exit code that fits."""
    arguments = sys.argv[1:]
    wanted = [parameter.upper() for parameter in inspect.signature(main).parameters]
    if len(arguments) != len(wanted):
        _leave(" ".join(["usage: python -m", _module(), *wanted]), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # from here on KeyboardInterrupt, caught below
    try:
        with tracking.stage_run(name()):
            main(*arguments)
    except UserError as error:
        _leave(f"error: {' '.join(str(error).split())}", 2)
    except KeyboardInterrupt:
        _leave("interrupted: run the same command again to resume", 130)
    except Exception as error:
        if not _disk_full(error):
            raise
        _leave("error: no space left on the disk; free some and run the same command again to resume", 2)


def name() -> str:
    """The stage as dvc.yaml names it, e.g. `images@count`: from DVC, else from module and arguments."""
    arguments = ["-".join(sys.argv[1:])] if sys.argv[1:] else []
    return os.environ.get("DVC_STAGE") or "@".join([_module().rpartition(".")[2], *arguments])


def progress(iterable: Iterable[T], total: int | None = None, label: str = "") -> Iterator[T]:
    """Iterate with a progress bar on stderr; without a terminal, a line every half minute."""
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    interval = 0.2 if terminal else 30.0
    yield from tqdm(
        iterable,
        total=total,
        desc=label or name(),
        file=sys.stderr,
        mininterval=interval,
        maxinterval=max(interval, 10.0),
        dynamic_ncols=terminal,
        leave=False,
    )


def _module() -> str:
    """The dotted name of the module that runs, e.g. `stages.images`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec else os.path.splitext(os.path.basename(sys.argv[0]))[0]


def _disk_full(error: BaseException) -> bool:
    """Whether `error` says that the disk is full; safetensors wraps the OSError of its own writes."""
    full = (errno.ENOSPC, errno.EDQUOT)
    return (isinstance(error, OSError) and error.errno in full) or "No space left on device" in str(error)


def _leave(line: str, code: int) -> None:
    print(line, file=sys.stderr, flush=True)
    sys.exit(code)
