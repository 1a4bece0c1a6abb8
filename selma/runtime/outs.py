"""A stage's outs: put into place whole, all together, and laid elsewhere as links to the same files."""

from __future__ import annotations

import errno
import glob
import os
import random
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from selma.ground.errors import UserError
from selma.ground.files import TEMPORARY
from selma.runtime import timing
from selma.runtime.locks import is_left, mine

_OLD = ".old-"
_TRIES = 5
_PASSING = (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY)  # what two processes at one place may meet
_apart = ""  # begins this process's temporary names, where locks say nothing


def set_apart() -> None:
    """Lay outs beside their places under names that no other process uses, and leave others' alone: where locks say
    nothing, another process may be doing the same."""
    global _apart
    _apart = f"{mine()}-"


def _beside(target: Path, kind: str) -> Path:
    return target.with_name(f"{kind}{_apart}{target.name}")


def publish(source: Path, target: Path) -> None:
    """Put one finished file or folder into place; see `publish_all`."""
    publish_all({source: target})


@timing.phase("writing")
def publish_all(finished: Mapping[Path, Path]) -> None:
    """Put finished files and folders {source: target} into place, replacing what is there; parent folders are created.

    First each is laid beside its target, which may take a while, or fail for lack of space; then all are renamed, in
    the mapping's order. Sources stay, as links to the same files: a run that is killed here does the last step again.
    Temporary files of a writer that was killed are left out.
    """
    for tries in range(_TRIES):
        try:
            _publish(finished)
            return
        except OSError as error:
            passing = isinstance(error, shutil.Error) or error.errno in _PASSING
            if tries == _TRIES - 1 or not _apart or not passing:
                raise
            time.sleep(0.1 * (1 + random.random()))


def _publish(finished: Mapping[Path, Path]) -> None:
    near = {Path(target): _beside(Path(target), TEMPORARY) for target in finished.values()}
    try:
        for source, target in finished.items():
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            tidy(Path(target))
            lay(Path(source), near[Path(target)])
        for target, temporary in near.items():
            _swap(temporary, target)
    finally:
        for temporary in near.values():
            remove(temporary)


def lay(source: Path, target: Path) -> None:
    """The same files under another name; copies where a link cannot go (data/ on its own disk)."""
    if source.is_dir():
        ignored = shutil.ignore_patterns(f"{TEMPORARY}*")
        shutil.copytree(source, target, symlinks=True, ignore=ignored, copy_function=_link)
    else:
        _link(source, target)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _swap(temporary: Path, target: Path) -> None:
    old = _old(target)
    if target.is_dir() and not target.is_symlink():
        os.replace(target, old)
    elif temporary.is_dir():
        target.unlink(missing_ok=True)
    os.replace(temporary, target)  # DVC may have linked what was there to its cache; the cache's copy stays
    remove(old)


def _old(target: Path) -> Path:
    return _beside(target, _OLD)


def tidy(target: Path) -> None:
    """Remove what killed runs left beside a target; where locks say nothing, not what one at work has laid there."""
    for path in (_beside(target, TEMPORARY), _old(target), *_left(target)):
        remove(path)


def _left(target: Path) -> Iterator[Path]:
    """Temporary names with a process id: those that `set_apart` gave, and that earlier versions used."""
    for kind in (TEMPORARY, _OLD):
        for path in target.parent.glob(f"{kind}*-{glob.escape(target.name)}"):
            name = path.name[len(kind) : -len(target.name) - 1]
            if is_left(name) or (name.isdecimal() and not _apart):
                yield path


def check_writable(out: Path) -> None:
    """Raise UserError unless an out can be written: hours of work should not end in that."""
    place = next(parent for parent in out.absolute().parents if parent.exists())
    if not place.is_dir():
        raise UserError(f"{out}: {place} is a file; it must be a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"{out}: {place} cannot be written to; it must be a folder that this user may change")


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it; nothing if there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
