"""A stage in a preloaded process: nothing differs to whoever started it, and whatever fails, it runs in place."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import stages
from tests.dag import closure

ROOT = Path(__file__).parents[1]
SCRIPT = "import os, signal, sys, time\nfrom pathlib import Path\nexec(sys.argv[1])\n"
PARENT = "print(os.getppid(), 'selma_warm' in sys.modules)"

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(os, "pidfd_open"), reason="preloaded processes are Linux's alone"
)


@pytest.fixture(autouse=True)
def as_in_a_terminal() -> Iterator[None]:
    """Under nohup and in the background signals are ignored, and so would every process be that is started here."""
    ignored = [
        number for number in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_IGN
    ]
    for number in ignored:
        signal.signal(number, signal.default_int_handler)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


class Project:
    """A folder with the stages `sample`, which starts a preloaded process, and `filter`, which does not."""

    def __init__(self, root: Path, libraries: str = "json", idle: float = 60.0) -> None:
        self.root = root
        for name in (
            "stages/__init__.py",
            "selma/__init__.py",
            *("selma/runtime/" + name for name in ("__init__.py", "parent.py", "warm.py", "preloaded.py")),
        ):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
        server = root / "selma/runtime/preloaded.py"
        text, count = re.subn(
            r"(?s)LIBRARIES = \(.*?\n\)", f"LIBRARIES = ({libraries!r},)", server.read_text()
        )
        text, idles = re.subn(r"IDLE = [\d.]+", f"IDLE = {idle}", text)
        assert count == idles == 1
        server.write_text(text)
        for stage in ("sample", "filter"):
            (root / f"stages/{stage}.py").write_text(SCRIPT)
        self.environment = {name: value for name, value in os.environ.items() if name != "SELMA_WARM"}
        self.environment["PYTHONDONTWRITEBYTECODE"] = "1"

    def start(self, code: str, stage: str = "sample", **settings: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", f"stages.{stage}", code],
            cwd=self.root,
            env=self.environment | settings,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, code: str, stage: str = "sample", given: str = "", **settings: str) -> tuple[int, str, str]:
        process = self.start(code, stage, **settings)
        out, err = process.communicate(given, timeout=60)
        return process.returncode, out, err

    def parent(self, stage: str = "sample", **settings: str) -> int | None:
        """The preloaded process that a stage runs in; None if it runs in place."""
        code, out, err = self.run(PARENT, stage, **settings)
        assert (code, err) == (0, "")
        pid, warm = out.split()
        return int(pid) if warm == "True" else None

    def servers(self) -> list[int]:
        """The preloaded processes of this folder, without their children."""
        mine = str(self.root / "selma/runtime/preloaded.py").encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if mine in words and alive(int(folder.name)):
                found.append(int(folder.name))
        return [pid for pid in found if parent_of(pid) not in found]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = Project(tmp_path)
    yield made
    shutil.rmtree(tmp_path / ".work", ignore_errors=True)
    wait_for(lambda: not made.servers())


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


def test_one_process_serves_all_and_runs_the_code_as_it_is(project: Project) -> None:
    first = project.parent()
    assert first is not None and project.servers() == [first]
    assert project.parent() == project.parent("filter") == first
    (project.root / "stages/sample.py").write_text("print('edited')\n")
    assert project.run("") == (0, "edited\n", "")


def test_a_light_stage_starts_none(project: Project) -> None:
    assert project.parent("filter") is None and not project.servers()
    assert not (project.root / ".work").exists()


def test_two_at_once_share_one(project: Project) -> None:
    running = [project.start(f"time.sleep(0.3); {PARENT}") for _ in range(4)]
    said = {process.communicate()[0] for process in running}
    assert len(said) == 1 and "True" in said.pop() and len(project.servers()) == 1


WHO = """
import json
spec = sys.modules['__main__'].__spec__
mask = os.umask(0); os.umask(mask)
started = [sys.stdout.isatty(), sys.stdout.encoding, sys.stdout.errors, sys.stdout.line_buffering]
handlers = [str(signal.getsignal(n)) for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)]
print(json.dumps([sys.argv, sys.orig_argv, sys.path, spec.name, __name__, os.getcwd(), mask, started, handlers,
    dict(os.environ), sys.stdin.read(), sorted(os.listdir('/proc/self/fd'))[:3], len(os.listdir('/proc/self/task'))]))
