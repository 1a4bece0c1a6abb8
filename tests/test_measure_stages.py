"""Stages benchmark, answer, evaluate and report on a made-up exam, in a project that has no model at all."""

from __future__ import annotations

import re
import shutil
from itertools import product
from pathlib import Path

import pytest
from PIL import Image
from ruamel.yaml import YAML

from selma.ground.errors import UserError
from selma.ground.files import (
    folder_digest,
    read_csv,
    read_json,
    read_jsonl,
    sha256_file,
    write_csv,
    write_json,
    write_jsonl,
    write_text,
)
from selma.ground.items import Item, Question, load_split, write_split
from selma.ground.pairs import read_image, write_image
from selma.judging.judge import Answer, load_judge
from selma.reporting import table
from selma.runtime import tracking
from selma.runtime.dvcfile import load_stages
from selma.runtime.params import load_params
from selma.variants.judges import oracle
from stages import answer, benchmark, evaluate, judge, prefer, report, sample

ROOT = Path(__file__).parents[1]
SKILLS, STYLES = ("objects", "count"), ("anime", "photo")
BRIGHT, DARK = (250, 250, 250), (9, 9, 9)


class Lamp:
    """A judge that says the first choice (yes) to everything about a bright picture, else the last."""

    def answer(self, image, questions):
        bright = image.getpixel((0, 0))[0] > 100
        return [Answer(question.choices[0 if bright else -1], float(bright)) for question in questions]


def use_judge(monkeypatch, judge) -> None:
    """Put a judge in place of the oracle."""
    monkeypatch.setattr(oracle, "load", lambda *_: judge())


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
    """Three test prompts per skill, two pictures each: base's are dark, everyone else's bright; and judges."""
    for code in ("selma", "stages"):
        (tmp_path / code).symlink_to(ROOT / code)
    for file in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / file, tmp_path)
    monkeypatch.chdir(tmp_path)
    for kept in ("data/preferences", "metrics/human", "metrics/merge", "metrics/policy"):  # by git
        Path(kept).mkdir(parents=True)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    use_judge(monkeypatch, Lamp)
    for name in load_params().judges:
        run(monkeypatch, judge, name)
    for split in ("dev", "test"):
        items = [item(skill, number, split) for skill in SKILLS for number in range(3)]
        write_split(folder(), split, items)
    for model in load_params().models:
        draw(folder(), Path("data/samples") / model / "shapes", DARK if model == "base" else BRIGHT)
    return tmp_path


def folder() -> Path:
    return Path("data/benchmarks") / load_params().evaluate.benchmarks[0]


def draw(benchmark: Path, samples: Path, color: tuple[int, int, int]) -> None:
    rows = []
    for shown in load_split(benchmark, "test"):
        for k in range(2):
            name = f"{shown.id}-{k}.png"
            write_image(samples / name, Image.new("RGB", (32, 32), color))
            rows.append({"file_name": name, "text": shown.prompt, "id": shown.id, "seed": 7, "k": k})
    write_jsonl(samples / "metadata.jsonl", rows)


def set_params(**values: object) -> None:
    """Set keys of params.yaml: set_params(evaluate={"bootstrap": 9}) changes one of the section's."""
    path, yaml = Path("params.yaml"), YAML()
    params = yaml.load(path)
    for key, value in values.items():
        if isinstance(value, dict):
            params[key].update(value)
        else:
            params[key] = value
    yaml.dump(params, path)


PINNED = {"repo": "a/b", "revision": "a" * 40, "files": {"config.json": None}}


def name_scorers(monkeypatch, *names: str) -> Brightness:
    """Put preference judges into params, by their kinds; each scores an image by its brightness."""
    set_params(judges={name: {"kind": name, "weights": PINNED} for name in names}, preferences=list(names))
    for name in names:
        Path("models/judges", name).mkdir()
    scorer = Brightness()
    monkeypatch.setattr(prefer, "load_scorer", lambda *arguments: scorer)
    return scorer


