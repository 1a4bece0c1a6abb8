"""Give a stage over to a process that has torch and diffusers imported already (preloaded.py), and end as it ends.

Importing them takes seconds, and a pipeline runs them dozens of times. The first stage that needs them starts such
a process; it forks a child for that stage and for every later one of the same pipeline. To whoever started the stage
nothing differs: this process stays, passes signals on, and leaves with the child's exit code. If it is killed,
so is the child; a child that crashes takes it along. The preloaded process takes 450 MB, which its children share, and
ends half a minute after the last stage.

Whatever is in the way (no Linux, another user's socket, a process that does not answer), the stage runs in place, as
with SELMA_WARM=off. Processes are kept apart by `_key`: all that a child inherits and a stage cannot set for itself.
Secrets of the environment go over the socket alone; on the disk is a hash, in a folder that nobody else may open.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import BinaryIO, NoReturn

SERVER = Path(__file__).with_name("preloaded.py")
FOLDER = Path(".work/warm")  # relative: a socket's path has at most 107 bytes
PATIENCE = 180.0  # seconds, the imports included; then the stage runs in place
PAUSE = 600.0  # seconds until libraries that could not be preloaded are tried again
HARMLESS = {"PWD", "OLDPWD", "SHLVL", "_", "COLUMNS", "LINES"}  # no library reads these as it is imported
OURS = ("DVC_", "SELMA_")  # nor variables that begin so
# Lines of /proc/self/status: who may do what, on which processors.
INHERITED = ("Uid", "Gid", "Groups", "Cap", "NoNewPrivs", "Seccomp:", "Cpus_allowed:", "Mems_allowed:")


def hand_over(module: str, *, start: bool) -> None:
    """Run `python -m module` in a preloaded process, and leave as it leaves; return if that cannot be.

    With `start`, a preloaded process is started where there is none.
    """
    if os.environ.get("SELMA_WARM", "").lower() in ("off", "0", "false", "no"):
        return
    if not (sys.platform == "linux" and hasattr(os, "pidfd_open")):
        return
    with suppress(OSError, ValueError):
        os.close(os.pidfd_open(os.getpid()))  # fails before Linux 5.3
        connection = _connect(start)
        if connection is None:
            return
        with connection, connection.makefile("rb") as lines:  # closed on an error, which ends a child
            if lines.readline() != b"ready\n":  # it has imported everything
                return
            _send(connection, module)
            pid = int(lines.readline())
            connection.settimeout(None)
            _follow(pid, lines)


def _connect(start: bool) -> socket.socket | None:
    """A connection to a preloaded process, perhaps one that is still importing; None if there is none."""
    place = FOLDER / f"{_key()}.sock"
    off = place.with_suffix(".off")
    if not (start or place.exists()) or (off.exists() and time.time() - off.stat().st_mtime < PAUSE):
        return None
    FOLDER.mkdir(parents=True, exist_ok=True)
    FOLDER.chmod(0o700)
    if FOLDER.stat().st_uid != os.geteuid():
        return None
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(PATIENCE)
    with open(FOLDER / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two stages at once start one
        try:
            connection.connect(str(place))
        except (FileNotFoundError, ConnectionRefusedError):
            if not start:
                return None
            _start(place)
            connection.connect(str(place))
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return connection if uid == os.geteuid() else None


def _start(place: Path) -> None:
    """Start a preloaded process that listens at `place`; requests wait there until it has imported everything."""
    new = place.with_suffix(".new")
    new.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(new))
        listener.listen(64)
        os.replace(new, place)
        file = place.stat()
        # Not ours to wait for. A session of its own: neither Ctrl-C nor the end of a terminal reaches it.
        subprocess.Popen(
            [sys.executable, SERVER, str(listener.fileno()), str(file.st_dev), str(file.st_ino)],
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )


def _key() -> str:
    """Hash of the interpreter and its packages, of the server's code, and of what its children inherit from it."""
    folders = [Path(path) for path in sys.path if path.endswith("-packages")]
    status = Path("/proc/self/status").read_text().splitlines()
    parts = [
        [sys.version, os.path.realpath(sys.executable), sys.prefix, repr(sys.flags), sys.path],
        # Installing changes the folder, or the stamp of the Makefile.
        [
            path.stat().st_mtime_ns
            for path in (*folders, *Path(sys.prefix).glob(".installed-*"))
            if path.exists()
        ],
        SERVER.read_text(encoding="utf-8"),
        sorted(
            (name, value)
            for name, value in os.environ.items()
            if name not in HARMLESS and not name.startswith(OURS)
        ),
        [resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")],
        [line for line in status if line.startswith(INHERITED)],
        [os.readlink(path) for path in sorted(Path("/proc/self/ns").iterdir())],
        [os.getpriority(os.PRIO_PROCESS, 0), Path("/proc/self/cgroup").read_text()],
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _send(connection: socket.socket, module: str) -> None:
    """Send what the child needs to be this process, its streams first."""
    umask = os.umask(0)
    os.umask(umask)
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    request = {
        "module": module,
        "arguments": sys.argv,
        "command": sys.orig_argv,
        "path": sys.path,
        "cwd": os.getcwd(),
        "umask": umask,
        "environment": dict(os.environ),
        "streams": [_settings(stream) for stream in (sys.stdin, sys.stdout, sys.stderr)],
        "ignored": [
            number
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
            if signal.getsignal(number) is signal.SIG_IGN
        ],
        "began": ticks / os.sysconf("SC_CLK_TCK"),  # seconds since the machine's start: for timing.py
    }
    body = json.dumps(request).encode()
    socket.send_fds(connection, [struct.pack("Q", len(body))], [0, 1, 2])
    connection.sendall(body)


def _settings(stream: object) -> dict[str, object]:
    """What a text stream was opened with, as `reconfigure` takes it; raises ValueError for one that is closed."""
    if stream is None:
        raise ValueError("a closed stream cannot be given over")
    names = ("encoding", "errors", "line_buffering", "write_through")
    return {name: getattr(stream, name) for name in names}


def _follow(pid: int, lines: BinaryIO) -> NoReturn:
    """Wait for the child's end, which is this process's: the stage has begun and must not run a second time."""
    with suppress(OSError):  # it has ended already
        _pass_signals_on(os.pidfd_open(pid), pid)
    try:
        status = lines.readline()
    except OSError:
        status = b""
    _leave(status)


def _pass_signals_on(child: int, pid: int) -> None:
    """Send the child, a pidfd, what this process is sent, and let it sleep and wake with it."""

    def forward(number: int, frame: FrameType | None) -> None:
        with suppress(ProcessLookupError):  # it has just ended
            signal.pidfd_send_signal(child, number)

    def sleep(number: int, frame: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGSTOP)
            os.kill(os.getpid(), signal.SIGSTOP)
            os.killpg(pid, signal.SIGCONT)  # so is this one: it goes on here

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, forward)
    if signal.getsignal(signal.SIGTSTP) is not signal.SIG_IGN:
        signal.signal(signal.SIGTSTP, sleep)


def _leave(status: bytes) -> NoReturn:
    """End as the child did, by its exit code or its signal."""
    if not status.strip().isdigit():  # the preloaded process died, and the child with it
        os.write(2, b"error: the preloaded process was killed; run the same command again to resume\n")
        os._exit(137)
    number = int(status)
    if os.WIFSIGNALED(number):
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the child has left one, if any is wanted
        with suppress(OSError, ValueError):  # SIGKILL has no handler
            signal.signal(os.WTERMSIG(number), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(number))
    os._exit(os.waitstatus_to_exitcode(number))
