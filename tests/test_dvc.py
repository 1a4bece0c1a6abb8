"""`python -m selma.dvc`: DVC's own command line, without its warnings about frozen stages and its second lines."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PIPELINE = """
stages:
  before: {cmd: echo 1 > before.txt, outs: [before.txt], frozen: true}
  after: {cmd: cp before.txt after.txt, deps: [before.txt], outs: [after.txt]}
  failing: {cmd: exit 3, deps: [after.txt]}
  refusing: {cmd: "echo what is wrong >&2; exit 2"}
  stopped: {cmd: "echo stopped >&2; exit 130"}
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("frozen")
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    subprocess.run(["dvc", "init", "--quiet"], cwd=root, check=True)
    (root / "dvc.yaml").write_text(PIPELINE)
    (root / "before.txt").write_text("1\n")
    subprocess.run(["dvc", "commit", "--force", "--quiet", "before"], cwd=root, check=True)
    return root


def run(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(Path(sys.executable).parent) + ":/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    return subprocess.run([*words], cwd=root, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("words", [("repro", "after"), ("status",)])
def test_frozen_stages_are_no_news_and_all_else_is_dvcs(repository: Path, words: tuple[str, ...]) -> None:
    theirs = run(repository, "dvc", *words)
    ours = run(repository, sys.executable, "-m", "selma.dvc", *words)
    assert "is frozen" in theirs.stderr and "frozen" not in ours.stderr + ours.stdout
    assert ours.returncode == theirs.returncode == 0
    assert (repository / "after.txt").read_text() == "1\n"


def test_a_failing_stage_is_dvcs_error_and_exit_code(repository: Path) -> None:
    theirs = run(repository, "dvc", "repro")
    ours = run(repository, sys.executable, "-m", "selma.dvc", "repro")
    assert ours.returncode == theirs.returncode == 255
    assert "failed to reproduce 'failing'" in ours.stderr


@pytest.mark.parametrize(
    ("stage", "code", "said"), [("refusing", 2, "what is wrong"), ("stopped", 130, "stopped")]
)
def test_what_a_stage_has_said_in_one_line_stays_one_line_and_keeps_its_exit_code(
    repository: Path, stage: str, code: int, said: str
) -> None:
    theirs = run(repository, "dvc", "repro", stage)
    assert theirs.returncode == 255 and "failed to reproduce" in theirs.stderr
    ours = run(repository, sys.executable, "-m", "selma.dvc", "repro", stage)
    assert (ours.returncode, ours.stderr.strip()) == (code, said)


def test_ctrl_c_in_a_stage_is_one_line_and_exit_code_130(tmp_path: Path) -> None:
    """As a terminal sends it: to DVC and to the stage at once."""
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    subprocess.run(["dvc", "init", "--quiet"], cwd=tmp_path, check=True)
    (tmp_path / "sleeping.py").write_text(
        "from selma.runtime import command\nimport sys, time\n"
        "def work():\n    print('begun', flush=True)\n    time.sleep(60)\n"
        "sys.exit(command.run(work))\n"
    )
    (tmp_path / "dvc.yaml").write_text(f"stages:\n  sleeping: {{cmd: {sys.executable} sleeping.py}}\n")
    running = subprocess.Popen(
        [sys.executable, "-m", "selma.dvc", "repro"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while "begun" not in (line := running.stdout.readline()):
        assert line, running.stderr.read()
    os.killpg(running.pid, signal.SIGINT)
    said = running.communicate(timeout=60)[1]
    assert running.returncode == 130 and len(said.strip().splitlines()) == 1, said


def test_a_wrong_setting_is_said_before_dvc_deletes_what_a_stage_made(tmp_path: Path) -> None:
    """DVC removes the outs of a stage that will run; the stage would then only say that it cannot."""
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    subprocess.run(["dvc", "init", "--quiet"], cwd=tmp_path, check=True)
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text)
    stage = "{cmd: echo 1 > made.json, params: [expert.rank], metrics: [made.json: {cache: false}]}"
    (tmp_path / "dvc.yaml").write_text(f"stages:\n  made: {stage}\n")
    assert run(tmp_path, sys.executable, "-m", "selma.dvc", "repro").returncode == 0
    (tmp_path / "params.yaml").write_text(text.replace("\n  rank: 8\n", "\n  rank: 0\n", 1))
    done = run(tmp_path, sys.executable, "-m", "selma.dvc", "repro")
    assert done.returncode == 2 and "expert.rank is 0" in done.stderr and done.stderr.count("\n") == 1
    assert (tmp_path / "made.json").is_file()
