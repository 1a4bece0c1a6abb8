"""Work folders, so that a stage killed at any point resumes there.

DVC deletes a stage's outs before it runs, so long work happens in `.work/<stage>/<key>/` under the
repository. The key hashes everything the stage depends on, code included: unfinished work is found again by
exactly the run that would have made it, and by no other. Finished outs are moved into place last.

    with work.folder(stage.name()) as folder:
        ...                                   # files appear under `folder` one by one, by files.atomic
        work.publish(folder / "out", out)
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from selma.ground.errors import UserError
from selma.ground.files import folder_digest
from selma.runtime.dvcfile import load_stage, lookup
from selma.runtime.schema import load_yaml


@contextmanager
def folder(stage: str) -> Iterator[Path]:
    """The work folder of a stage (DVC's name for it, e.g. `images@count`), empty or as a killed run left it.

    It is kept when the body raises or dies and removed when it succeeds, along with other keys' leftovers.
    Raises UserError when the stage is not in dvc.yaml, a dependency is missing, or another process uses it.
    """
    stage_home = home() / ".work" / stage
    key = stage_key(stage)
    lock = _lock(stage_home / f"{key}.lock")
    if lock is None:
        raise UserError(f"{stage}: another process is running it now; wait for it or stop it")
    with lock:
        path = stage_home / key
        path.mkdir(exist_ok=True)
        for half_written in list(
            path.rglob(".tmp-*")
        ):  # by a killed run; its outs hold what it wrote and no more
            _remove(half_written)
        yield path
        _remove(path)
    _prune(stage_home)


def home() -> Path:
    """The repository; under `dvc exp run --temp` still that one, not the copy that will be deleted."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd())


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


def publish(src: Path, dst: Path) -> None:
    """Move a finished file or folder into place, replacing what is there; parent folders are created.

    What was there goes into the work folder first, so nothing half-removed is ever left next to the outs.
    """
    src, dst = Path(src), Path(dst)
    dst.parent.mkdir(parents=True, exist_ok=True)
    old = src.with_name(f".old-{src.name}")
    _remove(old)
    try:
        if dst.is_symlink() or dst.is_file():
            dst.unlink()  # DVC may have linked it to its cache; the cache's copy stays
        elif dst.exists():
            os.replace(dst, old)
        os.replace(src, dst)
    except OSError:
        # Another file system (data/ on its own disk): copy next to the target, then rename.
        _remove(dst)
        near = dst.with_name(f".tmp-{os.getpid()}-{dst.name}")
        shutil.move(src, near)
        os.replace(near, dst)
    _remove(old)


def _lock(path: Path) -> IO[str] | None:
    """An exclusively locked file, or None if another process has it; closing it unlocks it, as does process exit."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = open(path, "w")  # noqa: SIM115 - the caller closes it
        except FileNotFoundError:  # another process removed the empty folder just now
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
                _remove(path.with_suffix(""))
                path.unlink(missing_ok=True)
    with suppress(OSError):  # not empty: another process is at work
        stage_home.rmdir()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
