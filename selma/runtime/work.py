"""Work folders, so that a stage killed at any point resumes there.

DVC deletes a stage's outs before it runs, so long work happens in `.work/<stage>/<key>/` under the
repository. The key hashes everything the stage depends on, code included: unfinished work is found again by
exactly the run that would have made it, and by no other. Finished outs are put into place last, all together.

    with work.folder(stage.name()) as folder:
        ...                                   # files appear under `folder` one by one, by files.atomic
        work.publish_all({folder / "metrics.json": metrics, folder / "out": out})
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from selma.ground.errors import UserError
from selma.ground.files import TEMPORARY, folder_digest, temporary_of
from selma.runtime import timing
from selma.runtime.dvcfile import load_stage, lookup
from selma.runtime.places import home
from selma.runtime.schema import load_yaml


@contextmanager
def folder(stage: str, shared: bool = False) -> Iterator[Path]:
    """The work folder of a stage (DVC's name for it, e.g. `images@count`), empty or as a killed run left it.

    It is kept when the body raises or dies and removed when it succeeds, along with other keys' leftovers.
    A `shared` one is for a part of the work: several processes have it at once, and it is kept in any case.
    Raises UserError when the stage is not in dvc.yaml, a dependency is missing, its outs cannot be written where they
    belong, or another process uses it.
    """
    stage_home = home() / ".work" / stage
    key = stage_key(stage)
    spec = load_stage(Path.cwd(), stage)
    outs = [Path(out) for out in (*spec.outs, *spec.metrics, *spec.plots)]
    for out in outs:
        _check_writable(out)
    lock = _lock(stage_home / f"{key}.lock", fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    if lock is None:
        raise UserError(f"{stage}: another process is running it now; wait for it or stop it")
    with lock:
        path = stage_home / key
        path.mkdir(exist_ok=True)
        if shared:
            yield path
            return
        for out in outs:
            _tidy(out)
        yield path
        _discard(path)
    _prune(stage_home)


@contextmanager
def called(names: Mapping[Path, str]) -> Iterator[None]:
    """Call paths in work folders by the names that a user knows them by, in any UserError of the body."""
    try:
        yield
    except UserError as error:
        message = str(error)
        for path, name in names.items():
            message = message.replace(str(path), name)
        raise UserError(message) from None


@timing.phase("loading")
def stage_key(stage: str, root: Path | None = None) -> str:
    """Hash of what a stage depends on: its command, its deps' contents and its params' values."""
    root = Path.cwd() if root is None else root
    spec = load_stage(root, stage)
    params = load_yaml(root / "params.yaml")
    inputs = {
        "cmd": spec.cmd,
        "deps": {dep: folder_digest(root / dep) for dep in spec.deps},
        "params": {name: lookup(params, name) for name in spec.params},
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


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
    near = {Path(target): temporary_of(Path(target)) for target in finished.values()}
    try:
        for source, target in finished.items():
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            _tidy(Path(target))
            _lay(Path(source), near[Path(target)])
        for target, temporary in near.items():
            _swap(temporary, target)
    finally:
        for temporary in near.values():
            _remove(temporary)


def _lay(source: Path, target: Path) -> None:
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
    _remove(old)


def _old(target: Path) -> Path:
    return target.with_name(f".old-{target.name}")


def _tidy(target: Path) -> None:
    """Remove what killed runs left beside a target, under the names that they use today or used with a process id."""
    left = [temporary_of(target), _old(target)]
    left += [
        path for path in target.parent.glob(f"{TEMPORARY}*-{glob.escape(target.name)}") if _of_process(path)
    ]
    for path in left:
        _remove(path)


def _of_process(path: Path) -> bool:
    return path.name.removeprefix(TEMPORARY).split("-")[0].isdecimal()


def _check_writable(out: Path) -> None:
    """Raise UserError unless an out can be written: hours of work should not end in that."""
    place = next(parent for parent in out.absolute().parents if parent.exists())
    if not place.is_dir():
        raise UserError(f"{out}: {place} is a file; it must be a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"{out}: {place} cannot be written to; it must be a folder that this user may change")


def _lock(path: Path, kind: int = fcntl.LOCK_EX) -> IO[str] | None:
    """A locked file, by default exclusively, or None if another process has it; closing it unlocks it, as does the
    process's end."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = open(path, "w")  # noqa: SIM115 - the caller closes it
        except FileNotFoundError:  # another process removed the empty folder just now
            continue
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        # Between open and lock the file may have been pruned; a lock on a deleted file guards nothing.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()


def _prune(stage_home: Path) -> None:
    """Remove every key under a stage's folder that no process holds."""
    for path in stage_home.glob("*.lock"):
        if lock := _lock(path):
            with lock:
                _discard(path.with_suffix(""))
                path.unlink(missing_ok=True)
    with suppress(OSError):  # not empty: another process is at work
        stage_home.rmdir()


@timing.phase("writing")
def _discard(path: Path) -> None:
    """Remove a work folder at one stroke: half of one, killed on the way, would be taken for unfinished work."""
    gone = path.with_name(f".gone-{path.name}")
    _remove(gone)
    if path.exists():
        os.replace(path, gone)
        _remove(gone)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
