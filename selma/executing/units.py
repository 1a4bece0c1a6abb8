"""A unit of work: a stage, or a shard of one, as a command; and how a worker runs it, wherever the worker is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol

from selma.ground.errors import first_line
from selma.runtime.parent import UNIT

LOST = -1  # the exit code of a unit whose worker is gone


@dataclass(frozen=True)
class Unit:
    """A command that a worker runs in the repository."""

    name: str  # `images@count`, `images@count 2/8`
    stage: str  # DVC's name of the stage
    words: tuple[str, ...]  # after the interpreter: -m stages.images count --shard 2/8
    folder: str  # the repository, absolute; every worker must see it under this name
    log: str  # what the command says goes to this file, absolute


class Handle(Protocol):
    """A unit that was started."""

    def poll(self) -> int | None:
        """The exit code once it has ended, negative where a signal or a lost worker ended it; else None."""

    def stop(self) -> None:
        """End it; what it has done so far is kept in its work folder."""


class Executor(Protocol):
    """Where units run. Starting never blocks for long; `close` stops what still runs."""

    def start(self, units: Sequence[Unit]) -> list[Handle]: ...

    def close(self) -> None: ...


def run_unit(unit: Unit, settings: Mapping[str, str] | None = None) -> int:
    """Run a unit and wait for it; its exit code, negative for a signal. A worker calls this, on whatever machine.

    SIGTERM, by which schedulers and `stop` end a job, reaches the command. `settings` are further variables.
    """
    child = popen(unit, settings or {})
    with _passing_on(child):
        return child.wait()


def popen(unit: Unit, settings: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a unit's command, to end with this process. What it says is added to its log."""
    environment = {**os.environ, **settings, UNIT: str(os.getpid())}
    for name in ("DVC_STAGE", "DVC_ROOT"):  # a stage that is run by DVC may have started all this
        environment.pop(name, None)
    with open(unit.log, "ab") as log:
        return subprocess.Popen(
            [sys.executable, *unit.words],
            cwd=unit.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


@contextmanager
def _passing_on(child: subprocess.Popen[bytes]) -> Iterator[None]:
    def forward(number: int, frame: FrameType | None) -> None:
        child.send_signal(number)

    try:
        before = signal.signal(signal.SIGTERM, forward)
    except ValueError:  # not the main thread: signals are somebody else's
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def last_line(log: str) -> str:
    """The last line with words in it of what a unit has said, or ''."""
    try:
        said = Path(log).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return next(
        (line.strip() for line in reversed(said.replace("\r", "\n").splitlines()) if line.strip()), ""
    )


def not_begun(unit: Unit, error: Exception) -> int:
    """The exit code of a unit whose worker could not even begin it; its log says why."""
    with suppress(OSError), open(unit.log, "a", encoding="utf-8") as file:
        file.write(f"error: it did not begin: {first_line(error)[-300:]}\n")
    return 1