def add_benchmarks() -> None:
    """Two more benchmarks, with images: `many` asks multiple choice about items with the leading one's ids,
    `styles` asks nothing."""
    file = {"url": "https://a.b/c"}
    set_params(
        benchmarks={
            "many": {"source": "tifa", **file},
            "styles": {"source": "hps", "files": {"anime": file}},
        },
        evaluate={"benchmarks": ["shapes", "many", "styles"]},
    )
    questions = (
        Question("1", "What colour is it?", ("red", "blue", "green"), "red", (), "color"),
        Question("2", "Is it big?", ("yes", "no"), "no", (), "attribute"),
    )
    many = [Item(f"count-test-{i}", f"a big thing {i}", "coco", "coco", questions) for i in range(4)]
    styles = [Item(f"{style}-{i}", f"{style} {i}", style, "hps", ()) for style in STYLES for i in range(2)]
    for name, items in (("many", many), ("styles", styles)):
        write_split(Path("data/benchmarks") / name, "test", items)
        for model in load_params().models:
            samples = Path("data/samples") / model / name
            draw(Path("data/benchmarks") / name, samples, DARK if model == "base" else BRIGHT)


def run(monkeypatch, stage, *arguments: str) -> None:
    name = stage.__name__.removeprefix("stages.")
    monkeypatch.setenv("DVC_STAGE", "@".join([name, "-".join(arguments)] if arguments else [name]))
    stage.main(*arguments)


def answered(monkeypatch) -> None:
    params = load_params()
    for model, name in product(params.models, params.evaluate.benchmarks):
        run(monkeypatch, answer, model, name)
        for scorer in params.preferences:
            run(monkeypatch, prefer, scorer, model, name)


def evaluated(monkeypatch) -> None:
    answered(monkeypatch)
    run(monkeypatch, evaluate)


def other_metrics() -> None:
    """The metrics files of the stages before, as they write them."""
    params = load_params()
    for name in params.experts:
        curve = [{"step": step, "loss": 1 / step} for step in range(1, 40)]
        write_csv(Path("metrics/loss") / f"{name}.csv", curve, ["step", "loss"])
        scores = {"100": 0.5, "200": 0.625}
        metrics = {"policy": "best", "chosen": 200, "scores": scores}
        write_json(Path("metrics/select") / f"{name}.json", metrics)
    for skill in params.skills:
        counts = {
            "candidates": 9,
            "kept": 5,
            "dropped": {"too_long": 1, "similar": 2, "exam": 1},
            "unused": 0,
        }
        write_json(Path("metrics/filter") / f"{skill}.json", counts)
        for what in ("prompts", "questions"):
            write_json(Path("metrics") / what / f"{skill}.json", {"requests": 3})
        images = Path("data/images") / skill
        write_image(images / "0.png", Image.new("RGB", (32, 32), "red"))
        drawn = {"file_name": "0.png", "text": f"a {skill}", "id": f"{skill}-0", "seed": 1}
        write_jsonl(images / "metadata.jsonl", [drawn])
    merge = {
        "operator": "factor_mean",
        "experts": ["count", "tags"],
        "rank": 4,
        "cosine": {"count|tags": 0.25},
    }
    write_json(Path("metrics/merge/merged.json"), merge)


# benchmark -------------------------------------------------------------------------------------


def test_the_benchmark_stage_writes_both_splits_and_nothing_else(project, monkeypatch):
    write_text(folder() / "stale.jsonl", "")
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
    run(monkeypatch, answer, "base", "shapes")
    rows = read_jsonl(Path("data/answers/base/shapes.jsonl"))
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
    spoil(Path("data/samples/merged/shapes/count-test-1-1.png"))
    with pytest.raises(UserError, match=r"count-test-1-1\.png"):
        run(monkeypatch, answer, "merged", "shapes")
    assert not Path("data/answers").exists()


def test_images_of_other_prompts_or_too_few_of_them_are_an_error(project, monkeypatch):
    metadata = Path("data/samples/merged/shapes/metadata.jsonl")
    rows = read_jsonl(metadata)
    write_jsonl(metadata, rows[2:])
    with pytest.raises(UserError, match="item 'objects-test-0' has no image 0"):
        run(monkeypatch, answer, "merged", "shapes")
    write_jsonl(metadata, rows[:-1])
    with pytest.raises(UserError, match="item 'count-test-2' has no image 1"):
        run(monkeypatch, answer, "merged", "shapes")
    write_jsonl(metadata, [{**rows[0], "text": "another exam"}, *rows[1:]])
    with pytest.raises(UserError, match="'objects-test-0' is not a prompt of benchmark shapes"):
        run(monkeypatch, answer, "merged", "shapes")