"""


@pytest.mark.parametrize("before", ["", "umask 027;", "trap '' HUP;"])
def test_the_child_is_what_the_command_would_be(project: Project, before: str) -> None:
    def who(**settings: str) -> list:
        done = subprocess.run(
            ["bash", "-c", f'{before} exec "$@"', "-", sys.executable, "-m", "stages.sample", WHO],
            cwd=project.root,
            env=project.environment | settings,
            input="given",
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0 and done.stderr == ""
        *same, environment, given, descriptors, threads = json.loads(done.stdout)
        environment.pop("SELMA_WARM", None)
        assert given == "given" and threads == 1
        return [*same, environment, descriptors]

    there = who(DVC_STAGE="sample@a", TOKEN="secret-1", PYTHONIOENCODING="latin-1:replace")
    assert len(project.servers()) == 1
    here = who(DVC_STAGE="sample@a", TOKEN="secret-1", PYTHONIOENCODING="latin-1:replace", SELMA_WARM="off")
    assert there == here


def test_no_file_of_others_is_open_in_the_child_or_the_process(project: Project) -> None:
    code = "for n in range(3, 100):\n try: print(os.readlink(f'/proc/self/fd/{n}'))\n except OSError: pass"
    other = project.start("print(1, flush=True); time.sleep(5)")
    other.stdout.readline()
    code, out, _ = project.run(code)
    assert code == 0 and not re.search("pipe|socket|anon", out)
    (server,) = project.servers()
    assert all(os.readlink(f"/proc/{server}/fd/{number}") == "/dev/null" for number in (0, 1, 2))
    other.kill()
    other.communicate()


@pytest.mark.parametrize(
    "code",
    [
        "pass",
        "sys.exit(2)",
        "sys.exit()",
        "sys.exit('why')",
        "os._exit(7)",
        "print('last words', end=''); sys.exit(True)",
        "import atexit; atexit.register(print, 'bye')",
        "import threading; threading.Timer(0.1, print, ['late']).start()",
        "for i in range(2000): print(i); print(i, file=sys.stderr)",
        "os.write(1, b'raw'); sys.stdout.write('text')",
        "os.kill(os.getpid(), signal.SIGKILL)",
        "os.abort()",
        "signal.raise_signal(signal.SIGTERM)",
        "sys.stdout.buffer.write(bytes(range(256)).replace(b'\\r', b'').decode('latin-1').encode())",
    ],
)
def test_it_ends_as_in_place(project: Project, code: str) -> None:
    assert project.run(code) == project.run(code, SELMA_WARM="off")
    assert len(project.servers()) == 1


def test_a_bug_keeps_its_traceback(project: Project) -> None:
    code, out, err = project.run("1 / 0")
    assert (code, out) == (1, "") and err.endswith("ZeroDivisionError: division by zero\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("handled", [False, True])
def test_signals_reach_the_child(project: Project, number: signal.Signals, handled: bool) -> None:
    code = "print(os.getpid(), flush=True); time.sleep(60)"
    if handled:
        code = f"signal.signal({int(number)}, lambda *_: (print('told'), sys.exit(5)))\n{code}"

    def end(**settings: str) -> tuple[int, str, str]:
        process = project.start(code, **settings)
        child = int(process.stdout.readline())
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
        wait_for(lambda: not alive(child), 1.0)
        return process.returncode, out, err

    there = end()
    assert len(project.servers()) == 1
    assert there == end(SELMA_WARM="off")
    if number == signal.SIGINT and not handled:
        assert there == (130, "", "interrupted: run the same command again to resume\n")


def test_a_killed_command_takes_its_child_along(project: Project) -> None:
    """Also one that holds the interpreter's lock, and whatever it holds is free at once."""
    code = "import fcntl; f = open('held', 'w'); fcntl.flock(f, fcntl.LOCK_EX)\n"
    code += "print(os.getpid(), flush=True); 'a' * 40 and __import__('re').match('(a+)+$', 'a' * 40 + 'b')"
    server = project.parent()
    process = project.start(code)
    child = int(process.stdout.readline())
    process.kill()
    process.wait()
    with open(project.root / "held") as held:
        wait_for(lambda: _locks(held), 2.0)
    assert not alive(child)
    assert project.parent() == server, "the preloaded process goes on"


