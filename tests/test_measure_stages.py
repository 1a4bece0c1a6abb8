"""Stages benchmark, answer, evaluate and report on a made-up exam, in a project that has no model at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from selma import judges, records
from selma.benchmarks import Item, Question, load_split, write_split
from selma.errors import UserError
from selma.judges import Answer
from selma.params import load_params
from stages import answer, benchmark, evaluate, report

ROOT = Path(__file__).parents[1]
SKILLS = ("objects", "count")
BRIGHT, DARK = (250, 250, 250), (9, 9, 9)


class Lamp:
    """A judge that says yes to everything about a bright picture."""

    def answer(self, image, questions):
        bright = image.getpixel((0, 0))[0] > 100
        return [Answer("yes" if bright else "no", float(bright)) for _ in questions]


def item(skill: str, number: int, split: str) -> Item:
    questions = (
        Question("1", "Is there a <b>circle</b>?", ("yes", "no"), "yes", (), "object"),
        Question("2", "Is the circle red?", ("yes", "no"), "yes", ("1",), "color"),
    )
    return Item(
        f"{skill}-{split}-{number}", f"{split} & {number} red circle, {skill}", skill, "made up", questions
    )


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Three test prompts per skill, two pictures each: base's are dark, everyone else's bright."""
    for code in ("selma", "stages"):
        (tmp_path / code).symlink_to(ROOT / code)
    for file in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / file, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setitem(judges.JUDGES, load_params().judge.name, Lamp)
    for split in ("dev", "test"):
        items = [item(skill, number, split) for skill in SKILLS for number in range(3)]
        write_split(folder(), split, items)
    for model in load_params().models:
        draw(model, DARK if model == "base" else BRIGHT)
    return tmp_path


def folder() -> Path:
    return Path("data/benchmarks") / load_params().evaluate.benchmark


def draw(model: str, color: tuple[int, int, int]) -> None:
    rows = []
    for shown in load_split(folder(), "test"):
        for k in range(2):
            name = f"{shown.id}-{k}.png"
            records.write_png(Path("data/samples") / model / name, Image.new("RGB", (32, 32), color))
            rows.append({"file_name": name, "text": shown.prompt, "id": shown.id, "seed": 7, "k": k})
    records.write_jsonl(Path("data/samples") / model / "metadata.jsonl", rows)


def run(monkeypatch, stage, *arguments: str) -> None:
    name = stage.__name__.removeprefix("stages.")
    monkeypatch.setenv("DVC_STAGE", "@".join([name, *arguments]))
    stage.main(*arguments)


def evaluated(monkeypatch) -> None:
    for model in load_params().models:
        run(monkeypatch, answer, model)
    run(monkeypatch, evaluate)


def other_metrics() -> None:
    """The metrics files of the stages before, as they write them."""
    params = load_params()
    for name in params.experts:
        curve = [{"step": step, "loss": 1 / step} for step in range(1, 40)]
        records.write_csv(Path("metrics/loss") / f"{name}.csv", curve, ["step", "loss"])
        scores = {"100": 0.5, "200": 0.625}
        metrics = {"policy": "best", "chosen": 200, "scores": scores}
        records.write_json(Path("metrics/select") / f"{name}.json", metrics)
    for skill in params.skills:
        counts = {
            "candidates": 9,
            "kept": 5,
            "dropped": {"too_long": 1, "similar": 2, "exam": 1},
            "unused": 0,
        }
        records.write_json(Path("metrics/filter") / f"{skill}.json", counts)
    merge = {
        "operator": "factor_mean",
        "experts": ["count", "tags"],
        "rank": 4,
        "cosine": {"count|tags": 0.25},
    }
    records.write_json(Path("metrics/merge.json"), merge)


# benchmark -------------------------------------------------------------------------------------


def test_the_benchmark_stage_writes_both_splits_and_nothing_else(project, monkeypatch):
    records.write_text(folder() / "stale.jsonl", "")
    run(monkeypatch, benchmark, "shapes")
    settings = load_params().benchmarks["shapes"]
    assert sorted(file.name for file in folder().iterdir()) == ["dev.jsonl", "test.jsonl"]
    assert len(load_split(folder(), "test")) == 5 * settings.test_per_skill
    assert len(load_split(folder(), "dev")) == 5 * settings.dev_per_skill


def test_an_unknown_benchmark_is_named(project):
    with pytest.raises(UserError, match=r"'mine' is not in params\.yaml; allowed: shapes"):
        benchmark.main("mine")


# answer ----------------------------------------------------------------------------------------


def test_every_question_is_asked_about_every_image(project, monkeypatch):
    run(monkeypatch, answer, "base")
    rows = records.read_jsonl(Path("data/answers/base.jsonl"))
    assert len(rows) == 6 * 2 * 2
    first = {
        "item": "objects-test-0",
        "k": 0,
        "question": "1",
        "answer": "no",
        "p_yes": 0.0,
        "expected": "yes",
    }
    assert rows[0] == first


def spoil_truncated(image: Path) -> None:
    image.write_bytes(image.read_bytes()[:60])


@pytest.mark.parametrize("spoil", [Path.unlink, spoil_truncated])
def test_a_missing_or_truncated_image_is_named_and_nothing_written(project, monkeypatch, spoil):
    spoil(Path("data/samples/merged/count-test-1-1.png"))
    with pytest.raises(UserError, match=r"count-test-1-1\.png"):
        run(monkeypatch, answer, "merged")
    assert not Path("data/answers").exists()