def test_images_of_one_name_in_two_folders_are_kept_apart(project, monkeypatch):
    """Two pictures called x.png, one bright and one dark."""
    samples = Path("data/samples/merged/shapes")
    rows = read_jsonl(samples / "metadata.jsonl")
    for row, place, color in ((rows[0], "a", BRIGHT), (rows[2], "b", DARK)):
        row["file_name"] = f"{place}/x.png"
        write_image(samples / row["file_name"], Image.new("RGB", (32, 32), color))
    write_jsonl(samples / "metadata.jsonl", rows)
    evaluated(monkeypatch)
    said = {
        (row["item"], row["k"]): row["answer"] for row in read_jsonl(Path("data/answers/merged/shapes.jsonl"))
    }
    assert (said[rows[0]["id"], 0], said[rows[2]["id"], 0]) == ("yes", "no")
    shown = {
        example["id"]: example["images"]["merged"]
        for example in read_json(Path("data/grid/examples/examples.json"))
    }
    pictures = {
        file: read_image(Path("data/grid/examples") / file).getpixel((0, 0)) for file in shown.values()
    }
    for row, color in ((rows[0], BRIGHT), (rows[2], DARK)):
        assert row["id"] not in shown or pictures[shown[row["id"]]] == color


def test_a_model_without_samples_and_an_unknown_judge_are_named(project, monkeypatch):
    with pytest.raises(UserError, match="no model 'nobody' in params"):
        run(monkeypatch, answer, "nobody", "shapes")
    with pytest.raises(UserError, match=r"judge 'owl': models/judges/owl/judge\.json is missing"):
        load_judge("owl")


def test_a_stopped_run_asks_nothing_twice_and_ends_in_the_same_bytes(project, monkeypatch):
    run(monkeypatch, answer, "base", "shapes")
    wanted = Path("data/answers/base/shapes.jsonl").read_bytes()
    Path("data/answers/base/shapes.jsonl").unlink()
    asked = []

    class Stopping(Lamp):
        def answer(self, image, questions):
            if len(asked) == 5:
                raise KeyboardInterrupt
            asked.append(1)
            return super().answer(image, questions)

    use_judge(monkeypatch, Stopping)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, answer, "base", "shapes")
    assert not Path("data/answers/base/shapes.jsonl").exists()

    class Counting(Lamp):
        def answer(self, image, questions):
            asked.append(1)
            return super().answer(image, questions)

    use_judge(monkeypatch, Counting)
    run(monkeypatch, answer, "base", "shapes")
    assert len(asked) == 6 * 2
    assert Path("data/answers/base/shapes.jsonl").read_bytes() == wanted
    assert not list(project.glob(".work/*/*"))


def test_answers_that_come_one_by_one_in_any_order_are_kept_one_by_one(project, monkeypatch):
    """As a server's do: a run that is stopped between two questions about an image asks the second one alone."""
    run(monkeypatch, answer, "base", "shapes")
    wanted = Path("data/answers/base/shapes.jsonl").read_bytes()
    shutil.rmtree("data/answers")
    asked, batches = [], set()

    class Scattered(Lamp):
        stop_after = 7

        def answers(self, shots, batch):
            batches.add(batch)
            shots = [
                (i, image, question) for i, (image, some) in enumerate(shots) for question in enumerate(some)
            ]
            for i, image, (j, question) in reversed(shots):
                if len(asked) == self.stop_after:
                    raise KeyboardInterrupt
                asked.append((image.tobytes(), question))
                yield {(i, j): self.answer(image, [question])[0]}

    use_judge(monkeypatch, Scattered)
    set_params(judge={"batch": 3})
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, answer, "base", "shapes")
    assert not Path("data/answers").exists()
    Scattered.stop_after = None
    run(monkeypatch, answer, "base", "shapes")
    assert len(asked) == 6 * 2 * 2 and batches == {3}
    assert Path("data/answers/base/shapes.jsonl").read_bytes() == wanted