def _locks(file: object) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def test_a_killed_preloaded_process_ends_its_children_with_one_line(project: Project) -> None:
    process = project.start("print(os.getpid(), flush=True); time.sleep(60)")
    child = int(process.stdout.readline())
    os.kill(project.servers()[0], signal.SIGKILL)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 137
    assert err == "error: the preloaded process was killed; run the same command again to resume\n"
    wait_for(lambda: not alive(child), 1.0)
    assert project.parent() is not None, "the next one starts another"


def test_it_sleeps_and_wakes_with_its_command(project: Project) -> None:
    process = project.start("print(os.getpid(), flush=True); time.sleep(0.5); print('done')")
    child = int(process.stdout.readline())
    process.send_signal(signal.SIGTSTP)
    wait_for(lambda: state(child) == state(process.pid) == "T")
    process.send_signal(signal.SIGCONT)
    assert process.communicate(timeout=20) == ("done\n", "") and process.returncode == 0


def test_a_command_that_slept_through_its_child_does_not_run_it_again(project: Project) -> None:
    """Stopped right after it gave itself over, it hears of the child's start and end at once."""
    project.parent()
    path = project.root / "selma/runtime/warm.py"
    text = path.read_text()
    sent = "            pid = int(lines.readline())\n"
    assert sent in text
    path.write_text(text.replace(sent, f"            os.kill(os.getpid(), signal.SIGSTOP)\n{sent}"))
    process = project.start("open('ran', 'a').write('x'); sys.exit(3)")
    wait_for(lambda: state(process.pid) == "T")
    wait_for(lambda: (project.root / "ran").exists())
    time.sleep(0.3)
    process.send_signal(signal.SIGCONT)
    assert process.communicate() == ("", "") and process.returncode == 3
    assert (project.root / "ran").read_text() == "x"


def test_what_a_child_inherits_tells_processes_apart(project: Project) -> None:
    first = project.parent()
    others = {project.parent(OMP_NUM_THREADS="7"), project.parent(HF_TOKEN="hf_secret-word")}
    assert len(others | {first}) == 3
    assert project.parent(DVC_STAGE="x", DVC_EXP_NAME="y", SHLVL="9", SELMA_TRACKING="on") == first
    limited = ["bash", "-c", 'ulimit -n 200; exec "$@"', "-", sys.executable, "-m", "stages.sample", PARENT]
    done = subprocess.run(
        limited, cwd=project.root, env=project.environment, capture_output=True, text=True, check=True
    )
    assert int(done.stdout.split()[0]) not in {first, *others}
    server = project.root / "selma/runtime/preloaded.py"
    server.write_text(server.read_text() + "# edited\n")
    assert project.parent() not in {first, *others}


def test_secrets_are_on_no_disk(project: Project) -> None:
    assert project.parent(HF_TOKEN="hf_secret-word") is not None
    folder = project.root / ".work/warm"
    assert folder.stat().st_mode & 0o777 == 0o700
    for path in folder.iterdir():
        assert "secret-word" not in path.name and (
            not path.is_file() or b"secret-word" not in path.read_bytes()
        )
    assert b"secret-word" not in Path(f"/proc/{project.servers()[0]}/cmdline").read_bytes()


