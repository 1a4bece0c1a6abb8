"""The README says what the committed metrics say."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from selma.reporting.table import markdown_table

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


def test_every_file_the_readme_links_to_is_there():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", readme)
    assert links and not [link for link in links if not (ROOT / link).exists()]


def test_every_make_target_the_readme_names_exists():
    named = set(re.findall(r"`?make ([\w-]+)", (ROOT / "README.md").read_text(encoding="utf-8"))) - {"lists"}
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert named <= targets, named - targets