# prefer ----------------------------------------------------------------------------------------


class Brightness:
    """Scores a picture by its brightness; it keeps what it was asked."""

    def __init__(self, stop_after: int = 10**6) -> None:
        self.asked: list[str] = []
        self.stop_after = stop_after

    def score(self, image, prompt):
        if len(self.asked) == self.stop_after:
            raise KeyboardInterrupt
        self.asked.append(prompt)
        return image.getpixel((0, 0))[0] / 1000


def test_every_image_is_scored_and_a_stopped_run_goes_on(project, monkeypatch):
    name_scorers(monkeypatch, "hpsv2", "pickscore")
    stopping, going_on = Brightness(stop_after=3), Brightness()
    monkeypatch.setattr(prefer, "load_scorer", lambda *arguments: stopping)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, prefer, "pickscore", "merged", "shapes")
    assert not list(Path("data/preferences").iterdir())
    monkeypatch.setattr(prefer, "load_scorer", lambda *arguments: going_on)
    run(monkeypatch, prefer, "pickscore", "merged", "shapes")
    assert len(going_on.asked) == 12 - 3  # the others were on disk
    folder = Path("data/preferences/pickscore/merged")
    assert [file.name for file in folder.iterdir()] == ["shapes.jsonl"]
    rows = read_jsonl(folder / "shapes.jsonl")
    assert len(rows) == 12
    assert rows[0] == {"item": "objects-test-0", "k": 0, "judge": "pickscore", "score": 0.25}


def test_scores_that_nobody_asked_for_are_named(project, monkeypatch):
    with pytest.raises(UserError, match="preferences: no judge 'nope'; allowed: none"):
        run(monkeypatch, prefer, "nope", "merged", "shapes")
    name_scorers(monkeypatch, "hpsv2")
    with pytest.raises(UserError, match=r"models: no model .nope. in params\.yaml; allowed: base, "):
        run(monkeypatch, prefer, "hpsv2", "nope", "shapes")
    for stage, names in ((sample, ["base"]), (answer, ["base"]), (prefer, ["hpsv2", "base"])):
        with pytest.raises(
            UserError, match=r"^evaluate\.benchmarks: no benchmark 'nope' in params.yaml; allowed: shapes$"
        ):
            run(monkeypatch, stage, *names, "nope")


def test_a_merge_ablation_scores_the_merged_model_alone(project, monkeypatch):
    name_scorers(monkeypatch, "hpsv2", "pickscore")
    stages = load_stages(Path())
    scored = {name: stage for name, stage in stages.items() if name.startswith("prefer@")}
    assert len(scored) == 2 * len(load_params().models)
    again = {name for name, stage in scored.items() if "data/samples/merged/shapes" in stage.deps}
    assert again == {"prefer@hpsv2-merged-shapes", "prefer@pickscore-merged-shapes"}
    assert scored["prefer@pickscore-merged-shapes"].cmd == "python -m stages.prefer pickscore merged shapes"


# evaluate --------------------------------------------------------------------------------------


