"""Who is at work on a file: locks, and the names of processes where locks say nothing."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import IO

_NONE = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # what file systems answer that have no locks


def locked(path: Path, kind: int = fcntl.LOCK_EX) -> IO[str] | None:
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
        except OSError as error:
            if error.errno not in _NONE:
                raise
            return file
        # Between open and lock the file may have been pruned; a lock on a deleted file guards nothing.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()


def excludes(path: Path) -> bool:
    """Whether the lock that this process holds on a file keeps others out: on some network file systems flock does
    nothing, and a second lock is granted."""
    with open(path, "w") as again:
        try:
            fcntl.flock(again, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno not in _NONE
    return False


def mine() -> str:
    """A name that no other process has, of this machine or another."""
    return f"{socket.gethostname()}-{os.getpid()}"


def is_left(name: str) -> bool:
    """Whether that is such a name, of a process of this machine that has ended."""
    host, _, pid = name.rpartition("-")
    return host == socket.gethostname() and pid.isdecimal() and not Path(f"/proc/{pid}").exists()
