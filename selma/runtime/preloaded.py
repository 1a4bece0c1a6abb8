"""A process that has the heavy libraries imported, and becomes a stage by forking: see warm.py, which starts it.

    python selma/runtime/preloaded.py DESCRIPTOR DEVICE INODE    a listening socket, and the file that it is bound to

It imports libraries alone, never a file of this repository, so that a stage always runs the code as it is. It computes
nothing, starts no thread of Python's and does not touch a GPU before it forks: then a child is as good as a process
that imported all this itself. It ends when nobody asked for IDLE seconds, or its socket's file is gone.
"""

import sys

sys.path[0] = ""  # not this file's folder: its names are not the libraries'
# ruff: noqa: E402

import atexit
import ctypes
import gc
import importlib
import io
import json
import os
import random
import runpy
import selectors
import signal
import socket
import struct
import threading
import time
import types
from contextlib import suppress
from pathlib import Path

IDLE = 30.0  # seconds
PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15
# Kept back while a child is not ready for them.
BLOCKED = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}
LIBRARIES = (
    "numpy",
    "PIL.WebPImagePlugin",
    "pydantic.dataclasses",
    "pydantic.type_adapter",
    "ruamel.yaml",
    "tqdm",
    "yaml",
    "torch",
    "safetensors.torch",
    "scipy.stats",
    "transformers.models.clip.modeling_clip",
    "transformers.models.clip.tokenization_clip",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl",
    "diffusers.schedulers",
    "peft",
)


def preload() -> None:
    """Import LIBRARIES; raises RuntimeError if that left something that a fork would break."""
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # a look for GPUs that does not open one
    gc.disable()
    for name in LIBRARIES:
        with suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()  # children neither walk nor copy what is there
    if (threads := threading.active_count()) > 1:
        raise RuntimeError(f"the libraries started {threads - 1} threads")
    torch = sys.modules.get("torch")
    child = os.fork()
    if child == 0:
        os._exit(bool(torch and torch.cuda._is_in_bad_fork()))
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("the libraries opened a GPU")


class Client:
    """A command that gave itself over: its connection, its child's process id, and a pidfd that says when it ends."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self.child, self.watch = connection, 0, -1

    def close(self) -> None:
        self.connection.close()
        if self.watch >= 0:
            os.close(self.watch)


def serve(listener: socket.socket, file: tuple[int, int]) -> dict:
    """Fork a child for every request; returns the request, in the child. The process itself never returns."""
    place = Path(listener.getsockname()).with_suffix(".sock")  # it was renamed since
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    clients: list[Client] = []
    used = time.monotonic()
    while True:
        for key, _ in selector.select(timeout=1.0):
            used, client = time.monotonic(), key.data
            if client is None:
                client = Client(listener.accept()[0])
                request = _receive(client.connection)
                if request and _fork(client, request["fds"]):
                    for opened in (selector, listener, client, *clients):
                        opened.close()
                    return request
                if client.child:
                    selector.register(client.connection, selectors.EVENT_READ, client)
                    selector.register(client.watch, selectors.EVENT_READ, client)
                    clients.append(client)
                else:
                    client.close()
            elif client in clients:
                if key.fd != client.watch:  # a client sends nothing more: it is gone
                    signal.pidfd_send_signal(client.watch, signal.SIGKILL)
                    with suppress(ProcessLookupError):
                        os.killpg(client.child, signal.SIGKILL)  # and what it started
                status = os.waitpid(client.child, 0)[1]
                with suppress(OSError):
                    client.connection.sendall(b"%d\n" % status)
                selector.unregister(client.connection)
                selector.unregister(client.watch)
                client.close()
                clients.remove(client)
        gone = not _is(place, file)
        if not clients and (gone or time.monotonic() - used > IDLE):
            if not gone:
                place.unlink(missing_ok=True)
            os._exit(0)


def become(request: dict) -> None:
    """Make this process what the client is: its streams, environment, folder, arguments and signals."""
    for number, descriptor in enumerate(request["fds"]):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["cwd"])
    os.umask(request["umask"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv[:] = request["arguments"]
    sys.orig_argv[:] = request["command"]
    sys.path[:] = request["path"]
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = _opened(number, name, **request["streams"][number])
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN if number in request["ignored"] else signal.SIG_DFL)
    signal.signal(signal.SIGINT, _interrupted)
    ctypes.CDLL(None).prctl(PR_SET_NAME, request["module"].encode())  # for `top`
    random.seed()  # as in a process of its own, no two alike
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    importlib.invalidate_caches()
    known = types.ModuleType("selma_warm")  # tells the stage that it is one of these
    known.began = request["began"]
    sys.modules["selma_warm"] = known
    gc.enable()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)


def _receive(connection: socket.socket) -> dict | None:
    """A client's request, with the descriptors of its three streams as `fds`; None if it is none."""
    descriptors: list[int] = []
    try:
        connection.settimeout(5.0)
        pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid != os.geteuid():
            return None
        connection.sendall(b"ready\n")
        head, descriptors, _, _ = socket.recv_fds(connection, 8, 3)
        (size,) = struct.unpack("Q", head)
        body = b""
        while len(body) < size and (part := connection.recv(size - len(body))):
            body += part
        return {**json.loads(body), "fds": descriptors, "pid": pid}
    except (OSError, ValueError, struct.error):
        for descriptor in descriptors:
            os.close(descriptor)
        return None