def test_scores_gains_plots_and_grid(project, monkeypatch):
    write_text(Path("data/grid/examples/stale.txt"), "")
    evaluated(monkeypatch)
    summary = read_json(Path("metrics/eval.json"))
    assert (summary["n_prompts"], summary["images_per_prompt"]) == (6, 2)
    assert (summary["benchmark"], summary["judge"]) == ("shapes", "oracle")
    drawing = load_params().evaluate.drawing
    assert summary["drawing"] == {
        "scheduler": drawing.scheduler,
        "steps": drawing.steps,
        "guidance": drawing.guidance,
        "resolution": drawing.resolution,
    }
    assert list(summary["models"]) == list(load_params().models)
    nothing, all_right = ({"mean": x, "low": x, "high": x, "micro": x, "no_dependencies": x} for x in (0, 1))
    assert summary["models"]["base"] == nothing
    assert summary["models"]["merged"] == summary["models"]["count"] == all_right
    assert summary["gains"] == {
        "merged over base": {"mean": 1.0, "low": 1.0, "high": 1.0},
        "merged over single": {"mean": 0.0, "low": 0.0, "high": 0.0},
    }
    assert read_json(Path("metrics/headline.json")) == {
        "faithful": {"base": 0.0, "merged": 1.0, "single": summary["models"]["single"]["mean"]},
        "gain": summary["gains"],
    }
    assert Path("metrics/by_skill.csv").read_text().startswith("model,skill,score\nbase,objects,0.0\n")
    assert "merged,color,1.0" in Path("metrics/by_category.csv").read_text().splitlines()

    examples = read_json(Path("data/grid/examples/examples.json"))
    assert [example["skill"] for example in examples] == ["objects", "count"] * 2
    assert examples[0]["questions"][0]["answers"] == {"base": "no", "merged": "yes"}
    for example in examples:
        assert all(
            read_image(Path("data/grid/examples") / file).size == (32, 32)
            for file in example["images"].values()
        )
    sheet = read_image(Path("data/grid/before_after.png"))
    assert sheet.width > 4 * 192
    assert {DARK, BRIGHT} <= {color for _, color in sheet.getcolors(10**6)}
    assert not Path("data/grid/examples/stale.txt").exists()
    assert not list(project.glob(".work/*/*"))


def test_one_more_model_row_appears_by_name_wherever_results_do(project, monkeypatch, capsys):
    """A row of `models` and a pair of `compare` are all that a new model takes."""
    set_params(
        merges={"delta": {"operator": "delta_mean", "experts": None}},
        models={"delta": {"weights": "models/merges/delta", "guidance": "cfg"}},
        compare=[["merged", "base"], ["delta", "merged"]],
    )
    stages = load_stages(Path())
    assert {"merge@delta", "model@delta", "sample@delta-shapes", "answer@delta-shapes"} <= set(stages)
    assert "selma/variants/operators/delta_mean.py" in stages["merge@delta"].deps
    draw(folder(), Path("data/samples/delta/shapes"), DARK)
    evaluated(monkeypatch)
    summary = read_json(Path("metrics/eval.json"))
    assert list(summary["models"])[-1] == "delta" and summary["models"]["delta"]["mean"] == 0
    assert {"low", "high"} <= set(summary["models"]["delta"])
    assert summary["gains"]["delta over merged"] == {"mean": -1.0, "low": -1.0, "high": -1.0}
    assert read_csv(Path("metrics/items.csv"), ("delta",))[0].cells["delta"] == "0.0"
    assert {row.cells["model"] for row in read_csv(Path("metrics/by_skill.csv"), ("model",))} >= {"delta"}

    other_metrics()
    write_json(Path("metrics/merge/delta.json"), read_json(Path("metrics/merge/merged.json")))
    capsys.readouterr()
    run(monkeypatch, report)
    printed = capsys.readouterr().out
    assert re.search(r"^delta +0\.00 +\[0\.00, 0\.00\]$", printed, re.M)
    assert re.search(r"^delta over merged +-100\.00 \[-100\.00, -100\.00\]$", printed, re.M)
    page = Path("data/report/index.html").read_text()
    assert "delta compared with merged: -100.00 points" in page and "<td>delta</td>" in page
    assert "delta: cosine of its experts" in page
    shown = table.markdown_table(summary)
    assert re.search(r"^\| delta +\| 0\.00 +\|", shown, re.M) and "delta over merged, points" in shown
    # What MLflow is told: every number of the file, under the model's name.
    told = tracking.flatten(summary)
    assert told["models.delta.mean"] == 0 and told["gains.delta over merged.low"] == -1


def test_the_leading_benchmark_must_ask_something(project, monkeypatch):
    write_split(folder(), "test", [Item("a", "a prompt", "count", "x", ())])
    with pytest.raises(UserError, match="data/benchmarks/shapes: has no questions, so it cannot lead"):
        run(monkeypatch, evaluate)


def test_the_same_answers_give_the_same_bytes(project, monkeypatch):
    evaluated(monkeypatch)
    before = folder_digest(Path("data/grid")), folder_digest(Path("metrics"))
    run(monkeypatch, evaluate)
    assert (folder_digest(Path("data/grid")), folder_digest(Path("metrics"))) == before


