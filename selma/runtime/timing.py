"""Where a stage's seconds go: start-up, loading, work, writing, tracking; and how much it made per second.

    with timing.stage("expert@count"):          # stage.run does this
        with timing.phase("loading"): ...
        with timing.counting("steps") as done: ... done(1)

Each phase has its own seconds alone: what runs in a phase inside it does not count for it, so the phases add up to the
run. Only the thread that runs the stage counts: what other threads do meanwhile takes it no time. Outside a stage
nothing is measured. The times lie in `.work/times/<stage>.json`, outside of DVC's outs and metrics, which must be the
same on every machine; `python -m selma.times` prints them, `python -m selma.plan` reckons with them, for which the
params.yaml that a stage ran by is kept in `.work/params`, once.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from selma.ground.files import read_record, write_json, write_text
from selma.ground.schema import record
from selma.runtime.places import home

PHASES = ("start-up", "loading", "work", "writing", "tracking")
FOLDER = ".work/times"
SETTINGS = ".work/params"
MOST = 50  # files of them; times that are older have no rates

Seconds = Annotated[float, Field(ge=0)]


@record
class Count(TypedDict):
    """How many of something a run made, and in how many seconds of work."""

    number: Annotated[int, Field(ge=0)]
    seconds: Seconds


@record
class Times(TypedDict):
    """The times of a stage's last run that ended well."""

    stage: str
    warm: bool  # it began in a preloaded process (warm.py)
    seconds: dict[str, Seconds]  # by phase
    counts: dict[str, Count]  # by unit: images, steps, answers
    params: NotRequired[str]  # the file of SETTINGS that holds the params.yaml that it ran by


class _Clock:
    """Seconds by phase of one thread; `stack` holds the phases that it is in."""

    def __init__(self, first: str, since: float) -> None:
        self.thread = threading.get_ident()
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.counts: dict[str, Count] = {}
        self.stack, self.since = [first], since

    def charge(self) -> None:
        """Give what has passed to the phase that runs."""
        now = time.monotonic()
        self.seconds[self.stack[-1]] += now - self.since
        self.since = now


_clock: _Clock | None = None


@contextmanager
def stage(name: str, whole: bool = True) -> Iterator[None]:
    """Measure the body, and all of the process before it as start-up; the times are kept if nothing is raised and it is
    the `whole` stage that runs, alone."""
    global _clock
    clock = _clock = _Clock("start-up", time.monotonic() - _age())
    clock.charge()
    clock.stack = ["work"]
    settings = _settings()  # now: the file may be edited while the stage runs
    try:
        yield
        clock.charge()
    finally:
        _clock = None
    seconds = {phase: round(seconds, 4) for phase, seconds in clock.seconds.items()}
    times = {"stage": name, "warm": "selma_warm" in sys.modules, "seconds": seconds, "counts": clock.counts}
    made = [count["number"] for count in clock.counts.values()]
    if not whole or (made and not any(made)):  # a shard, or what others have made: no time of the stage
        return
    with suppress(OSError):  # what is measured must not fail what is made
        if settings is not None:
            times["params"] = f"{hashlib.sha256(settings.encode()).hexdigest()[:16]}.yaml"
            file = home() / SETTINGS / times["params"]
            if not file.is_file():
                write_text(file, settings)
                for old in sorted(file.parent.glob("*.yaml"), key=os.path.getmtime)[:-MOST]:
                    old.unlink()
        write_json(file_of(home(), name), times)


def _settings() -> str | None:
    """The text of params.yaml; None where there is none."""
    with suppress(OSError, UnicodeDecodeError):
        return Path("params.yaml").read_text(encoding="utf-8")
    return None


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Count the body's seconds for a phase of PHASES; as `@phase("loading")`, those of a function."""
    if (clock := _of_this_thread()) is None:
        yield
        return
    clock.charge()
    clock.stack.append(name)
    try:
        yield
    finally:
        clock.charge()
        clock.stack.pop()


@contextmanager
def counting(unit: str) -> Iterator[Callable[[int], None]]:
    """Yields a function to say how many more are made; they are set against the seconds of work in the body."""
    if (clock := _of_this_thread()) is None:
        yield lambda number: None
        return
    count = clock.counts.setdefault(unit, {"number": 0, "seconds": 0.0})
    clock.charge()
    before = clock.seconds["work"]

    def done(number: int) -> None:
        count["number"] += number

    try:
        yield done
    finally:
        clock.charge()
        count["seconds"] = round(count["seconds"] + clock.seconds["work"] - before, 4)


def file_of(root: Path, name: str) -> Path:
    """Where the times of a stage lie."""
    return root / FOLDER / f"{name}.json"


def read(root: Path, name: str) -> Times | None:
    """The times of a stage's last run; None if there are none. Raises UserError for a file that is no such record."""
    file = file_of(root, name)
    return read_record(file, Times) if file.is_file() else None


def _of_this_thread() -> _Clock | None:
    return _clock if _clock and _clock.thread == threading.get_ident() else None


def _age() -> float:
    """Seconds since the command was given: since this process began, or the one that gave itself over (warm.py)."""
    now = time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
    if "selma_warm" in sys.modules:
        return max(0.0, now - sys.modules["selma_warm"].began)
    try:
        # Field 22, counted after the name in brackets, which may hold spaces: ticks since the machine's start.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        return max(0.0, now - int(fields[19]) / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError):  # not Linux: what the interpreter itself took is not known
        return time.process_time()
