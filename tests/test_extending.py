"""The judge and the benchmark of docs/extending.md work where the page says to put them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
JUDGE, BENCHMARK = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("selma", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def change(root: Path, old: str, new: str) -> None:
    text = (root / "params.yaml").read_text(encoding="utf-8")
    assert text.count(old) == 1
    (root / "params.yaml").write_text(text.replace(old, new), encoding="utf-8")


def run(root: Path, *words: str, stage: str = "") -> str:
    environment = {**os.environ, "DVC_STAGE": stage, "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, *words], cwd=root, env=environment, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_judge_scores_images_once_its_file_and_its_row_are_there(project):
    (project / "selma/variants/judges/detail.py").write_text(JUDGE, encoding="utf-8")
    (row,) = re.findall(r"`(judges: \{.*?\}\})`", PAGE)
    change(
        project,
        "  oracle: {kind: oracle} ",
        f"  detail: {yaml.safe_load(row)['judges']['detail']}\n  oracle: {{kind: oracle}} ",
    )
    run(project, "-m", "stages.judge", "detail", stage="judge@detail")
    said = run(
        project,
        "-c",
        "from PIL import Image; from selma.judging.judge import load_scorer; judge = load_scorer('detail'); "
        "print(judge.score(Image.effect_noise((64, 64), 90), 'x') > judge.score(Image.new('RGB', (64, 64)), 'x') > 0)",
    )
    assert said == "True\n"


def test_the_benchmark_is_read_once_its_file_and_its_row_are_there(project):
    (project / "selma/variants/benchmarks/lines.py").write_text(BENCHMARK, encoding="utf-8")
    lines = project / "mine.tsv"
    lines.write_text("a red circle\tIs there a circle?\na cat\tIs it a cat?\n", encoding="utf-8")
    (row,) = re.findall(r"`own: \{benchmarks: (\{.*?\}\})\}`", PAGE)
    change(project, "  benchmarks: {}  ", f"  benchmarks: {row.replace('/data/lines.tsv', str(lines))}  ")
    run(project, "-m", "stages.own_benchmark", "ours", stage="own_benchmark@ours")
    found = [
        json.loads(line) for line in (project / "data/benchmarks/ours/test.jsonl").read_text().splitlines()
    ]
    assert [(item["prompt"], item["questions"][0]["question"]) for item in found] == [
        ("a red circle", "Is there a circle?"),
        ("a cat", "Is it a cat?"),
    ]


def test_the_algorithm_of_its_page_passes_what_is_asked_of_every_algorithm(project):
    """It becomes a choice by being there: the tests of the folder's files run on it, too."""
    page = (ROOT / "docs/self-improvement.md").read_text(encoding="utf-8").split("## Write your own")[1]
    code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0]
    (project / "selma/variants/algorithms/signed.py").write_text(code, encoding="utf-8")
    (project / "tests").mkdir()
    for name in ("__init__.py", "test_policy_math.py"):
        shutil.copy(ROOT / "tests" / name, project / "tests")
    shutil.copy(ROOT / "pyproject.toml", project)
    said = run(project, "-m", "pytest", "-q", "-k", "signed and not states", "tests/test_policy_math.py")
    assert re.search(r"\b5 passed", said), said
