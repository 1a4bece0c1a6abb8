"""Loaded by every Python whose PYTHONPATH has this folder: what a disk, a scheduler or a file system may do to a run.

SELMA_FAULT, read anew at every operation, as a preloaded process forks children with other environments:

    count FILE    write how many operations there were, as the process ends
    kill N        SIGKILL before the N-th operation, from 1
    after N       SIGKILL after it
    at TEXT       SIGKILL before the first one on a path that has TEXT in it
    full N        the N-th operation, and every one after it, fails for lack of space
    readonly N    the same, as on a file system that has become read-only
    noflock       flock does nothing, as on file systems without it

Operations are what changes the folder: opening a file to write, renaming, linking, making and removing.
"""

import builtins
import errno
import fcntl
import io
import os
import signal

REFUSED = {"full": errno.ENOSPC, "readonly": errno.EROFS}
done = 0
of = 0


def fault() -> list[str]:
    return os.environ.get("SELMA_FAULT", "").split()


def counted(call, path_at=0):
    def wrapper(*args, **kwargs):
        global done, of
        words = fault()
        if not words or words[0] == "noflock" or not ours(args[path_at] if len(args) > path_at else ""):
            return call(*args, **kwargs)
        if of != os.getpid():  # a child counts anew
            done, of = 0, os.getpid()
        done += 1
        kind, value = words
        if kind == "count":
            with write_count(value) as file:
                file.write(str(done))
        elif (kind == "kill" and done == int(value)) or (kind == "at" and value in str(args[path_at])):
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind in REFUSED and done >= int(value):
            raise OSError(REFUSED[kind], os.strerror(REFUSED[kind]), str(args[path_at]))
        number = done
        try:
            return call(*args, **kwargs)
        finally:
            if kind == "after" and number == int(value):
                os.kill(os.getpid(), signal.SIGKILL)

    return wrapper


def ours(path: object) -> bool:
    """Whether an operation is on what a stage makes, not on Python's caches, the preloaded process or the records."""
    if not isinstance(path, str | os.PathLike):
        return False
    text = os.path.abspath(os.fspath(path))
    root = os.getcwd()
    if not text.startswith(root + os.sep):
        return False
    kept = ("__pycache__", "/.work/warm", "/.work/tracking", "/.work/times", "mlflow")
    return not any(part in text for part in kept)


plain_open = builtins.open


def write_count(path: str):
    return plain_open(path, "w")


def opening(file, mode="r", *args, **kwargs):
    if isinstance(mode, str) and set(mode) & set("wax+"):
        return counted_open(file, mode, *args, **kwargs)
    return plain_open(file, mode, *args, **kwargs)


if os.environ.get("SELMA_FAULTS"):
    counted_open = counted(plain_open)
    builtins.open = io.open = opening
    for name, at in (
        ("replace", 1),
        ("rename", 1),
        ("link", 1),
        ("mkdir", 0),
        ("unlink", 0),
        ("remove", 0),
        ("rmdir", 0),
    ):
        setattr(os, name, counted(getattr(os, name), at))
    plain_flock = fcntl.flock

    def flock(file, kind):
        return None if fault()[:1] == ["noflock"] else plain_flock(file, kind)

    fcntl.flock = flock
