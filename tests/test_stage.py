"""How a stage ends: exit codes and single lines, as a person at a terminal and DVC see them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from selma.runtime import stage

ROOT = Path(__file__).parents[1]
SCRIPT = """
from pathlib import Path
from selma.runtime import stage
from selma.ground.errors import UserError

def main(name: str) -> None:
    print("stage", stage.name(), flush=True)
    {body}

if __name__ == "__main__":
    stage.run(main)
"""


@pytest.fixture
def start(tmp_path: Path):
    def start(body: str, *arguments: str, **environment: str) -> subprocess.Popen:
        (tmp_path / "stages").mkdir(exist_ok=True)
        (tmp_path / "stages" / "toy.py").write_text(SCRIPT.format(body=body))
        clean = {name: value for name, value in os.environ.items() if not name.startswith("DVC_")}
        return subprocess.Popen(
            [sys.executable, "-m", "stages.toy", *arguments],
            cwd=tmp_path,
            env={**clean, "PYTHONPATH": str(ROOT), "SELMA_TRACKING": "off", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    # stages/ of the repository is a package and would win over the toy's
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "__init__.py").touch()
    return start


def test_a_stage_knows_its_name(start) -> None:
    assert start("pass", "count").communicate()[0] == "stage toy@count\n"
    for given in ("toy@other", "dvc.yaml:toy@other", "../dvc.yaml:toy@other", "../a:b/dvc.yaml:toy@other"):
        assert start("pass", "count", DVC_STAGE=given).communicate()[0] == "stage toy@other\n"


@pytest.mark.parametrize("arguments", [(), ("a", "b")])
def test_wrong_arguments_get_the_usage(start, arguments: tuple[str, ...]) -> None:
    process = start("pass", *arguments)
    assert process.communicate() == ("", "usage: python -m stages.toy NAME\n")
    assert process.returncode == 2


@pytest.mark.parametrize(
    ("body", "line", "code"),
    [
        ("raise UserError('expert.rank is 0;\\n  it must be 1')", "error: expert.rank is 0; it must be 1", 2),
        ("raise OSError(28, 'No space left on device')", "error: no space left on the disk; free some", 2),
        ("raise RuntimeError('I/O error: No space left on device (os error 28)')", "error: no space left", 2),
        ("raise UserError('')", "error: ", 2),
        ("open('gone')", "error: gone: No such file or directory", 2),
        ("raise OSError(30, 'Read-only file system', 'data/x')", "error: data/x: Read-only file system", 2),
        ("raise PermissionError(13, '', 'a\\nb')", "error: a b: Permission denied", 2),
        ("Path('x' * 300).stat()", "error: xxxx", 2),
        (
            "raise RuntimeError('I/O error: Permission denied (os error 13)')",
            "error: I/O error: Permission",
            2,
        ),
        ("raise MemoryError", "error: not enough memory (MemoryError); lower the batch", 2),
        ("b'x' * 2**62", "error: not enough memory", 2),
        (
            "raise RuntimeError('CUDA out of memory. Tried\\nmore')",
            "error: not enough memory (CUDA out of",
            2,
        ),
        (
            "raise RuntimeError('can\\'t allocate memory: 1 byte')",
            "error: not enough memory (can't allocate",
            2,
        ),
        ("raise KeyboardInterrupt", "interrupted: run the same command again to resume", 130),
    ],
)
def test_what_a_user_causes_is_one_line(start, body: str, line: str, code: int) -> None:
    process = start(body, "count")
    error = process.communicate()[1]
    assert error.startswith(line) and error.count("\n") == 1
    assert process.returncode == code


@pytest.mark.parametrize(
    ("body", "bug"), [("1 / 0", "ZeroDivisionError"), ("raise OSError('odd')", "OSError: odd")]
)
def test_a_bug_keeps_its_traceback(start, body: str, bug: str) -> None:
    process = start(body, "count")
    assert bug in process.communicate()[1]
    assert process.returncode == 1


def test_a_terminal_without_umlauts_is_no_reason_to_fail(start) -> None:
    process = start("print('\\u00e9')", "count", PYTHONIOENCODING="ascii")
    assert process.communicate() == ("stage toy@count\n?\n", "")


def test_ctrl_c_at_work_is_one_line(start) -> None:
    process = start("import time; time.sleep(60)", "count")
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.communicate()[1] == "interrupted: run the same command again to resume\n"
    assert process.returncode == 130


def test_progress_passes_everything_through(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(stage.progress(range(5), 5, "toy")) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().out == ""


QUICK = """
    for _ in stage.progress(range(3), 3, "toy", "steps"):
        pass
    with stage.bar(3, 1, "toy") as advance:
        advance(1.5)
    print("done")