def test_items_without_answers_score_0_with_a_warning(project, monkeypatch, capsys):
    evaluated(monkeypatch)
    path = Path("data/answers/merged/shapes.jsonl")
    write_jsonl(path, [row for row in read_jsonl(path) if row["item"] != "count-test-2"])
    run(monkeypatch, evaluate)
    assert read_json(Path("metrics/eval.json"))["models"]["merged"]["mean"] == 0.8333
    assert "merged/shapes.jsonl: 4 answers are missing in 1 items" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "{", None])
def test_a_spoilt_answers_file_is_named_and_nothing_written(project, monkeypatch, content):
    answered(monkeypatch)
    path = Path("data/answers/count/shapes.jsonl")
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UserError, match=r"data/answers/count/shapes\.jsonl"):
        run(monkeypatch, evaluate)
    assert not list(Path("metrics").glob("*.*")) and not Path("data/grid").exists()


def test_a_truncated_image_in_the_grid_is_named(project, monkeypatch):
    answered(monkeypatch)
    for image in Path("data/samples/base/shapes").glob("*.png"):
        spoil_truncated(image)
    with pytest.raises(UserError, match=r"data/samples/base/shapes/.*\.png"):
        run(monkeypatch, evaluate)
    assert not list(Path("metrics").glob("*.*")) and not Path("data/grid").exists()


# further benchmarks and preferences ------------------------------------------------------------


def leading_outs() -> dict[str, str]:
    """Digests of all that is about the leading benchmark."""
    files = [
        *Path("data/answers").glob("*/shapes.jsonl"),
        *Path("data/preferences").glob("*/*/shapes.jsonl"),
        *(path for path in Path("metrics").glob("*.*") if path.stem not in ("benchmarks", "preferences")),
    ]
    return {str(path): sha256_file(path) for path in files} | {"data/grid": folder_digest(Path("data/grid"))}


def test_nothing_more_is_measured_than_was_asked_for(project, monkeypatch):
    evaluated(monkeypatch)
    assert (
        Path("metrics/benchmarks.json").read_text() == Path("metrics/preferences.json").read_text() == "{}\n"
    )
    assert {file.name for file in Path("data/answers").glob("*/*")} == {"shapes.jsonl"}


def test_further_benchmarks_are_measured_and_change_nothing_of_the_leading_one(project, monkeypatch):
    name_scorers(monkeypatch, "hpsv2")
    evaluated(monkeypatch)
    before = leading_outs()
    alone = read_json(Path("metrics/preferences.json"))
    assert list(alone) == ["shapes"] and list(alone["shapes"]) == ["hpsv2"]
    add_benchmarks()
    evaluated(monkeypatch)
    assert leading_outs() == before and len(before) == 2 * len(load_params().models) + 6

    found = read_json(Path("metrics/benchmarks.json"))
    assert list(found) == ["many"]  # `styles` asks nothing
    assert (found["many"]["n_prompts"], found["many"]["images_per_prompt"]) == (4, 2)
    # dark: no, as expected; bright: red, as expected
    assert [found["many"]["models"][name]["mean"] for name in ("base", "merged")] == [0.5, 0.5]
    assert found["many"]["gains"]["merged over base"] == {"mean": 0.0, "low": 0.0, "high": 0.0}

    preferred = read_json(Path("metrics/preferences.json"))
    assert list(preferred) == ["shapes", "many", "styles"]
    assert preferred["shapes"] == alone["shapes"]
    styles = preferred["styles"]["hpsv2"]
    assert styles["n_prompts"] == 4 and list(styles["models"]) == list(load_params().models)
    base, merged = styles["models"]["base"], styles["models"]["merged"]
    assert base == {"mean": 0.009, "low": 0.009, "high": 0.009, "skill": dict.fromkeys(STYLES, 0.009)}
    assert merged["skill"] == dict.fromkeys(STYLES, 0.25)
    assert styles["gains"] == {
        "merged over base": {"mean": 0.241, "low": 0.241, "high": 0.241},
        "merged over single": {"mean": 0.0, "low": 0.0, "high": 0.0},
    }


