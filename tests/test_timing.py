"""Where a stage's seconds go: phases add up to the run, a killed stage leaves the times of the run before."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selma import times
from selma.ground.errors import UserError
from selma.runtime import stage, timing
from selma.runtime.timing import PHASES

ROOT = Path(__file__).parents[1]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    (tmp_path / "params.yaml").write_text("rows: [a, b]\n")
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  toy: {foreach: '${rows}', do: {cmd: 'python -m stages.toy ${item}'}}\n  last: {cmd: x}\n"
    )
    return tmp_path


# A body is a list of seconds that pass, and of (phase, body): what runs inside.
BODIES = st.recursive(
    st.integers(0, 9),
    lambda inner: st.tuples(st.sampled_from(PHASES), st.lists(inner, max_size=4)),
    max_leaves=20,
)


@given(st.lists(BODIES, max_size=6))
def test_a_phase_has_its_own_seconds_alone(body: list) -> None:
    expected, now = dict.fromkeys(PHASES, 0), [1000.0]

    def run(parts: list, current: str) -> None:
        for part in parts:
            if isinstance(part, int):
                expected[current] += part
                now[0] += part
            else:
                with timing.phase(part[0]):
                    run(part[1], part[0])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing.time, "monotonic", lambda: now[0])
        patch.setattr(timing, "_age", lambda: 2.0)
        kept = []
        patch.setattr(timing, "write_json", lambda path, value: kept.append(value))
        with timing.stage("toy"):
            run(body, "work")
    expected["start-up"] += 2
    assert kept[0]["seconds"] == expected


def test_the_seconds_of_a_run_add_up_to_it(project: Path) -> None:
    began = time.monotonic()
    with timing.stage("toy@a"):
        with timing.phase("loading"):
            time.sleep(0.02)
        with timing.counting("steps") as done:
            for _ in range(3):
                time.sleep(0.01)
                with timing.phase("writing"):
                    time.sleep(0.01)
                done(1)
    took = time.monotonic() - began
    found = timing.read(project, "toy@a")
    assert found["stage"] == "toy@a" and not found["warm"]
    seconds = found["seconds"]
    assert 0.08 <= sum(seconds.values()) - seconds["start-up"] <= took
    assert seconds["start-up"] > 0.1, "this process began long before"
    assert seconds["loading"] >= 0.02 and seconds["writing"] >= 0.03
    assert found["counts"]["steps"]["number"] == 3
    assert 0.03 <= found["counts"]["steps"]["seconds"] <= took - 0.05, "of work alone"


def test_another_thread_takes_the_stage_no_time(project: Path) -> None:
    def write() -> None:
        with timing.phase("writing"), timing.counting("files") as done:
            time.sleep(0.05)
            done(1)

    with timing.stage("toy@a"):
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
    found = timing.read(project, "toy@a")
    assert found["seconds"]["writing"] == 0 and found["seconds"]["work"] >= 0.05 and found["counts"] == {}


def test_outside_a_stage_nothing_is_measured(project: Path) -> None:
    with timing.phase("loading"), timing.counting("steps") as done:
        done(1)
    assert not (project / ".work").exists()


def test_a_run_that_fails_leaves_the_times_of_the_one_before(project: Path) -> None:
    with timing.stage("toy@a"):
        pass
    before = timing.file_of(project, "toy@a").read_bytes()
    with pytest.raises(ZeroDivisionError), timing.stage("toy@a"):
        _ = 1 / 0
    assert timing.file_of(project, "toy@a").read_bytes() == before
    assert os.listdir(project / timing.FOLDER) == ["toy@a.json"]


def test_a_stage_is_not_failed_by_its_times(project: Path) -> None:
    (project / ".work").write_text("a file where the folder should be")
    with timing.stage("toy@a"):
        pass


def test_progress_counts_what_passes(project: Path) -> None:
    with timing.stage("toy@a"):
        assert list(stage.progress(range(5), 5, "toy", "images")) == [0, 1, 2, 3, 4]
    assert timing.read(project, "toy@a")["counts"]["images"]["number"] == 5


SCRIPT = """
import time
from selma.runtime import stage, timing

def main(name: str) -> None:
    with timing.phase("loading"):
        time.sleep(0.05)
    print("begun", flush=True)
    if name == "b":
        time.sleep(60)

if __name__ == "__main__":
    stage.run(main)
"""


def test_what_a_process_does_before_main_is_start_up(project: Path) -> None:
    (project / "stages").mkdir()
    (project / "stages/__init__.py").write_text("import time; time.sleep(0.2)\n")
    (project / "stages/toy.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DVC_ROOT": "", "DVC_STAGE": ""}
    command = [sys.executable, "-m", "stages.toy"]
    began = time.monotonic()
    subprocess.run([*command, "a"], env=environment, check=True, capture_output=True)
    took = time.monotonic() - began
    seconds = timing.read(project, "toy@a")["seconds"]
    assert 0.2 < seconds["start-up"] < took and sum(seconds.values()) < took
    assert 0.05 <= seconds["loading"] < 0.2

    kept = timing.file_of(project, "toy@b")
    kept.write_text(json.dumps(timing.read(project, "toy@a") | {"stage": "toy@b"}))
    before = kept.read_bytes()
    killed = subprocess.Popen([*command, "b"], env=environment, stdout=subprocess.PIPE, text=True)
    killed.stdout.readline()
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert kept.read_bytes() == before


def test_the_table_is_in_the_order_of_the_dag(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def keep(name: str, **seconds: float) -> None:
        path = timing.file_of(project, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        counts = {"images": {"number": 30, "seconds": 4.0}, "answers": {"number": 0, "seconds": 0.0}}
        path.write_text(
            json.dumps({"stage": name, "warm": name == "last", "seconds": seconds, "counts": counts})
        )

    assert times.main([]) == 2
    assert capsys.readouterr().err == (
        "error: .work/times: no stage has run here; a pulled run has no times, `make profile-run` takes them\n"
    )
    keep("last", **{"start-up": 0.5, "work": 0.25})
    keep("toy@b", loading=1.0)
    keep("toy@gone", loading=99.0)
    assert times.main(["--wall", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["toy@b", "last"]
    assert lines[3].split()[1:] == ["0.50", "0.00", "0.25", "0.00", "0.00", "0.75", "7.5", "images"]
    assert lines[-1] == (
        "2 stages (1 in a preloaded process), 1.8 s: start-up 0.5, loading 1.0, work 0.2, writing 0.0, "
        "tracking 0.0; 3.0 s in all, 1.2 s of it outside of stages"
    )
    assert times.main(["--totals"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_broken_record_is_one_line(project: Path) -> None:
    path = timing.file_of(project, "last")
    path.parent.mkdir(parents=True)
    path.write_text('{"stage": "last", "warm": 1, "seconds": {}, "counts": {}}')
    with pytest.raises(UserError, match=r"last\.json: warm is 1"):
        timing.read(project, "last")
