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
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from threading import Lock
from typing import TypeVar

from selma.ground.errors import UserError, first_line
from selma.runtime import finished, lockfile, timing, tracking, unread, work
from selma.runtime.dvcfile import in_order, load_stages
from selma.runtime.parent import UNIT
from selma.runtime.progress import show

T = TypeVar("T")


def run(main: Callable[..., None]) -> None:
    """Call `main` with sys.argv's strings and leave the process with the exit code that fits."""
    if sys.argv[1:] in (["-h"], ["--help"]):
        print(sys.modules["__main__"].__doc__)
        sys.exit(0)
    arguments, options = _given()
    parameters = inspect.signature(main).parameters.values()
    wanted = [parameter.name.upper() for parameter in parameters if parameter.default is parameter.empty]
    known = [parameter.name for parameter in parameters if parameter.default is not parameter.empty]
    if len(arguments) != len(wanted) or not set(options) <= set(known):
        optional = [f"[--{name} {name.upper()}]" for name in known]
        _leave(" ".join(["usage: python -m", _module(), *wanted, *optional]), 2)
    sys.stdout.reconfigure(errors="replace")  # a terminal of ASCII is no reason to fail
    signal.signal(signal.SIGINT, signal.default_int_handler)  # from here on KeyboardInterrupt, caught below
    try:
        _say_where()
        whole = options.get("shard", "1/1") == "1/1"
        if whole and _taken():
            return
        with (
            timing.stage(name(), whole and not os.environ.get(UNIT)),
            tracking.stage_run(name()),
            unread.noted(_row_of),
        ):
            main(*arguments, **options)
    except UserError as error:
        _leave(f"error: {error}", 2)
    except KeyboardInterrupt:
        _leave("interrupted: run the same command again to resume", 130)
    except Exception as error:
        if (lacking := _lacking(error)) is None:
            raise
        _leave(f"error: {UserError(lacking)}; then run the same command again to resume", 2)


def _taken() -> bool:
    """Put back what this stage made before, where it ended and DVC had not written it down yet."""
    if os.environ.get("DVC_STAGE"):
        with suppress(OSError):
            lockfile.keep()
    finished.forget()
    stages = load_stages(Path.cwd()) if finished.kept(name()) else {}
    if name() not in stages:
        return False
    if taken := finished.take(name(), work.stage_key(name()), stages[name()].made):
        work.prune(name())
        print("done already: its outs are those of an earlier run of this very stage", flush=True)
    return taken


def _row_of(texts: Collection[str]) -> str | None:
    """The id of the first row with one of these texts among what the stage reads."""
    with suppress(UserError, KeyError):
        if Path("dvc.yaml").is_file():
            deps = load_stages(Path.cwd())[name()].deps
            return unread.row_of([Path(dep) for dep in deps if dep.startswith("data/")], texts)
    return None


def _say_where() -> None:
    """Under DVC, the stage's place in the pipeline: "stage 12 of 57: images@count"; on stdout, as what DVC says."""
    if not os.environ.get("DVC_STAGE") or not Path("dvc.yaml").is_file():
        return
    stages = load_stages(Path.cwd())
    running = [stage for stage in in_order(stages) if not stages[stage].frozen]
    if name() in running:
        print(f"stage {running.index(name()) + 1} of {len(running)}: {name()}", flush=True)


def name() -> str:
    """The stage as dvc.yaml names it, e.g. `images@count`: from DVC, else the one that runs this command.

    DVC, called in a subfolder, says `../dvc.yaml:images@count`.
    """
    if given := os.environ.get("DVC_STAGE", "").rpartition(":")[2]:
        return given
    arguments = _given()[0]
    words = ["python", "-m", _module(), *arguments]
    if Path("dvc.yaml").is_file():
        for stage, spec in load_stages(Path.cwd()).items():
            if spec.cmd.split() == words:
                return stage
    return "@".join([_module().rpartition(".")[2], *(["-".join(arguments)] if arguments else [])])


def progress(iterable: Iterable[T], total: int | None = None, label: str = "", unit: str = "") -> Iterator[T]:
    """Iterate with a progress bar on stderr; without a terminal, a line every half minute.

    With a `unit` (steps, answers), items and the seconds of work that they took are kept as well (timing.py).
    """
    counted = timing.counting(unit) if unit else nullcontext(lambda number: None)
    with counted as done, show(total, label or name(), unit) as shown:
        for item in iterable:
            yield item
            shown.update(1)
            done(1)


@contextmanager
def bar(
    total: int, done: int = 0, label: str = "", unit: str = "images"
) -> Iterator[Callable[[float], None]]:
    """A progress bar as `progress` shows it, for work that reports from threads, and parts of an item: a function
    that adds to it. `done` is what an earlier run left."""
    lock, added = Lock(), 0.0

    def advance(items: float) -> None:
        nonlocal added
        with lock:
            added += items
            shown.update(items)

    with timing.counting(unit) as count, show(total, label or name(), unit, done, parts=True) as shown:
        yield advance
        count(round(added))


def parse_shard(text: str) -> tuple[int, int]:
    """ "2/8", the second of eight parts of a stage's work, as (2, 8); raises UserError for anything else."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(f"--shard: {text!r}; it must be I/N with 1 <= I <= N, e.g. 2/8")
    return int(found[1]), int(found[2])


def _given() -> tuple[list[str], dict[str, str]]:
    """The command line's arguments, and its options by name: ["count"], {"shard": "2/8"} for count --shard 2/8."""
    arguments, options, rest = [], {}, sys.argv[1:]
    while rest:
        word = rest.pop(0)
        if word.startswith("--"):
            option, equals, value = word[2:].partition("=")
            options[option] = value if equals else rest.pop(0) if rest else ""
        else:
            arguments.append(word)
    return arguments, options


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
