"""The path of somebody who knows DVC: a table and pictures of their own; every command of docs/dvc.md on that run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.clones import ROOT, SKILLS, Clone, small
from tests.test_users import own_images

pytestmark = pytest.mark.e2e
DOCS = ROOT / "docs"
NAME, OPERATOR = "delta", "merges.merged.operator=delta_mean"


def table_of_the_docs() -> str:
    """The CSV that docs/own-data.md shows, but for the sign, about which the embedded judge knows nothing."""
    (table,) = re.findall(r"```csv\n(prompt.*?)```", (DOCS / "own-data.md").read_text(), re.DOTALL)
    return "".join(line for line in table.splitlines(keepends=True) if "sign" not in line)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    own_images(folder / "cats")
    (folder / "mine.csv").write_text(table_of_the_docs())
    return folder


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory, own: Path) -> Clone:
    """A committed run with both, and one experiment beside it."""
    clone = small(tmp_path_factory.mktemp("clone"))
    weights = {
        "base": "models/backbones/shapes",
        "pictures": "models/experts/pictures",
        "single": "models/experts/single",
        "merged": "models/merges/merged",
    }
    clone.change(
        experts={
            **clone.params()["experts"],
            "pictures": {"data": str(own / "cats"), "objective": "denoising"},
        },
        policies={},
        merges={"merged": {"operator": "factor_mean", "experts": SKILLS}},
        models={name: {"weights": place, "guidance": "cfg"} for name, place in weights.items()},
        own={"benchmarks": {"mine": {"source": "csv", "path": str(own / "mine.csv")}}},
        evaluate={"benchmarks": ["shapes", "mine"]},
    )
    clone.run("python", "-m", "selma.dvc", "repro")
    clone.run("git", "add", "--all")
    clone.run("git", "commit", "--quiet", "--message", "my run")
    clone.run("dvc", "exp", "run", "--name", NAME, "--set-param", OPERATOR)
    return clone


def test_their_table_and_pictures_are_in_the_run(clone):
    assert [row["prompt"] for row in items(clone)] == ["two red circles"]
    assert (clone.folder / "data/answers/merged/mine.jsonl").is_file()
    cells = json.loads((clone.folder / "metrics/eval.json").read_text())["models"]
    assert set(cells) == {"base", "pictures", "single", "merged"}
    card = json.loads((clone.folder / "models/experts/pictures/lora.json").read_text())
    assert card["backbone"]


def test_every_command_of_the_page_works(clone):
    """`$ dvc ...` as docs/dvc.md prints them, on another experiment of the same name."""
    page = (DOCS / "dvc.md").read_text()
    assert f"dvc exp run -n {NAME} -S {OPERATOR}" in page
    said = {}
    for line in re.findall(r"^\$ (dvc [^#\n]+)", page, re.MULTILINE):
        words = [word.strip("'") for word in re.findall(r"'[^']*'|\S+", line)]
        said[line.strip()] = clone.run(*words)
    assert "factor_mean" in said["dvc params diff"] and "delta_mean" in said["dvc params diff"]
    shown = next(text for line, text in said.items() if line.startswith("dvc exp show"))
    header, _, *rows = (line.strip("| ").split("|") for line in shown.strip().splitlines())
    assert "merges.merged.operator" in [cell.strip() for cell in header] and len(header) < 10
    assert any(f"[{NAME}]" in row[0] and "delta_mean" in "".join(row) for row in rows), shown
    assert f"try-{NAME}" in clone.run("git", "branch", "--list")
    # --all: with so few steps the two may score the same
    assert "gain.merged over base.mean" in clone.run("dvc", "metrics", "diff", "--all", "HEAD", f"try-{NAME}")
    clone.run("dvc", "plots", "diff", "HEAD", f"try-{NAME}")
    plots = clone.folder / "dvc_plots"
    assert {"HEAD", f"try-{NAME}"} <= set(re.findall(r'"rev": "([^"]+)"', (plots / "index.html").read_text()))
    assert len(list((plots / "static").glob("*before_after.png"))) == 2
    clone.run("python", "-m", "selma.report", "HEAD", NAME)
    assert NAME in (clone.folder / "report.html").read_text()


def test_they_go_back(clone):
    clone.run("git", "checkout", "--quiet", ".")
    clone.run("dvc", "checkout")
    assert "up to date" in clone.run("dvc", "status")
    clone.run("dvc", "exp", "remove", NAME)
    assert NAME not in clone.run("dvc", "exp", "list", "--name-only").split()


def test_another_caption_runs_what_learns_from_it_alone(clone, own):
    file = own / "cats/metadata.jsonl"
    rows = file.read_text().splitlines()
    file.write_text(
        "\n".join([json.dumps({"file_name": "photo.jpg", "text": "a black cat"}), *rows[1:]]) + "\n"
    )
    assert "expert@pictures" in clone.run("dvc", "status")
    printed = clone.run("dvc", "repro")
    ran = {line.split("'")[1] for line in printed.splitlines() if line.startswith("Running stage")}
    assert {"expert@pictures", "answer@pictures-mine", "evaluate"} <= ran
    assert not {name for name in ran if name.startswith(("images@", f"expert@{SKILLS[0]}", "sample@merged"))}


def test_what_is_wrong_with_a_picture_or_a_row_is_one_line_before_anything_runs(clone, own):
    """With its place; nothing is deleted, and what was there counts as it did."""
    good, table = (own / "cats/metadata.jsonl").read_text(), (own / "mine.csv").read_text()
    before = clone.run("git", "status", "--short")
    for file, text, place in (
        (
            "cats/metadata.jsonl",
            good.replace("clear.png", "gone.png", 1),
            ("metadata.jsonl", "line 2", "gone.png"),
        ),
        ("cats/metadata.jsonl", good + '{"file_name": "photo.jpg"}\n', ("metadata.jsonl", "line 5", "text")),
        ("mine.csv", table + "a blue square,Is it?,perhaps,shape,\n", ("mine.csv", "line 6", "perhaps")),
    ):
        old = (own / file).read_text()
        (own / file).write_text(text)
        said = clone.run("python", "-m", "selma.dvc", "repro", code=2)
        (own / file).write_text(old)
        lines = [line for line in said.splitlines() if line.startswith("error:")]
        assert len(lines) == 1 and all(word in lines[0] for word in place), said
        assert "Running stage" not in said
    assert clone.run("git", "status", "--short") == before


def items(clone: Clone) -> list[dict]:
    lines = (clone.folder / "data/benchmarks/mine/test.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]
