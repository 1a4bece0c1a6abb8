"""`python -m selma.draw`: pictures beside each other, what the judge says beneath, and one line for bad input."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from selma import draw
from selma.ground.items import Item, Question, write_items, write_split
from selma.reporting import beside
from selma.reporting.beside import Column, Shown
from tests.test_sample_stage import MODELS, SETTINGS, put_lora

QUESTION = Question("1", "Is there a circle?", ("yes", "no"), "yes", (), "shape")


@pytest.fixture
def project(make_project, monkeypatch):
    root = make_project("project", SETTINGS)
    put_lora(root / "models/experts/count", root / "models/backbones/shapes", 1.0)
    put_lora(root / "models/merges/merged", root / "models/backbones/shapes", 0.0)
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def drawn(project, monkeypatch, capsys):
    """Runs the command: the picture's pixels, and what it says on stderr."""

    def run(*words: str) -> tuple[np.ndarray, list[str]]:
        monkeypatch.setattr("sys.argv", ["draw", *words, "--out", "out.png"])
        draw.main()
        out, err = capsys.readouterr()
        assert out == "out.png\n"
        with Image.open("out.png") as page:
            return np.asarray(page.convert("RGB")).astype(int), err.splitlines()

    return run


def refused(monkeypatch, capsys, *words: str) -> str:
    monkeypatch.setattr("sys.argv", ["draw", *words])
    with pytest.raises(SystemExit) as left:
        draw.main()
    error = capsys.readouterr().err
    assert (left.value.code, error.count("\n")) == (2, 1)
    return error


def tile(page: np.ndarray, column: int, margin: int = beside.MARGIN) -> np.ndarray:
    """The first picture of a column of a page with one line of prompt."""
    top, left = beside.GAP + 3 * beside.LINE, margin + column * (beside.TILE + beside.MARGIN)
    return page[top : top + beside.TILE, left : left + beside.TILE]


def test_base_stands_beside_merged_which_changes_nothing_here(drawn):
    page, said = drawn("a red circle", "--images", "2")
    base, merged = tile(page, 0), tile(page, 1)
    assert np.abs(base - merged).max() <= 1
    assert (base[:8, :8] == base[0, 0]).all()  # enlarged eight times, pixel by pixel
    assert len(np.unique(base.reshape(-1, 3), axis=0)) > 20
    models = [line.partition(":")[0] for line in said if re.search(" images? in ", line)]
    assert models == ["base", "merged"]


def test_names_may_have_commas_between_and_another_model_draws_otherwise(drawn):
    page, said = drawn("a red circle", "--models", "merged,count", "base", "--images", "1")
    merged, count, base = (tile(page, column) for column in range(3))
    assert np.abs(merged - base).max() <= 1 < np.abs(merged - count).max()
    assert [line.partition(":")[0] for line in said if re.search(" images? in ", line)] == [
        "merged",
        "count",
        "base",
    ]


def test_a_loras_folder_draws_as_its_row_does(drawn):
    """One that no row of `models` names, or that one does, under its own name."""
    page, said = drawn(
        "a red circle",
        "--models",
        "count",
        "models/experts/count",
        "./models/experts/count/,models/merges/merged",
        "--images",
        "1",
    )
    row, folder, merged = (tile(page, column) for column in range(3))
    assert (row == folder).all() and np.abs(row - merged).max() > 1
    models = [line.partition(":")[0] for line in said if re.search(" images? in ", line)]
    assert models == ["count", "models/experts/count", "models/merges/merged"]


def test_a_policy_stands_beside_base_and_merge(make_project, monkeypatch, capsys):
    """`nft`, as docs/how-to.md has its rows."""
    how_to = (Path(__file__).parents[1] / "docs/how-to.md").read_text(encoding="utf-8")
    section = how_to.split("## Let a model learn from a judge")[1].split("\n## ")[0]
    rows = YAML(typ="safe").load(section.split("```yaml\n")[1].split("```")[0])
    root = make_project(
        "policies", {**SETTINGS, "policies": rows["policies"], "models": {**MODELS, **rows["models"]}}
    )
    for folder, size in (("merges/merged", 0.0), ("experts/nft", 1.0)):
        put_lora(root / "models" / folder, root / "models/backbones/shapes", size)
    monkeypatch.chdir(root)
    words = ["a red circle", "--models", "base,merged,nft", "--images", "1", "--out", "out.png"]
    monkeypatch.setattr("sys.argv", ["draw", *words])
    draw.main()
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in said if re.search(" images? in ", line)] == [
        "base",
        "merged",
        "nft",
    ]
    with Image.open("out.png") as picture:
        page = np.asarray(picture.convert("RGB")).astype(int)
    base, merged, nft = (tile(page, column) for column in range(3))
    assert np.abs(merged - base).max() <= 1 < np.abs(nft - base).max()