def test_it_ends_when_idle_or_when_its_socket_is_gone(project: Project, tmp_path: Path) -> None:
    brief = Project(tmp_path / "brief", idle=0.5)
    assert brief.parent() is not None
    wait_for(lambda: not brief.servers(), 5.0)
    assert not list(brief.root.glob(".work/warm/*.sock"))
    assert project.parent() is not None
    running = project.start("print(1, flush=True); time.sleep(2); print(2)")
    running.stdout.readline()
    shutil.rmtree(project.root / ".work")
    assert running.communicate() == ("2\n", ""), "what runs is not disturbed"
    wait_for(lambda: not project.servers(), 5.0)


def test_off_is_off(project: Project) -> None:
    for word in ("off", "0", "no", "False"):
        assert project.parent(SELMA_WARM=word) is None
    assert not (project.root / ".work").exists()


def _sock(project: Project) -> Path:
    (found,) = project.root.glob(".work/warm/*.sock")
    return found


def test_a_stale_socket_is_replaced(project: Project) -> None:
    first = project.parent()
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: not project.servers())
    assert _sock(project).exists()
    assert project.parent("filter") is None
    assert project.parent() not in (None, first)


@pytest.mark.parametrize(
    "reply",
    [b"", b"odd\n", b"\n", b"ready\n", b"ready\nodd\n", None],
    ids=["closes", "odd", "blank", "closes later", "odd later", "no socket"],
)
def test_whatever_answers_the_stage_runs_once_in_place(project: Project, reply: bytes | None) -> None:
    os.kill(project.parent(), signal.SIGKILL)
    wait_for(lambda: not project.servers())
    place = _sock(project)
    place.unlink()
    if reply is None:
        place.write_text("a file")
    else:
        listener = socket.socket(socket.AF_UNIX)
        here = os.getcwd()
        os.chdir(place.parent)  # a path has at most 107 bytes
        listener.bind(place.name)
        os.chdir(here)
        listener.listen()
    process = project.start("open('ran', 'a').write('x'); print('selma_warm' in sys.modules)", "filter")
    if reply is not None:
        connection = listener.accept()[0]
        connection.sendall(reply)
        connection.close()
        listener.close()
    assert process.communicate(timeout=20) == ("False\n", "") and process.returncode == 0
    assert (project.root / "ran").read_text() == "x"


def test_a_full_queue_is_no_reason_to_wait(project: Project) -> None:
    first = project.parent()
    os.kill(first, signal.SIGSTOP)
    waiting = []
    here = os.getcwd()
    os.chdir(project.root)
    try:
        while True:
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            waiting.append(client)
            client.connect(str(_sock(project).relative_to(project.root)))
    except BlockingIOError:
        pass
    finally:
        os.chdir(here)
    assert project.parent() is None
    for client in waiting:
        client.close()
    os.kill(first, signal.SIGCONT)
    assert project.parent() == first


def test_libraries_that_break_are_tried_once(tmp_path: Path) -> None:
    project = Project(tmp_path, libraries="broken")
    (tmp_path / "broken.py").write_text("open('tried', 'a').write('x')\nraise ValueError('odd')\n")
    assert project.parent() is None and project.parent() is None
    assert (tmp_path / "tried").read_text() == "x"
    (off,) = tmp_path.glob(".work/warm/*.off")
    assert off.read_text() == "odd\n"


def test_a_library_that_starts_threads_is_not_forked(tmp_path: Path) -> None:
    project = Project(tmp_path, libraries="threads")
    (tmp_path / "threads.py").write_text(
        "import threading, time; threading.Thread(target=time.sleep, args=[9], daemon=True).start()"
    )
    assert project.parent() is None
    assert "started 1 threads" in next(tmp_path.glob(".work/warm/*.off")).read_text()


