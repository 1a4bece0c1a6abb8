"""`python -m selma.dvc`: DVC's own command line, without its warnings about frozen stages."""

from __future__ import annotations

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