"""


def test_without_a_terminal_nothing_is_said_of_quick_work(start) -> None:
    assert start(QUICK.strip(), "count").communicate() == ("stage toy@count\ndone\n", "")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch):
    """A function that lets seconds pass."""
    now = 0.0

    def wait(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr("time.monotonic", lambda: now)
    return wait


def test_without_a_terminal_progress_is_a_whole_line_each_half_minute(clock, capsys) -> None:
    for _ in stage.progress(range(10), 10, "toy", "steps"):
        clock(10)
    for _ in stage.progress(iter(range(2)), label="odd"):
        clock(3600)
    assert capsys.readouterr().err.splitlines(keepends=True) == [
        "toy: 3 of 10 steps, 0:00:30 so far, 0:01:10 to go\n",
        "toy: 6 of 10 steps, 0:01:00 so far, 0:00:40 to go\n",
        "toy: 9 of 10 steps, 0:01:30 so far, 0:00:10 to go\n",
        "odd: 1, 1:00:00 so far\n",
        "odd: 2, 2:00:00 so far\n",
    ]


def test_a_resumed_stage_reckons_with_what_it_did_itself(clock, capsys) -> None:
    with stage.bar(8, 2, "toy") as advance:
        for _ in range(12):
            clock(16)
            advance(0.5)
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first == "toy: 3 of 8 images, 0:00:32 so far, 0:02:40 to go"
    assert last == "toy: 8 of 8 images, 0:03:12 so far"


def test_bad_params_are_one_line_with_tracking_on_too(tmp_path):
    """Tracking reads the params as well, and must leave the complaint to the stage."""
    root = Path(__file__).parents[1]
    shutil.copy(root / "dvc.yaml", tmp_path)
    text = (root / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(
        text.replace("  benchmarks: [shapes]", "  # none", 1), encoding="utf-8"
    )
    done = subprocess.run(
        [sys.executable, "-m", "stages.filter", "count"],
        cwd=tmp_path,
        env=os.environ | {"SELMA_TRACKING": "on", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error:") and "evaluate.benchmarks" in line


PIPELINE = """
stages:
  pretrain: {cmd: python -m toy pretrain, outs: [models/base], frozen: true}
  draw: {cmd: python -m toy draw, deps: [data/kept], outs: [data/drawn]}
  keep: {cmd: python -m toy keep, outs: [data/kept/count]}
  toy@count: {cmd: python -m toy count, deps: [data/drawn/file]}
"""


def test_under_dvc_a_stage_says_its_place(start, tmp_path) -> None:
    """The third in the file is the first to run, as the second reads what it makes; the frozen one does not count."""
    (tmp_path / "params.yaml").write_text("{}\n")
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    for given, place in (("keep", 1), ("draw", 2), ("toy@count", 3)):
        assert f"stage {place} of 3: {given}\n" in start("pass", "count", DVC_STAGE=given).communicate()[0]
    assert "stage 3 of 3" not in start("pass", "count").communicate()[0]
    assert "stage 3 of 3" not in start("pass", "count", DVC_STAGE="another").communicate()[0]