def test_answers_of_two_benchmarks_with_equal_ids_are_kept_apart(project, monkeypatch):
    add_benchmarks()
    for name in ("shapes", "many"):
        run(monkeypatch, answer, "merged", name)
    rows = read_jsonl(Path("data/answers/merged/many.jsonl"))
    first = {
        "item": "count-test-0",
        "k": 0,
        "question": "1",
        "answer": "red",
        "p_yes": 1.0,
        "expected": "red",
    }
    assert rows[0] == first and len(rows) == 4 * 2 * 2
    assert read_jsonl(Path("data/answers/merged/shapes.jsonl"))[0]["answer"] == "yes"


def test_a_benchmark_that_asks_nothing_needs_no_judge(project, monkeypatch):
    add_benchmarks()
    monkeypatch.setattr(answer, "load_judge", None)
    run(monkeypatch, answer, "merged", "styles")
    assert Path("data/answers/merged/styles.jsonl").read_bytes() == b""


def test_a_picture_that_an_other_benchmark_lacks_is_named(project, monkeypatch):
    name_scorers(monkeypatch, "hpsv2")
    add_benchmarks()
    metadata = Path("data/samples/merged/many/metadata.jsonl")
    write_jsonl(metadata, read_jsonl(metadata)[:-1])
    with pytest.raises(UserError, match="samples/merged/many: item 'count-test-3' has no image 1"):
        run(monkeypatch, answer, "merged", "many")
    shutil.rmtree("data/samples/merged/styles")
    with pytest.raises(UserError, match="data/samples/merged/styles"):
        run(monkeypatch, prefer, "hpsv2", "merged", "styles")
    assert not Path("data/answers").exists() and not list(Path("data/preferences").iterdir())


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda rows: rows[:-1], "'count-test-3', image 1, question '2' has no answer; one of yes, no is"),
        (
            lambda rows: [{**rows[0], "answer": "rot"}, *rows[1:]],
            "is answered 'rot'; one of red, blue, green",
        ),
        (lambda rows: [], "merged/many.jsonl holds no answers"),
    ],
)
def test_a_gap_in_multiple_choice_is_an_error_and_nothing_is_written(project, monkeypatch, spoil, says):
    add_benchmarks()
    answered(monkeypatch)
    path = Path("data/answers/merged/many.jsonl")
    write_jsonl(path, spoil(read_jsonl(path)))
    with pytest.raises(UserError, match=says) as error:
        run(monkeypatch, evaluate)
    assert "\n" not in str(error.value) and not list(Path("metrics").glob("*.*"))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda rows: rows[:-1], "item 'photo-1', image 1 has no score by hpsv2"),
        (lambda rows: [{**row, "judge": "pickscore"} for row in rows], "judge holds no 'hpsv2'"),
        (lambda rows: [*rows, {**rows[0], "item": "else"}], "'else' is not in the benchmark"),
    ],
)
def test_a_gap_in_preference_scores_is_an_error(project, monkeypatch, spoil, says):
    name_scorers(monkeypatch, "hpsv2")
    add_benchmarks()
    answered(monkeypatch)
    path = Path("data/preferences/hpsv2/merged/styles.jsonl")
    write_jsonl(path, spoil(read_jsonl(path)))
    with pytest.raises(UserError, match=says):
        run(monkeypatch, evaluate)
    assert not list(Path("metrics").glob("*.*"))


# report ----------------------------------------------------------------------------------------


def test_the_report_is_one_file_and_the_table_is_printed(project, monkeypatch, capsys):
    evaluated(monkeypatch)
    other_metrics()
    run(monkeypatch, report)
    page = Path("data/report/index.html").read_text()
    assert page.count("data:image/png;base64,") == 8 + 8  # by chance, and the biggest wins
    assert "learning_rate" in page and "accumulate" not in page, (
        "what changes speed alone is no dep of the page"
    )
    printed = capsys.readouterr().out
    assert re.search(r"^merged over base +\+100\.00 \[\+100\.00, \+100\.00\]$", printed, re.M)
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