def test_the_judge_answers_what_the_embedded_llm_asks_of_a_prompt(drawn):
    _, said = drawn("two red circles on a black background", "--images", "1")
    assert sum("% faithful by oracle" in line for line in said) == 2
    assert not any("not judged" in line for line in said)


def test_questions_that_stand_in_a_file_are_taken_from_there(drawn):
    write_split(Path("data/benchmarks/shapes"), "test", [Item("i", "a dog", "count", "shapes", (QUESTION,))])
    write_items(
        Path("data/questions/count/prompts.jsonl"), [Item("j", "a cat", "count", "filter", (QUESTION,))]
    )
    for prompt in ("a dog", "a cat"):
        assert any("% faithful by oracle" in line for line in drawn(prompt, "--images", "1")[1])
    _, said = drawn("a cow", "--images", "1")
    assert not any("faithful" in line for line in said)
    assert any(line.startswith("not judged: ") for line in said)


def test_words_that_the_embedded_model_never_saw_are_named(drawn):
    # The tiny tokenizer knows letters only.
    _, said = drawn("a Dog, a dog and b", "--images", "1")
    assert said[0] == "words that the embedded model never saw: dog, and"


def test_rows_are_guidance_scales_or_seeds(drawn):
    guided, _ = drawn("a red circle", "--models", "base", "--grid", "guidance=1,8")
    seeds, _ = drawn("a red circle", "--models", "base", "--grid", "seed=0,1")
    plain, _ = drawn("a red circle", "--models", "base", "--images", "1")
    width = beside.TILE + beside.MARGIN
    for page in (guided, seeds):
        margin = page.shape[1] - width
        top = tile(page, 0, margin)
        below = page[beside.GAP + 3 * beside.LINE + beside.TILE :, margin : margin + beside.TILE]
        assert any(
            np.abs(top - below[y : y + beside.TILE]).max() > 8 for y in range(below.shape[0] - beside.TILE)
        )
        assert margin > beside.MARGIN  # where rows' names stand
    assert (tile(seeds, 0, seeds.shape[1] - width) == tile(plain, 0)).all()


def test_wrong_answers_are_listed_beneath_their_picture():
    image = Image.new("RGB", (32, 32), "black")
    right = beside.compose("p", [Column("base", [Shown(image, 2, 2)])])
    wrong = beside.compose("p", [Column("base", [Shown(image, 1, 2, ["Is there a circle?"])])])
    silent = beside.compose("p", [Column("base", [Shown(image)])])
    assert silent.height < right.height < wrong.height


def test_an_interrupt_is_one_line(project, monkeypatch, capsys):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("selma.backbones.loading.open_model", interrupt)
    monkeypatch.setattr("sys.argv", ["draw", "a red circle"])
    with pytest.raises(SystemExit) as left:
        draw.main()
    assert (left.value.code, capsys.readouterr().err) == (130, "interrupted\n")
    assert not Path("draw.png").exists()


def test_a_prompt_that_is_not_text_is_refused(project, monkeypatch, capsys):
    assert "prompt: 'a red \\udcff circle' is not UTF-8 text" in refused(
        monkeypatch, capsys, "a red \udcff circle"
    )
    assert "prompt: empty" in refused(monkeypatch, capsys, " ")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--images", "0"], "--images"),
        (["--images", str(10**12)], "--images: 1000000000000; allowed: 1 to 100"),
        (["--out", "page.jpg"], "--out: page.jpg; allowed: a file that ends in .png or .webp"),
        (["--out", "models"], "--out: models"),
        (["--out", "params.yaml/page.png"], "params.yaml"),
        (["--out", "/proc/page.png"], "/proc"),
        (["--models", "nobody"], "--models: nobody"),
        (["--models", "base,nobody"], "--models: nobody; allowed: base, count, merged"),
        (["--models", ","], "--models: no name; allowed: base, count, merged"),
        (["--grid", "steps=1,2"], "--grid: steps=1,2; allowed: guidance=1,1.5,2 or seed=0,1,2"),
        (["--grid", "guidance=1,x"], "--grid: 'x' is no guidance"),
        (["--grid", "guidance=nan"], "--grid: 'nan' is no guidance"),
        (["--grid", "guidance=-1"], "--grid: '-1' is no guidance"),
        (["--grid", "guidance="], "--grid: '' is no guidance"),
        (["--grid", "seed=1.5"], "--grid: '1.5' is no seed"),
        (["--grid", "seed=" + ",".join(map(str, range(101)))], "--grid: 101 rows; allowed: 1 to 100"),
        (["--grid", "seed=1", "--images", "2"], "--images: not with --grid"),
    ],
)
def test_bad_input_is_refused_in_one_line(project, monkeypatch, capsys, options, named):
    assert named in refused(monkeypatch, capsys, "a red circle", *options)


def test_a_model_that_is_not_here_yet_is_named(project, monkeypatch, capsys):
    (project / "models/merges/merged/lora.json").unlink()
    assert "models/merges/merged" in refused(monkeypatch, capsys, "a red circle")
