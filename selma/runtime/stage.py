"""How every stage script runs: arguments by main's signature, errors as one line, Ctrl-C resumable.

    if __name__ == "__main__":
        stage.run(main)

Exit codes: 0 done, 2 bad input, or what the machine lacks or forbids (one line on stderr), 130 interrupted. Anything
else is a bug and keeps its traceback.
"""

from __future__ import annotations

import errno
import inspect
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from selma.ground.errors import UserError, first_line
from selma.runtime import timing, tracking

T = TypeVar("T")


def run(main: Callable[..., None]) -> None:
    """Call `main` with sys.argv's strings and leave the process with the exit code that fits."""
    arguments = sys.argv[1:]
    wanted = [parameter.upper() for parameter in inspect.signature(main).parameters]
    if len(arguments) != len(wanted):
        _leave(" ".join(["usage: python -m", _module(), *wanted]), 2)
    sys.stdout.reconfigure(errors="replace")  # a terminal of ASCII is no reason to fail
    signal.signal(signal.SIGINT, signal.default_int_handler)  # from here on KeyboardInterrupt, caught below
    try:
        with timing.stage(name()), tracking.stage_run(name()):
            main(*arguments)
    except UserError as error:
        _leave(f"error: {error}", 2)
    except KeyboardInterrupt:
        _leave("interrupted: run the same command again to resume", 130)
    except Exception as error:
        if (lacking := _lacking(error)) is None:
            raise
        _leave(f"error: {UserError(lacking)}; then run the same command again to resume", 2)


def name() -> str:
    """The stage as dvc.yaml names it, e.g. `images@count`: from DVC, else from module and arguments.

    DVC, called in a subfolder, says `../dvc.yaml:images@count`.
    """
    arguments = ["-".join(sys.argv[1:])] if sys.argv[1:] else []
    given = os.environ.get("DVC_STAGE", "").rpartition(":")[2]
    return given or "@".join([_module().rpartition(".")[2], *arguments])


def progress(iterable: Iterable[T], total: int | None = None, label: str = "", unit: str = "") -> Iterator[T]:
    """Iterate with a progress bar on stderr; without a terminal, a line every half minute.

    With a `unit` (images, steps), items and the seconds of work that they took are kept as well (timing.py).
    """
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    interval = 0.2 if terminal else 30.0
    bar = tqdm(
        iterable,
        total=total,
        desc=label or name(),
        file=sys.stderr,
        mininterval=interval,
        maxinterval=max(interval, 10.0),
        dynamic_ncols=terminal,
        leave=False,
        **({"unit": f" {unit}"} if unit else {}),
    )
    if not unit:
        yield from bar
        return
    with timing.counting(unit) as done:
        for item in bar:
            yield item
            done(1)


def _module() -> str:
    """The dotted name of the module that runs, e.g. `stages.images`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec else os.path.splitext(os.path.basename(sys.argv[0]))[0]


def _lacking(error: Exception) -> str | None:
    """What the machine lacks or forbids, and what to do about it; None for a bug.

    safetensors wraps the system's errors of its own writes, torch those of memory.
    """
    said = first_line(error)
    wrapped = re.search(r"\(os error (\d+)\)", said)
    number = int(wrapped[1]) if wrapped else getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return "no space left on the disk; free some"
    if isinstance(error, MemoryError) or re.search("out of memory|can't allocate memory", said):
        return f"not enough memory ({said[:200]}); lower the batch or the resolution in params.yaml"
    if isinstance(number, int) and (wrapped or isinstance(error, OSError)):
        place = getattr(error, "filename", None)
        return f"{place or said}: {os.strerror(number) if number > 0 else said}; see to that"
    return None


def _leave(line: str, code: int) -> None:
    print(line, file=sys.stderr, flush=True)
    sys.exit(code)