def test_images_of_other_prompts_or_too_few_of_them_are_an_error(project, monkeypatch):
    metadata = Path("data/samples/merged/metadata.jsonl")
    rows = records.read_jsonl(metadata)
    records.write_jsonl(metadata, rows[2:])
    with pytest.raises(UserError, match="no image of item 'objects-test-0'"):
        run(monkeypatch, answer, "merged")
    records.write_jsonl(metadata, [{**rows[0], "text": "another exam"}, *rows[1:]])
    with pytest.raises(UserError, match="'objects-test-0' is no prompt of this benchmark"):
        run(monkeypatch, answer, "merged")


def test_a_model_without_samples_and_an_unknown_judge_are_named(project, monkeypatch):
    with pytest.raises(UserError, match="data/samples/nobody"):
        run(monkeypatch, answer, "nobody")
    with pytest.raises(UserError, match=r"judge\.name 'owl' is unknown; allowed: .*oracle"):
        judges.load_judge("owl")


# evaluate --------------------------------------------------------------------------------------


def test_scores_gains_plots_and_grid(project, monkeypatch):
    records.write_text(Path("data/grid/stale.txt"), "")
    evaluated(monkeypatch)
    summary = records.read_json(Path("metrics/eval.json"))
    assert (summary["n_prompts"], summary["images_per_prompt"]) == (6, 2)
    assert (summary["base"]["mean"], summary["merged"]["mean"]) == (0, 1)
    assert summary["gain"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert summary["gain_over_single"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert list(summary["expert"]) == list(load_params().merge.experts)
    assert summary["skill"]["count"] == summary["category"]["color"]
    assert Path("metrics/by_skill.csv").read_text().startswith("model,skill,score\nbase,objects,0.0\n")
    assert "merged,color,1.0" in Path("metrics/by_category.csv").read_text().splitlines()

    examples = records.read_json(Path("data/grid/examples.json"))
    assert [example["skill"] for example in examples] == ["objects", "count"] * 2
    assert examples[0]["questions"][0]["answers"] == {"base": "no", "merged": "yes"}
    for example in examples:
        assert all(
            records.read_image(Path("data/grid") / file).size == (32, 32)
            for file in example["images"].values()
        )
    sheet = records.read_image(Path("data/grid/before_after.png"))
    assert sheet.width > 4 * 192
    assert {DARK, BRIGHT} <= {color for _, color in sheet.getcolors(10**6)}
    assert not Path("data/grid/stale.txt").exists()
    assert not list(project.glob(".work/*/*"))


def test_the_same_answers_give_the_same_bytes(project, monkeypatch):
    evaluated(monkeypatch)
    before = records.folder_digest(Path("data/grid")), records.folder_digest(Path("metrics"))
    run(monkeypatch, evaluate)
    assert (records.folder_digest(Path("data/grid")), records.folder_digest(Path("metrics"))) == before


def test_items_without_answers_score_0_with_a_warning(project, monkeypatch, capsys):
    evaluated(monkeypatch)
    path = Path("data/answers/merged.jsonl")
    records.write_jsonl(path, [row for row in records.read_jsonl(path) if row["item"] != "count-test-2"])
    run(monkeypatch, evaluate)
    assert records.read_json(Path("metrics/eval.json"))["merged"]["mean"] == 0.8333
    assert "merged.jsonl: 4 answers are missing in 1 items" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "{", None])
def test_a_spoilt_answers_file_is_named_and_nothing_written(project, monkeypatch, content):
    for model in load_params().models:
        run(monkeypatch, answer, model)
    path = Path("data/answers/count.jsonl")
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UserError, match=r"data/answers/count\.jsonl"):
        run(monkeypatch, evaluate)
    assert not Path("metrics").exists() and not Path("data/grid").exists()


def test_a_truncated_image_in_the_grid_is_named(project, monkeypatch):
    for model in load_params().models:
        run(monkeypatch, answer, model)
    for image in Path("data/samples/base").glob("*.png"):
        spoil_truncated(image)
    with pytest.raises(UserError, match=r"data/samples/base/.*\.png"):
        run(monkeypatch, evaluate)
    assert not Path("metrics").exists() and not Path("data/grid").exists()


# report ----------------------------------------------------------------------------------------


def test_the_report_is_one_file_and_the_table_is_printed(project, monkeypatch, capsys):
    evaluated(monkeypatch)
    other_metrics()
    run(monkeypatch, report)
    page = Path("data/report/index.html").read_text()
    assert page.count("data:image/png;base64,") == 8
    printed = capsys.readouterr().out
    assert "gain of merged over base" in printed and "+100.00 [+100.00, +100.00]" in printed
    assert "data/report/index.html" in printed
    run(monkeypatch, report)
    assert Path("data/report/index.html").read_text() == page


@pytest.mark.parametrize("missing", ["metrics/eval.json", "metrics/select/tags.json", "metrics/by_skill.csv"])
def test_a_metrics_file_that_is_missing_is_named(project, monkeypatch, missing):
    evaluated(monkeypatch)
    other_metrics()
    Path(missing).unlink()
    with pytest.raises(UserError, match=missing.replace(".", r"\.")):
        run(monkeypatch, report)
    assert not Path("data/report").exists()
