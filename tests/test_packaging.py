"""What leaves as a package or a release: extras that resolve and are documented, one version and date everywhere."""

from __future__ import annotations

import re
import tomllib
from datetime import date
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = {
    name: [Requirement(line) for line in lines] for name, lines in PROJECT["optional-dependencies"].items()
}


def pinned(*files: str) -> dict[str, str]:
    lines = [
        line.partition("#")[0].strip() for file in files for line in (ROOT / file).read_text().splitlines()
    ]
    return dict(line.lower().replace("_", "-").split("==") for line in lines if line)


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_agrees_with_what_is_pinned(extra):
    """pip refuses two versions of one package."""
    known = pinned("requirements.txt", "requirements-ocr.txt", "requirements-ray.txt")
    for requirement in EXTRAS[extra]:
        if requirement.name in known:
            assert str(requirement.specifier) == f"=={known[requirement.name]}"


def test_torchvision_is_the_one_of_this_torch():
    """Since torch 2.0 torchvision 0.(15 + n) is that of torch 2.n; another pair would replace torch."""
    minor = int(version("torch").split(".")[1])
    assert str(EXTRAS["gpu"][0]) == f"torchvision==0.{15 + minor}.0"


def test_rate_names_all_that_the_command_imports():
    code = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "selma/rating").glob("*.py"))
    imported = set(re.findall(r"^\s*(?:import|from) (\w+)", code, re.MULTILINE))
    assert {requirement.name for requirement in EXTRAS["rate"]} <= imported


def test_the_docs_name_every_extra_and_no_other():
    section = (ROOT / "docs/how-to.md").read_text(encoding="utf-8").split("## Install as a package")[1]
    assert re.findall(r"^\| `(\w+)` \|", section.split("\n## ")[0], re.MULTILINE) == sorted(EXTRAS)
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        for named in re.findall(r"-e \"?\.\[([\w,]+)\]", page.read_text(encoding="utf-8")):
            assert set(named.split(",")) <= set(EXTRAS), page


def test_version_and_date_are_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    released, day = headings[1].split(" - ")
    assert released == PROJECT["version"] == citation["version"]
    assert date.fromisoformat(day) == citation["date-released"]
