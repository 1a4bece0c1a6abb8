"""Stages side by side: what is ready runs, what is lost runs again, wherever the workers are."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selma import parallel
from selma.executing.graph import Pipeline
from selma.executing.local import Local, gpus
from selma.executing.units import LOST, Executor, Unit
from selma.executing.walk import Walk, sharded
from selma.ground.errors import UserError
from tests import slurm_cluster

ROOT = Path(__file__).parents[1]


@dataclass
class Graph:
    """A pipeline of `stages.merge` (without shards) and, where named so, of `stages.images` (with them)."""

    needs: Mapping[str, list[str]]
    stale: set[str]

    def height(self) -> dict[str, int]:
        return dict.fromkeys(self.needs, 0)

    def outdated(self, name: str) -> bool:
        return name in self.stale

    def prepare(self, name: str) -> bool:
        return True

    def command(self, name: str) -> str:
        return f"python -m stages.{'images' if name.startswith('images') else 'merge'} {name}"


@dataclass
class Scripted:
    """An executor whose units end, one a look, with the codes that are scripted for them, then with 0."""

    codes: dict[str, list[int]] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)
    at_once: int = 0
    running: list[str] = field(default_factory=list)

    def start(self, units):
        self.running += [unit.name for unit in units]
        self.started += [unit.name for unit in units]
        self.at_once = max(self.at_once, len(self.running))
        return [_Scripted(self, unit.name) for unit in units]

    def close(self) -> None: ...


@dataclass
class _Scripted:
    executor: Scripted
    name: str

    def poll(self) -> int | None:
        if self.executor.running[0] != self.name:
            return None
        self.executor.running.pop(0)
        codes = self.executor.codes.get(self.name, [])
        return codes.pop(0) if codes else 0

    def stop(self) -> None: ...


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "stages").symlink_to(ROOT / "stages")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def walk(graph: Graph, executor: Executor, workers: int = 2, **settings) -> Walk:
    return Walk(graph, executor, workers, **{"say": lambda line: None, "rest": lambda: None} | settings)


# What runs when -----------------------------------------------------------------------------------


@given(data=st.data(), size=st.integers(1, 9), workers=st.integers(1, 4))
def test_every_stale_stage_runs_once_after_what_it_needs(data, size, workers):
    names = [f"stage{number}" for number in range(size)]
    needs = {
        name: data.draw(st.lists(st.sampled_from(names[:at]), unique=True)) if at else []
        for at, name in enumerate(names)
    }
    stale = data.draw(st.sets(st.sampled_from(names)))
    executor = Scripted()
    ran = walk(Graph(needs, stale), executor, workers).run()
    assert sorted(ran) == sorted(executor.started) == sorted(stale)
    assert executor.at_once <= workers
    for name in stale:
        before = executor.started[: executor.started.index(name)]
        assert stale.intersection(needs[name]) <= set(before)


def test_what_is_out_of_date_is_asked_when_its_needs_are_there(here: Path) -> None:
    """A stage that made the same outs again leaves what follows as it is: DVC has to be asked after it, not before."""
    graph = Graph({"first": [], "second": ["first"]}, {"first"})
    asked = []
    executor = Scripted()
    graph.outdated = lambda name: asked.append((name, list(executor.started))) or name in graph.stale
    walk(graph, executor).run()
    assert asked == [("first", []), ("second", ["first"])]


def test_long_chains_begin_first(here: Path) -> None:
    graph = Graph({"short": [], "long": [], "longer": ["long"]}, {"short", "long", "longer"})
    graph.height = lambda: {"short": 0, "long": 1, "longer": 0}
    executor = Scripted()
    walk(graph, executor, 1).run()
    assert executor.started == ["long", "short", "longer"]


def test_shards_come_before_the_stage_that_gathers_them(here: Path) -> None:
    executor = Scripted()
    ran = walk(Graph({"images": [], "merge": ["images"]}, {"images", "merge"}), executor, 4, shards=3).run()
    assert executor.started == ["images 1/3", "images 2/3", "images 3/3", "images", "merge"]
    assert ran == ["images", "merge"]


def test_the_stages_that_take_shards_are_read_off_their_scripts(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    takes = {
        path.stem for path in Path("stages").glob("[!_]*.py") if sharded(f"python -m stages.{path.stem} x")
    }
    assert takes == {"images", "draw", "sample"}


@pytest.mark.parametrize("code", [LOST, -9, 137, -15])
def test_a_lost_unit_runs_again(here: Path, code: int) -> None:
    executor = Scripted({"images 2/2": [code, code]})
    assert walk(Graph({"images": []}, {"images"}), executor, shards=2).run() == ["images"]
    assert executor.started == ["images 1/2", "images 2/2", "images 2/2", "images 2/2", "images"]


def test_a_unit_that_is_always_lost_ends_the_walk_in_one_line(here: Path) -> None:
    executor = Scripted({"merge": [-9] * 9})
    with pytest.raises(UserError, match=r"^merge was killed 3 times.*goes on from here$"):
        walk(Graph({"merge": []}, {"merge"}), executor).run()
    assert executor.started == ["merge"] * 3


def test_a_stage_that_fails_starts_nothing_more_and_waits_for_what_runs(here: Path) -> None:
    executor = Scripted({"bad": [2]})
    said: list[str] = []
    graph = Graph({"bad": [], "good": [], "later": ["good"]}, {"bad", "good", "later"})
    with pytest.raises(UserError, match=r"^bad failed: nothing \(.*bad\.log has all\)"):
        walk(graph, executor, say=said.append).run()
    assert executor.started == ["bad", "good"] and not executor.running
    assert any(line.startswith("bad failed") and line.endswith("waiting for 1 that run") for line in said)


def test_while_dvc_is_busy_the_walk_waits(here: Path) -> None:
    graph = Graph({"merge": []}, {"merge"})
    asked, begun = [None, None, True], [None, None, True]
    graph.outdated = lambda name: asked.pop(0)
    graph.prepare = lambda name: begun.pop(0)
    said: list[str] = []
    assert walk(graph, Scripted(), say=said.append).run() == ["merge"]
    assert not asked and not begun
    assert said.count("another DVC command holds the repository; waiting for it") == 1


def test_what_is_brought_takes_no_place_and_what_waits_keeps_its_outs(here: Path) -> None:
    graph = Graph({"images": [], "merge": [], "after": ["images"]}, {"images", "merge", "after"})
    prepared: list[tuple[str, int]] = []

    def prepare(name: str) -> bool:
        prepared.append((name, len(executor.started)))
        return name != "images"

    executor, graph.prepare = Scripted(), prepare
    assert walk(graph, executor, 1, shards=2).run() == executor.started == ["merge", "after"]
    assert prepared == [("images", 0), ("merge", 0), ("after", 1)], "each as it begins, once"


def test_where_units_cannot_be_started_what_runs_is_waited_for(here: Path) -> None:
    executor = Scripted({"first": [0]})
    start = executor.start
    executor.start = lambda units: start(units) if not executor.started else _refuse("sbatch: error")
    graph = Graph({"first": [], "second": []}, {"first", "second"})
    with pytest.raises(UserError, match=r"^sbatch: error; the same command goes on from here$"):
        walk(graph, executor, 1).run()
    assert executor.started == ["first"] and not executor.running


def _refuse(why: str) -> None:
    raise UserError(why)


# What DVC says ------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC repository in which `second` copies what `first` copies, after one `dvc repro`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    (tmp_path / "params.yaml").write_text("{}")
    (tmp_path / "in").write_text("one")
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n"
        "  first: {cmd: cp in a, deps: [in], outs: [a]}\n"
        "  second: {cmd: cp a b, deps: [a], outs: [b: {cache: false}]}\n"
    )
    for words in (["git", "init", "--quiet"], ["dvc", "init", "--quiet"], ["dvc", "repro", "--quiet"]):
        program = [sys.executable, "-m", *words] if words[0] == "dvc" else words
        subprocess.run(program, check=True, stdin=subprocess.DEVNULL)
    return tmp_path


def test_what_is_out_of_date_is_what_dvc_would_run(repository: Path) -> None:
    assert [Pipeline().outdated(name) for name in ("first", "second")] == [False, False]
    (repository / "in").write_text("two")
    assert Pipeline().outdated("first") and (repository / "a").exists(), "it has not begun"
    assert Pipeline().prepare("first"), "though the cache has what it made of other deps"
    assert not (repository / "a").exists(), "as DVC deletes outs before it runs a stage"
    (repository / "a").write_text("two")
    assert Pipeline().outdated("second")
    (repository / "a").unlink()
    (repository / "in").write_text("one")
    pipeline = Pipeline()
    assert pipeline.outdated("first") and not pipeline.prepare("first") and not pipeline.outdated("second")
    assert (repository / "a").read_text() == "one", "brought from DVC's cache"
    (repository / "in").unlink()
    with pytest.raises(UserError, match=r"^first needs in, which is not here; "):
        Pipeline().outdated("first")
    assert (repository / "a").exists(), "what cannot be made again is not deleted"


def test_what_the_cache_has_takes_the_place_of_what_a_walk_has_made(repository: Path) -> None:
    (repository / "in").write_text("two")
    assert Pipeline().prepare("first")
    (repository / "a").write_text("two, in no cache")
    (repository / "in").write_text("one")
    assert Pipeline().outdated("first")
    assert not Pipeline().prepare("first"), "DVC would ask before it deletes it; a walk does not"
    assert (repository / "a").read_text() == "one"


# Where it runs ------------------------------------------------------------------------------------


def unit(folder: Path, code: str, name: str = "unit") -> Unit:
    return Unit(name, name, ("-c", code), str(folder), str(folder / f"{name}.log"))


def ended(handle, seconds: float = 60.0) -> int:
    until = time.monotonic() + seconds
    while (code := handle.poll()) is None:
        assert time.monotonic() < until, "it does not end"
        time.sleep(0.02)
    return code


def submitit(workers: int, settings: Mapping[str, str]) -> Executor:
    from selma.executing.slurm import Slurm

    return Slurm(workers, {"cluster": "local", **settings})


def ray(workers: int, settings: Mapping[str, str]) -> Executor:
    pytest.importorskip("ray", reason="the executor ray is an extra: pip install -e .[ray]")
    from selma.executing.rays import Ray

    return Ray(workers, settings)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A real SLURM, where one can be started."""
    if not slurm_cluster.CAN_START:
        pytest.skip(slurm_cluster.WHY)
    with slurm_cluster.cluster(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


EXECUTORS = {"local": Local, "submitit": submitit, "slurm": submitit, "ray": ray}


@pytest.fixture(params=EXECUTORS)
def executor(request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Executor]:
    """Each executor, with two workers, in a folder from which `selma` can be imported."""
    (tmp_path / "selma").symlink_to(ROOT / "selma")
    monkeypatch.chdir(tmp_path)
    settings = {}
    if request.param == "slurm":
        for name, value in request.getfixturevalue("slurm").items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("selma.executing.slurm.LAG", 3.0)  # no network file system here
        settings = {"cluster": "slurm", "mem_gb": "0"}
    made = EXECUTORS[request.param](2, settings)
    yield made
    made.close()


def test_units_run_in_the_repository_and_their_ends_are_told(executor, tmp_path: Path) -> None:
    good, bad = executor.start(
        [
            unit(tmp_path, "import os; open('here', 'w').write(os.environ['SELMA_UNIT'])", "good"),
            unit(tmp_path, "import sys; print('error: no such thing'); sys.exit(2)", "bad"),
        ]
    )
    assert (ended(good), ended(bad)) == (0, 2)
    assert (tmp_path / "here").read_text().isdecimal()
    assert (tmp_path / "bad.log").read_text() == "error: no such thing\n"


def test_a_killed_command_and_a_killed_worker_are_lost(executor, tmp_path: Path) -> None:
    (killed,) = executor.start([unit(tmp_path, "import os; os.kill(os.getpid(), 9)")])
    assert ended(killed) == -9
    (alone,) = executor.start(
        [unit(tmp_path, "import os; os.kill(os.getppid(), 9)")]  # the process that waits for it
        if not isinstance(executor, Local)
        else [unit(tmp_path, "import os; os.kill(os.getpid(), 15)")]
    )
    assert ended(alone) < 0


def test_a_unit_that_cannot_begin_has_failed_and_says_why(executor, tmp_path: Path) -> None:
    """Another folder on the node, say; running it again would not help."""
    lost = Unit("unit", "unit", ("-c", "0"), str(tmp_path / "elsewhere"), str(tmp_path / "unit.log"))
    if isinstance(executor, Local):
        with pytest.raises(OSError, match="elsewhere"):
            executor.start([lost])
        return
    (handle,) = executor.start([lost])
    assert ended(handle) == 1
    assert "did not begin" in (tmp_path / "unit.log").read_text()


def test_a_unit_that_is_stopped_ends(executor, tmp_path: Path) -> None:
    code = (
        "import os, time; from selma.runtime.parent import end_with_parent; end_with_parent(); "
        "open('pid', 'w').write(str(os.getpid())); time.sleep(600)"
    )
    (handle,) = executor.start([unit(tmp_path, code)])
    pid = wait_for(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text())
    handle.stop()
    assert ended(handle) < 0
    wait_for(lambda: not alive(int(pid)))


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> object:
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, "it does not come"
        time.sleep(0.02)
    return found


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_each_local_worker_has_its_gpu_and_its_share_of_the_processors(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    local = Local(3, {"gpus": "4, 7"})
    code = "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['OMP_NUM_THREADS']); time.sleep(0.2)"
    for handle in local.start([unit(tmp_path, code, name) for name in "abc"]):
        assert ended(handle) == 0
    assert [(tmp_path / f"{name}.log").read_text() for name in "abc"] == ["4 2\n", "7 2\n", "4 2\n"]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert Local(3, {}).slots[0]["OMP_NUM_THREADS"] == "5", "what a user has set stays"


def test_the_gpus_are_those_that_the_environment_leaves(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3")
    assert gpus() == ["1", "3"] and gpus("2") == ["2"] and gpus("") == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    smi = tmp_path / "nvidia-smi"
    smi.write_text(
        "#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-a)'\necho 'GPU 1: NVIDIA H100 (UUID: GPU-b)'\n"
    )
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert gpus() == ["0", "1"]


# Bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--workers", "0"], "--workers: 0; allowed: 1 or more"),
        (["--shards", "-1"], "--shards: -1; allowed: 1 or more"),
        (["--set", "gpus"], "--set: gpus; it must be KEY=VALUE, e.g. slurm_partition=gpu"),
        (["--set", "card=1"], "--set card; the local executor has gpus and threads"),
        (["--set", "threads=no"], "--set threads=no; it must be a whole number, 1 or more"),
        (["--executor", "submitit", "--set", "cluster=moon"], "--set cluster=moon; allowed: slurm, local"),
        (["--executor", "submitit", "--set", "cluster=debug"], "--set cluster=debug; allowed: slurm, local"),
        (["--executor", "submitit", "--set", "cluster=local", "--set", "timeout_min=0.5"], "submitit says"),
        (
            ["--executor", "submitit", "--set", "cluster=local", "--set", "gpus_per_node=many"],
            "submitit says",
        ),
        (["--executor", "submitit", "--set", "cluster=local", "--set", "tme=3"], "submitit says"),
        (["no_such_stage"], "no_such_stage"),
    ],
)
def test_bad_input_is_one_line(words, line, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))  # its lock lies there: another test may run here, too
    assert parallel.main(words) == 2
    said = capsys.readouterr().err.strip()
    assert line in said and len(said.splitlines()) == 1


