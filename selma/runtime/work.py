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
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from selma.ground.errors import UserError
from selma.ground.files import TEMPORARY, folder_digest
from selma.runtime import finished, timing
from selma.runtime.dvcfile import load_stage, load_stages, lookup
from selma.runtime.locks import excludes, is_left, locked, mine
from selma.runtime.outs import check_writable, publish, publish_all, remove, set_apart, tidy
from selma.runtime.places import home
from selma.runtime.schema import load_yaml
from selma.runtime.sound import drop_damaged

__all__ = ["alone", "called", "folder", "prune", "publish", "publish_all", "stage_key"]


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
    outs = spec.made
    for out in outs:
        check_writable(out)
    lock = locked(stage_home / f"{key}.lock", fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    if lock is None:
        raise UserError(f"{stage}: another process is running it now; wait for it or stop it")
    with lock:
        path = stage_home / key
        if shared:
            path.mkdir(exist_ok=True)
            yield path
            return
        if not excludes(stage_home / f"{key}.lock"):
            path = _own(path)
            set_apart()
        path.mkdir(exist_ok=True)
        for out in outs:
            tidy(out)
        for damaged in drop_damaged(path):
            print(f"warning: {damaged} was damaged, and is made again", file=sys.stderr, flush=True)
        yield path
        finished.keep(stage, key, outs)
        _discard(path)
    _prune(stage_home)


@contextmanager
def alone(what: str) -> Iterator[None]:
    """Be the only process of this repository that does `what`; raises UserError where another one does."""
    lock = locked(home() / ".work" / f"{what}.lock")
    if lock is None:
        raise UserError(f"{what}: another process is running it now; wait for it or stop it")
    with lock:
        yield


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
        "deps": {dep: _digest(root / dep) for dep in spec.deps},
        "params": {name: lookup(params, name) for name in spec.params},
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def _digest(path: Path) -> str:
    """Hash of a file or folder, without the .gitignore files that DVC writes beside outs when it has them."""
    if not path.is_dir():
        return folder_digest(path)
    children = [
        f"{child.name}\0{_digest(child)}\n"
        for child in sorted(path.iterdir())
        if child.name not in (".gitignore", "__pycache__") and not child.name.startswith(TEMPORARY)
    ]
    return hashlib.sha256("".join(children).encode("utf-8", "surrogateescape")).hexdigest()


def _own(path: Path) -> Path:
    """A work folder that no other process uses, where locks say nothing: the one that a dead process has left, if any.

    Two processes then do the same work twice, and put the same bytes into place. Renaming is atomic: of two that want
    what is left one has it.
    """
    own = path.with_name(f"{path.name}.{mine()}")
    for left in (path, *_left(path.parent, path.name)):
        with suppress(OSError):
            os.rename(left, own)
            break
    return own


def _left(stage_home: Path, key: str = "*") -> Iterator[Path]:
    """Folders of `_own` whose process has ended."""
    return (path for path in stage_home.glob(f"{key}.*") if is_left(path.name.partition(".")[2]))


def prune(stage: str) -> None:
    """Remove what killed runs of a stage have left, but for what a process is at work on."""
    _prune(home() / ".work" / stage)


def tidy_all() -> None:
    """Remove what unfinished runs of all stages have left, but for what a process is at work on."""
    stages = load_stages(Path.cwd())
    for place in (home() / ".work").glob("*"):
        if place.name in stages and place.is_dir():
            _prune(place)


def _prune(stage_home: Path) -> None:
    """Remove every key under a stage's folder that no process holds."""
    for path in _left(stage_home):
        _discard(path)
    for path in stage_home.glob("*.lock"):
        if lock := locked(path):
            with lock:
                _discard(path.with_suffix(""))
                path.unlink(missing_ok=True)
    with suppress(OSError):  # not empty: another process is at work
        stage_home.rmdir()


@timing.phase("writing")
def _discard(path: Path) -> None:
    """Remove a work folder at one stroke: half of one, killed on the way, would be taken for unfinished work."""
    gone = path.with_name(f".gone-{path.name}")
    remove(gone)
    if path.exists():
        os.replace(path, gone)
        remove(gone)