def _fork(client: Client, descriptors: list[int]) -> bool:
    """Fork; True in the child, once its client knows of it: a client that does not, runs the stage itself.

    Without a process or a descriptor to be had, the client is left without a child.
    """
    parent, pipe = os.getpid(), []
    signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
    try:
        pipe = os.pipe()
        child = os.fork()
        if child == 0:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # nobody would watch over it
            os.setsid()
            os.close(pipe[1])
            if os.getppid() != parent or not os.read(pipe[0], 1):
                os._exit(1)
            os.close(pipe[0])
            return True
        try:
            client.watch = os.pidfd_open(child)
            client.child = child
            client.connection.sendall(b"%d\n" % child)
            os.write(pipe[1], b"!")
        except OSError:  # the child finds its pipe closed
            if not client.child:
                os.close(pipe[1])
                pipe = pipe[:1]
                os.waitpid(child, 0)
    except OSError:
        pass
    signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)
    for descriptor in (*pipe, *descriptors):
        os.close(descriptor)
    return False


def _is(path: Path, file: tuple[int, int]) -> bool:
    try:
        found = os.stat(path)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == file


def _opened(number: int, name: str, **settings: object) -> io.TextIOWrapper:
    """A standard stream as the interpreter opens it; the old one knows what /dev/null can do, not a pipe."""
    mode = "w" if number else "r"
    buffering = 0 if number and settings["write_through"] else -1
    binary = open(number, f"{mode}b", buffering=buffering, closefd=False)  # noqa: SIM115
    getattr(binary, "raw", binary).name = f"<{name}>"
    stream = io.TextIOWrapper(binary, newline="\n" if number else None, **settings)
    stream.mode = mode
    return stream


def _interrupted(signum: int, frame: object) -> None:
    os.write(2, b"interrupted: run the same command again to resume\n")
    os._exit(130)


def main() -> None:
    """Preload, wait, and run what is asked for as `python -m` does."""
    descriptor, device, inode = map(int, sys.argv[1:])
    listener = socket.socket(fileno=descriptor)
    try:
        preload()
    except Exception as error:  # whatever it is, stages then import for themselves
        Path(listener.getsockname()).with_suffix(".off").write_text(f"{error}\n")
        raise
    request = serve(listener, (device, inode))
    become(request)
    try:
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as leaving:
        if not isinstance(leaving.code, int | None):
            raise
        code = leaving.code or 0
    _end(code)


def _end(code: int) -> None:
    """End as the interpreter does, but for taking apart all that was imported, which takes it half a second."""
    if threading.active_count() > 1:
        sys.exit(code)  # it waits for them
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        sys.exit(code)  # what the interpreter says to that
    os._exit(code)


if __name__ == "__main__":
    main()
