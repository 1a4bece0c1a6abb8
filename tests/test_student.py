"""The README's first minute, as a student goes through it: pull the finished run, read its table, draw its prompt."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests.clones import ROOT, Clone, copy_tree

pytestmark = pytest.mark.e2e
README = subprocess.run(
    ["git", "show", "HEAD:README.md"], cwd=ROOT, check=True, capture_output=True, encoding="utf-8"
).stdout
FIRST = README.split("## What is gained")[0]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """This working tree's code as a clone, with the committed run pulled by the README's own command."""
    folder = tmp_path_factory.mktemp("student")
    copy_tree(folder)
    committed = ("dvc.lock", "metrics", "README.md")  # here they may be of a run on this machine
    for name in committed:
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()
    files = subprocess.run(["git", "archive", "HEAD", *committed], cwd=ROOT, check=True, capture_output=True)
    subprocess.run(["tar", "-x"], input=files.stdout, cwd=folder, check=True)
    clone = Clone(folder)
    clone.run("git", "init", "--quiet")
    (pull,) = re.findall(r"^(dvc pull .*?) +#", FIRST, re.MULTILINE)
    clone.run(*pull.split())
    return clone


def test_the_pull_brings_the_table_the_report_and_the_pictures(clone: Clone) -> None:
    shown = clone.run("python", "-m", "selma.table", "--markdown")
    table = README.split("<!-- table -->\n")[1].split("<!-- /table -->")[0]
    assert table.strip() in shown
    (page,) = re.findall(r"open `(\S+\.html)`", FIRST)
    assert "<title>" in (clone.folder / page).read_text(encoding="utf-8")
    assert (clone.folder / "data/grid/before_after.png").is_file()


def test_the_improved_models_win_on_the_readmes_prompt(clone: Clone) -> None:
    """On this processor; how many images are right may differ from the README's by one or two."""
    ((command, prompt, options),) = re.findall(
        r'^(python -m selma\.draw) "([^"]+)" (.+)$', FIRST, re.MULTILINE
    )
    said = clone.run(*command.split(), prompt, *options.split())
    found = {
        name: int(share)
        for name, share in re.findall(r"^(\w+): (\d+)% faithful by oracle", said, re.MULTILINE)
    }
    assert found.keys() == {"base", "merged", "nft_long"}, said
    assert min(found["merged"], found["nft_long"]) > found["base"], said
    with Image.open(clone.folder / "draw.png") as page:
        assert page.width > 3 * 64 and page.height > 4 * 64


def test_words_of_the_prompt_that_the_model_never_saw_are_named(clone: Clone) -> None:
    assert "zebra" in clone.run(
        "python", "-m", "selma.draw", "a red zebra", "--images", "1", "--models", "base"
    )


def test_the_readmes_other_ways_to_draw_work(clone: Clone) -> None:
    (options,) = re.findall(
        r"`--models`, `--images` and `(--grid \S+)` draw others", FIRST.replace("\n", " ")
    )
    clone.run(
        "python",
        "-m",
        "selma.draw",
        "a red square",
        "--models",
        "base,count",
        *options.split(),
        "--out",
        "grid.png",
    )
    assert Path(clone.folder / "grid.png").is_file()