def test_a_ray_address_where_nothing_listens_is_one_line_at_once(monkeypatch) -> None:
    pytest.importorskip("ray", reason="the executor ray is an extra: pip install -e .[ray]")
    from selma.executing import rays

    monkeypatch.setattr(rays, "PATIENCE", 2.0)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        for named in (address, f"ray://{address}"):
            with pytest.raises(UserError, match=f"{named}: nothing answers there"):
                rays.Ray(2, {"address": named})


def test_a_dep_that_no_stage_makes_is_named_before_anything_is_deleted(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (["git", "init", "--quiet"], ["dvc", "init", "--quiet"]):
        subprocess.run(words, check=True)
    Path("dvc.yaml").write_text(
        "stages:\n  frozen: {cmd: exit 1, outs: [weights], frozen: true}\n"
        "  early: {cmd: exit 1, outs: [made]}\n  late: {cmd: exit 1, deps: [weights/model, made], outs: [last]}\n"
    )
    Path("made").write_text("before")
    with pytest.raises(UserError, match=r"late needs weights/model, which is not here; .*dvc pull"):
        Pipeline().check()
    assert Path("made").is_file()
    Path("weights").mkdir()
    Path("weights/model").write_text("1")
    Pipeline().check()


# A stage ends with who started it -----------------------------------------------------------------


def test_submitits_local_jobs_end_when_the_walk_is_killed(tmp_path: Path) -> None:
    (tmp_path / "selma").symlink_to(ROOT / "selma")
    pid = tmp_path / "pid"
    code = (
        "import os, time; from selma.runtime.parent import end_with_parent; end_with_parent(); "
        f"open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    )
    walk = "\n".join(
        [
            "import time",
            "from selma.executing.slurm import Slurm",
            "from selma.executing.units import Unit",
            f"unit = Unit('unit', 'unit', ('-c', {code!r}), {str(tmp_path)!r}, {str(tmp_path / 'unit.log')!r})",
            "Slurm(1, {'cluster': 'local'}).start([unit])",
            "time.sleep(600)",
        ]
    )
    process = subprocess.Popen([sys.executable, "-c", walk], cwd=tmp_path, stdout=subprocess.DEVNULL)
    child = int(wait_for(lambda: pid.is_file() and pid.read_text()))
    process.kill()
    process.wait()
    wait_for(lambda: not alive(child), 20.0)


def test_a_stage_ends_when_dvc_or_the_walk_is_killed(tmp_path: Path) -> None:
    """`kill -9` of the starter: a stage that went on would hold its lock against the next call."""
    for variable in ("DVC_STAGE", "SELMA_UNIT"):
        child = "\n".join(
            [
                "import os, time",
                "from selma.runtime.parent import end_with_parent",
                "end_with_parent()",
                f"open({str(tmp_path / variable)!r}, 'w').write(str(os.getpid()))",
                "time.sleep(600)",
            ]
        )
        starter = "\n".join(
            [
                "import os, subprocess, sys",
                f"os.environ[{variable!r}] = str(os.getpid())",
                f"subprocess.run([sys.executable, '-c', {child!r}])",
            ]
        )
        process = subprocess.Popen([sys.executable, "-c", starter], cwd=ROOT)
        pid = int(wait_for(lambda: (file := tmp_path / variable).is_file() and file.read_text()))  # noqa: B023
        assert alive(pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_for(lambda: not alive(pid))  # noqa: B023
