"""docs/tutorial.ipynb runs from top to bottom, in a fresh process, on the committed run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs/tutorial.ipynb"
RUN = """
import json, sys
names = {"__name__": "__main__"}
for cell in json.load(open(sys.argv[1], encoding="utf-8"))["cells"]:
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
page = names["page"]
print("page", *page.size)
"""


def notebook() -> dict:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))


def test_it_is_a_notebook_of_the_current_format_without_outputs():
    found = notebook()
    assert (found["nbformat"], found["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in found["cells"]]
    assert len(ids) == len(set(ids)) and all(re.fullmatch(r"[\w-]{1,64}", id) for id in ids)
    for cell in found["cells"]:
        wanted = {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            wanted |= {"execution_count", "outputs"}
            assert cell["outputs"] == [] and cell["execution_count"] is None, (
                f"{cell['id']} has outputs; `jupyter nbconvert --clear-output --inplace {NOTEBOOK.name}` strips them"
            )
        assert set(cell) == wanted and cell["metadata"] == {}


@pytest.mark.e2e
def test_every_cell_runs_and_prints_what_it_found(tmp_path: Path):
    """From docs/, where Jupyter starts it; it draws and judges some 80 images."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, NOTEBOOK], cwd=NOTEBOOK.parent, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    out = done.stdout
    assert "skills: objects, paragraph, tags, count, counterfactual" in out
    assert "dropped (similar) a blue cross" in out and "dropped (exam) two red circles" in out
    assert "Is the triangle green? -> yes is expected" in out
    assert "rank 16 from experts of rank [8, 8]" in out
    for model in ("base", "merged", "ties"):
        score, low, high = map(
            float, re.search(rf"{model} +([\d.]+) % .*\[([\d.]+), ([\d.]+)\]", out).groups()
        )
        assert 50 < low < score < high <= 100
    for model in ("merged", "ties"):
        gain, low, high = map(float, re.search(rf"{model} over base: (\S+) \[(\S+), (\S+)\]", out).groups())
        assert low <= gain <= high
    width, height = map(int, re.search(r"page (\d+) (\d+)", out).groups())
    assert width > 500 and height > 600
