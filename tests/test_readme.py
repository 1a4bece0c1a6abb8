"""The README says what the committed metrics say."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from selma.reporting.table import gain_text, markdown_table

ROOT = Path(__file__).parents[1]


def _committed(name: str) -> str:
    """A file as committed: the working tree may hold another machine's or an ablation's metrics."""
    return subprocess.run(
        ["git", "show", f"HEAD:{name}"], cwd=ROOT, check=True, capture_output=True, encoding="utf-8"
    ).stdout


def test_the_first_table_is_that_of_the_committed_run():
    readme = _committed("README.md")
    shown = re.search(r"<!-- table -->\n(.*?)\n<!-- /table -->", readme, re.DOTALL)
    assert shown, "the table's place is marked by two comments"
    assert shown.group(1) == markdown_table(json.loads(_committed("metrics/eval.json")))


def test_every_command_the_readme_names_exists():
    """tests/test_docs.py follows its links."""
    named = set(
        re.findall(r"python -m ((?:selma|stages)\.\w+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    )
    assert {"selma.draw", "selma.table", "selma.rate", "selma.publish"} <= named
    assert not [name for name in named if not (ROOT / f"{name.replace('.', '/')}.py").is_file()]


def test_the_layout_names_every_command_and_every_room():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    layout = readme.split("## Where everything lies")[1].split("\n\n")[1]
    rooms = {path.name for path in (ROOT / "selma").iterdir() if (path / "__init__.py").is_file()}
    assert not {room for room in rooms if not re.search(rf"\b{room}/", layout)}
    commands = {path.stem for path in (ROOT / "selma").glob("[!_]*.py")}
    listed = re.search(r"commands: (.*)", layout)[1].split()
    assert set(listed) == commands


def test_claims_of_the_readme_are_those_of_the_pooled_study():
    """One run settles nothing: beside the two tables, gains are pooled over seeds."""
    readme = re.sub(r"<!-- table -->.*?<!-- /table -->", "", _committed("README.md"), flags=re.DOTALL)
    study = json.loads(_committed("metrics/study/seeds.json"))["pooled"]["gains"]
    prose = " ".join(line for line in readme.splitlines() if not line.startswith("|"))
    said = re.findall(r"[+-]\d+\.\d \[[+-]\d+\.\d, [+-]\d+\.\d\]", prose)
    pooled = {gain_text(gain, places=1) for gain in study.values()}
    assert said and set(said) <= pooled


def test_its_other_claims_are_those_of_the_pages_that_studies_write():
    """What stands in tables, and the first screen's gains, which have no signs."""
    readme = re.sub(r"<!-- table -->.*?<!-- /table -->", "", _committed("README.md"), flags=re.DOTALL)
    pages = _committed("docs/longer.md") + _committed("docs/selfimprove.md")
    tables = "\n".join(line for line in readme.splitlines() if line.startswith("|"))
    said = re.findall(r"[+-]\d+\.\d \[[+-]\d+\.\d, [+-]\d+\.\d\]", tables)
    first = readme.split("## Try it")[0]
    said += [
        "+{} [+{}, +{}]".format(*found) for found in re.findall(r"(\d+\.\d) \[(\d+\.\d), (\d+\.\d)\]", first)
    ]
    assert len(said) >= 8 and not [claim for claim in said if claim not in pages]


def test_the_first_screen_has_a_picture_and_the_way_to_the_finished_run():
    first = (ROOT / "README.md").read_text(encoding="utf-8").split("## What is gained")[0]
    for needed in (
        "<img ",
        "git clone",
        "make setup",
        "dvc pull -r starter",
        "data/report/index.html",
        "was picked",
    ):
        assert needed in first
    assert len(first.splitlines()) < 60


def test_every_make_target_the_readme_names_exists():
    named = set(re.findall(r"`?make ([\w-]+)", (ROOT / "README.md").read_text(encoding="utf-8"))) - {"lists"}
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert named <= targets, named - targets


def test_make_reads_its_file_without_a_warning():
    """A recipe that is written twice is dropped with a warning alone."""
    for target in ("help", "pretrain", "pretrain-xl", "repro", "test", "ablations", "trained"):
        done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), target