def test_libraries_that_open_a_gpu_are_not_forked(tmp_path: Path) -> None:
    project = Project(tmp_path, libraries="torch")
    code = "import types; cuda = types.SimpleNamespace(_is_in_bad_fork=lambda: True)\n"
    (tmp_path / "torch.py").write_text(code)
    assert project.parent() is None
    (off,) = tmp_path.glob(".work/warm/*.off")
    assert off.read_text() == "the libraries opened a GPU\n"
    (tmp_path / "torch.py").write_text(code.replace("True", "False"))
    assert project.parent() is None, "not tried again at once"
    os.utime(off, (0, 0))
    assert project.parent() is not None
    shutil.rmtree(tmp_path / ".work")


def test_a_library_that_is_not_there_is_left_out(tmp_path: Path) -> None:
    project = Project(tmp_path, libraries="not_installed_anywhere")
    assert project.parent() is not None
    shutil.rmtree(tmp_path / ".work")


def test_the_path_may_be_long(tmp_path: Path) -> None:
    root = tmp_path / ("long-" * 30)
    root.mkdir()
    project = Project(root)
    assert project.parent() is not None
    shutil.rmtree(root / ".work")


def test_an_interruption_while_it_imports_is_one_line(tmp_path: Path) -> None:
    project = Project(tmp_path, libraries="slow")
    (tmp_path / "slow.py").write_text("import time; time.sleep(2)\n")
    process = project.start("open('ran', 'w')")
    wait_for(lambda: bool(project.servers()))
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=1.5)[1] == "interrupted: run the same command again to resume\n"
    assert process.returncode == 130
    assert project.parent() is not None and not (tmp_path / "ran").exists()
    shutil.rmtree(tmp_path / ".work")


def test_those_that_load_a_backbone_start_a_process() -> None:
    loads = {
        f"stages.{script.stem}"
        for script in (ROOT / "stages").glob("[!_]*.py")
        if "selma/backbones/loading.py" in closure(script.relative_to(ROOT).as_posix())
    }
    # a merge loads one where its operator asks for it; else it would wait for what it does not use
    seldom = {"stages.backbone", "stages.own_backbone", "stages.pretrain", "stages.merge", "stages.own_lora"}
    assert set(stages.HEAVY) == loads - seldom


def test_a_stage_makes_the_same_bytes_as_in_place(make_project: Callable[..., Path]) -> None:
    """Drawing and training with the libraries themselves; nothing of them runs before the fork."""
    settings = {
        "images.drawing.steps": 2,
        "expert.steps": 2,
        "expert.checkpoint_every": 1,
        "expert.batch": 2,
        "runtime.device": "cpu",
    }
    made = {}
    for warm in ("on", "off"):
        root = make_project(warm, settings)
        folder = root / "data/filtered/count"
        folder.mkdir(parents=True)
        rows = [{"id": f"count-{n}", "text": f"{n} circles"} for n in range(3)]
        (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        environment = os.environ | {"SELMA_WARM": warm, "OMP_NUM_THREADS": "1"}
        for stage in ("images", "expert"):
            done = subprocess.run(
                [sys.executable, "-m", f"stages.{stage}", "count"],
                cwd=root,
                env=environment,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
            times = json.loads((root / f".work/times/{stage}@count.json").read_text())
            assert times["warm"] is (warm == "on")
        files = [
            path
            for top in ("data/images", "models/checkpoints", "metrics")
            for path in (root / top).rglob("*")
        ]
        made[warm] = {
            path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
            if path.is_file()
        }
        if warm == "on":
            assert len(list(root.glob(".work/warm/*.sock"))) == 1 and not list(root.glob(".work/warm/*.off"))
        shutil.rmtree(root / ".work")
    assert made["on"] == made["off"] and len(made["on"]) > 6
