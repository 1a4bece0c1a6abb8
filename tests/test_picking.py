"""Which images are trained on: pickers, and stages rate, draw, render and pick as a user runs them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from selma.ground.errors import UserError
from selma.ground.files import read_json, read_jsonl, write_jsonl
from selma.ground.items import Item, write_items, write_split
from selma.ground.pairs import Pair, image_seed, read_pairs, read_training, write_image
from selma.picking.choosing import judged, write_picked
from selma.picking.shots import KEPT, REJECTED, Shot, read_shots
from selma.runtime.dvcfile import load_stages
from selma.runtime.params import build_params
from selma.runtime.schema import load_yaml
from selma.shapes.world.exam import exam_scene
from selma.shapes.world.language import describe
from selma.shapes.world.questions import make_questions
from selma.shapes.world.render import draw_scene
from selma.variants.pickers import best_of_n, first, pairs, threshold
from stages import draw, images, pick, rate, render

ROOT = Path(__file__).parents[1]
SCORES = st.lists(
    st.fixed_dictionaries({"a": st.floats(0, 1), "b": st.floats(-5, 5)}), min_size=1, max_size=8
)


def shots(scores: list[dict[str, float]]) -> list[Shot]:
    return [Shot(Pair(Path(f"{k}.webp"), "text", "id", 0, k), found) for k, found in enumerate(scores)]


# Pickers ---------------------------------------------------------------------------------------


@given(SCORES)
def test_first_keeps_the_first_whatever_it_scores(scores: list[dict[str, float]]) -> None:
    said = first.verdicts(shots(scores))
    assert said[0] == KEPT and KEPT not in said[1:]


@given(SCORES)
def test_best_of_n_keeps_one_that_none_beats(scores: list[dict[str, float]]) -> None:
    said = best_of_n.verdicts(shots(scores), judge="a")
    assert said.count(KEPT) == 1
    assert scores[said.index(KEPT)]["a"] == max(found["a"] for found in scores)


@given(SCORES, st.floats(0, 1), st.floats(-5, 5))
def test_threshold_keeps_the_best_of_those_that_pass_every_bar(
    scores: list[dict[str, float]], a: float, b: float
) -> None:
    said = threshold.verdicts(shots(scores), judge="b", least={"a": a, "b": b})
    passing = [found for found in scores if found["a"] >= a and found["b"] >= b]
    assert said.count(KEPT) == bool(passing)
    if passing:
        assert scores[said.index(KEPT)]["b"] == max(found["b"] for found in passing)
        assert scores[said.index(KEPT)] in passing
    for found, verdict in zip(scores, said, strict=True):
        assert (verdict == f"a below {a:g}") == (found["a"] < a)


@given(SCORES, st.floats(0, 2), st.integers(1, 4))
def test_more_pairs_are_the_next_best_and_the_next_worst_with_each_kept_one_ahead_of_each_rejected_one(
    scores: list[dict[str, float]], margin: float, most: int
) -> None:
    said = pairs.verdicts(shots(scores), judge="a", margin=margin, pairs=most)
    values = [found["a"] for found in scores]
    kept, rejected = (
        [value for value, verdict in zip(values, said, strict=True) if verdict == which]
        for which in (KEPT, REJECTED)
    )
    assert len(kept) == len(rejected) <= most
    assert all(better - worse > margin for better in kept for worse in rejected)
    if kept:
        assert sorted(kept) == sorted(values)[-len(kept) :]
        assert sorted(rejected) == sorted(values)[: len(rejected)]
    ahead = sorted(values)
    wanted = [i for i in range(min(most, len(values) // 2)) if ahead[-1 - i] - ahead[i] > margin]
    assert len(kept) == len(wanted)


@given(SCORES, st.floats(0, 2))
def test_pairs_are_the_best_and_the_worst_if_the_lead_is_large_enough(
    scores: list[dict[str, float]], margin: float
) -> None:
    said = pairs.verdicts(shots(scores), judge="a", margin=margin, pairs=1)
    values = [found["a"] for found in scores]
    apart = max(values) - min(values) > margin
    assert Counter(said)[KEPT] == Counter(said)[REJECTED] == apart
    if apart:
        assert values[said.index(KEPT)] == max(values) and values[said.index(REJECTED)] == min(values)


# Stages ----------------------------------------------------------------------------------------

SETTINGS = {
    "skills": ["objects", "count"],
    "experts": {
        "objects": {"data": "data/images/objects", "objective": "denoising"},
        "count": {"data": "data/images/count", "objective": "denoising"},
        "next": {"data": "data/picked/best", "objective": "denoising"},
    },
    "merges": {},
    "models": {
        "base": {"weights": "models/backbones/shapes", "guidance": "cfg"},
        "next": {"weights": "models/experts/next", "guidance": "cfg"},
    },
    "compare": [["next", "base"]],
    "images.candidates": 3,
    "images.drawing.steps": 2,
    "rate.judges": ["oracle"],
    "picks": {"best": {"source": "images", "picker": "best_of_n"}},
}


@pytest.fixture
def project(make_project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """project({...}) makes a project and goes into it: two skills, three pictures of each of their prompts."""

    def make(overrides: dict | None = None) -> Path:
        root = make_project("project", {**SETTINGS, **(overrides or {})})
        rng = Random(1)
        for skill in ("objects", "count"):
            items = []
            for number in range(4):
                prompt, facts = describe(rng, scene := exam_scene(rng, skill), skill)
                items.append(Item(f"{skill}-{number}", prompt, skill, "filter", make_questions(facts)))
                folder = root / "data/images" / skill
                for k in range(3):  # one of them shows what the prompt says, each time another
                    right = k == number % 3
                    image = draw_scene(rng, scene) if right else Image.new("RGB", (64, 64), "teal")
                    write_image(folder / f"{skill}-{number}-{k}.webp", image)
            rows = [
                {"file_name": f"{one.id}-{k}.webp", "text": one.prompt, "id": one.id, "seed": k, "k": k}
                for one in items
                for k in range(3)
            ]
            write_jsonl(folder / "metadata.jsonl", rows)
            write_jsonl(folder / "held_out.jsonl", [{"id": f"{skill}-held", "text": f"held out of {skill}"}])
            write_items(root / "data/questions" / skill / "prompts.jsonl", items)
        (root / "data/images/skills.json").write_text('["objects", "count"]')
        write_split(root / "data/benchmarks/shapes", "test", items[:1])
        monkeypatch.chdir(root)
        return root

    return make


def run(monkeypatch: pytest.MonkeyPatch, stage: str, main: Callable[..., None], *arguments: str) -> None:
    monkeypatch.setenv("DVC_STAGE", stage)
    main(*arguments)


def test_the_best_of_each_prompts_images_is_rated_chosen_and_counted(
    project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = project()
    for skill in ("objects", "count"):
        run(monkeypatch, f"rate@oracle-{skill}", rate.main, "oracle", f"images/{skill}")
    run(monkeypatch, "pick@best", pick.main, "best")
    chosen = read_training(root / "data/picked/best")
    assert [(pair.id, pair.k) for pair in chosen] == [
        (f"{skill}-{number}", number % 3) for skill in ("objects", "count") for number in range(4)
    ]
    found = read_json(root / "metrics/pick/best.json")
    assert (found["kept"], found["prompts"], found["images"]) == (8, 8, 24)
    assert found["verdicts"] == {"behind the best": 16, "kept": 8}
    assert found["scores"]["oracle"]["kept"] > 0.95 > 0.6 > found["scores"]["oracle"]["all"]
    rated = read_json(root / "metrics/rate/images/count/oracle.json")
    assert rated["best"] > 0.95 > rated["mean"] and rated["diversity"] > 0.05
    asked = read_jsonl(root / "data/questions/count/prompts.jsonl")
    assert rated["questions"] == 3 * sum(len(row["questions"]) for row in asked)
    held = read_jsonl(root / "data/picked/best/held_out.jsonl")
    assert [row["id"] for row in held] == ["objects-held", "count-held"]
    verdicts = read_jsonl(root / "data/picked/best/verdicts.jsonl")
    assert len(verdicts) == 24 and verdicts[0]["verdict"] == "kept" and verdicts[0]["scores"]["oracle"] > 0.9


def test_a_prompt_without_questions_is_not_scored_and_not_taken(
    project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """An LLM leaves one of thousands without; the round that was drawn of them goes on."""
    root = project({"picks": {"best": {"source": "images/count", "picker": "best_of_n"}}})
    file = root / "data/questions/count/prompts.jsonl"
    rows = read_jsonl(file)
    file.unlink()
    write_jsonl(file, [row | ({"questions": []} if row["id"] == "count-1" else {}) for row in rows])
    run(monkeypatch, "rate@oracle-count", rate.main, "oracle", "images/count")
    said = capsys.readouterr().out
    assert "images/count: 1 of 4 prompts have no questions" in said and "count-1" in said
    scores = {row["id"]: row["score"] for row in read_jsonl(root / "data/ratings/images/count/oracle.jsonl")}
    assert scores["count-1"] is None and None not in {scores[f"count-{number}"] for number in (0, 2, 3)}
    assert read_json(root / "metrics/rate/images/count/oracle.json")["images"] == 9
    run(monkeypatch, "pick@best", pick.main, "best")
    assert {pair.id for pair in read_training(root / "data/picked/best")} == {"count-0", "count-2", "count-3"}
    write_jsonl(file, [row | {"questions": []} for row in rows])
    with pytest.raises(UserError, match=r"answers questions alone, and count-0 .* has none"):
        rate.main("oracle", "images/count")


def test_two_pairs_of_a_prompt_are_four_images(tmp_path: Path) -> None:
    group = []
    for k, score in enumerate((0.2, 0.9, 0.4, 0.7, 0.1)):
        write_image(tmp_path / f"drawn/a-{k}.webp", Image.new("RGB", (8, 8), (k, 0, 0)))
        pair = Pair(tmp_path / f"drawn/a-{k}.webp", "a red circle", "a", k, k, tokens=(k,))
        group.append(Shot(pair, {"a": score}))
    said = judged({"a": group}, lambda shots: pairs.verdicts(shots, judge="a", margin=0.0, pairs=2))
    write_picked(tmp_path / "picked", {"a": group}, said, [])
    rows = read_jsonl(tmp_path / "picked/metadata.jsonl")
    assert [(row["k"], row["rejected"], row["rejected_tokens"]) for row in rows] == [
        (1, "a-0.webp", [0]),
        (3, "a-4.webp", [4]),
    ]
    assert len(list((tmp_path / "picked").glob("*.webp"))) == 4


def test_pairs_name_the_rejected_image_and_hold_it(
    project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = project({"picks": {"best": {"source": "images/count", "picker": "pairs"}}})
    run(monkeypatch, "rate@oracle-count", rate.main, "oracle", "images/count")
    run(monkeypatch, "pick@best", pick.main, "best")
    for row in read_jsonl(root / "data/picked/best/metadata.jsonl"):
        better, worse = (root / "data/picked/best" / row[name] for name in ("file_name", "rejected"))
        assert better.is_file() and worse.is_file() and better != worse
    assert len(read_training(root / "data/picked/best")) == 4, (
        "the rejected ones are not trained on by themselves"
    )


def test_first_keeps_one_image_of_each_prompt_whatever_it_scores(
    project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = project({"picks": {"best": {"source": "images/count", "picker": "first"}}})
    run(monkeypatch, "rate@oracle-count", rate.main, "oracle", "images/count")
    run(monkeypatch, "pick@best", pick.main, "best")
    assert {pair.k for pair in read_training(root / "data/picked/best")} == {0}
    found = read_json(root / "metrics/pick/best.json")["scores"]["oracle"]
    assert found["kept"] < 1, "compared with the others' scores"


def test_without_judges_there_is_no_stage_that_rates() -> None:
    assert not [name for name in load_stages(ROOT) if name.startswith("rate")]


def test_a_killed_rating_asks_nothing_twice_and_ends_alike(
    project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = project()
    monkeypatch.setattr("selma.picking.rating.PART", 5)
    run(monkeypatch, "rate@oracle-count", rate.main, "oracle", "images/count")
    whole = (root / "data/ratings/images/count/oracle.jsonl").read_bytes()
    killed = """
import os, signal
from selma.judging.kept import Kept
from selma.picking import rating
from stages import rate

rating.PART = 5
keep = Kept.keep
def die(self, came):
    for number, row in enumerate(keep(self, came)):
        if number == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        yield row
Kept.keep = die
os.environ["DVC_STAGE"] = "rate@oracle-objects"
rate.main("oracle", "images/objects")
"""
    done = subprocess.run(
        [sys.executable, "-c", killed], cwd=root, env={**os.environ, "PYTHONPATH": str(root)}
    )
    assert done.returncode == -signal.SIGKILL
    asked = []
    from selma.rewards.judged import JudgeReward

    scores = JudgeReward.scores
    monkeypatch.setattr(
        JudgeReward, "scores", lambda self, shots: asked.append(len(shots)) or scores(self, shots)
    )
    run(monkeypatch, "rate@oracle-objects", rate.main, "oracle", "images/objects")
    assert sum(asked) < 12, "the first part was kept"
    again = [row["score"] for row in read_jsonl(root / "data/ratings/images/objects/oracle.jsonl")]
    assert len(again) == 12 and max(again) == 1.0
    run(monkeypatch, "rate@oracle-count", rate.main, "oracle", "images/count")
    assert (root / "data/ratings/images/count/oracle.jsonl").read_bytes() == whole


def test_a_threshold_that_no_image_passes_says_what_the_highest_score_is(
    project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = project({"images.candidates": 3})
    for file in (root / "data/images/count").glob("*.webp"):
        write_image(file, Image.new("RGB", (64, 64), "teal"))
    params = root / "params.yaml"
    params.write_text(
        params.read_text().replace(
            "picker: best_of_n", "picker: threshold\n    options: {least: {oracle: 0.9}}"
        )
    )
    params.write_text(params.read_text().replace("source: images\n", "source: images/count\n"))
    run(monkeypatch, "rate@oracle-count", rate.main, "oracle", "images/count")
    with pytest.raises(
        UserError, match=r"picks\.best: no image is kept: 12 oracle below 0\.9; the highest scores"
    ):
        run(monkeypatch, "pick@best", pick.main, "best")
    assert not (root / "data/picked/best").exists()


def test_images_that_were_not_rated_are_named(
    project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = project()
    run(monkeypatch, "rate@oracle-count", rate.main, "oracle", "images/count")
    rows = read_jsonl(root / "data/ratings/images/count/oracle.jsonl")
    write_jsonl(root / "data/ratings/images/count/oracle.jsonl", rows[:-1])
    with pytest.raises(UserError, match=r"does not rate count-3-2\.webp; run the rate stage again"):
        read_shots([Path("data/images/count")], ["oracle"])


# Drawing and rendering -------------------------------------------------------------------------


def test_candidates_are_drawn_each_from_a_seed_of_its_own_the_first_as_always(
    make_project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for number in (1, 3):
        root = make_project(f"with-{number}", {"images.drawing.steps": 2, "images.candidates": number})
        write_jsonl(root / "data/filtered/count/prompts.jsonl", [{"id": "count-1", "text": "a red circle"}])
        monkeypatch.chdir(root)
        run(monkeypatch, "images@count", images.main, "count")
        found[number] = read_pairs(root / "data/images/count")
        assert (root / "data/images/count/README.md").is_file()
    assert [(pair.file.name, pair.k) for pair in found[1]] == [("count-1.webp", 0)]
    assert [(pair.file.name, pair.k) for pair in found[3]] == [(f"count-1-{k}.webp", k) for k in range(3)]
    assert [pair.seed for pair in found[3]] == [image_seed(42, "count-1", k) for k in range(3)]
    first_of_one, first_of_three = (np.asarray(Image.open(found[n][0].file), int) for n in (1, 3))
    assert np.abs(first_of_one - first_of_three).max() <= 1, "the same picture, but for rounding"
    assert len({pair.file.read_bytes() for pair in found[3]}) == 3


def test_a_further_round_is_drawn_from_noise_of_its_own(
    project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    again = {"weights": "models/backbones/shapes", "prompts": "data/questions", "images": 2, "first": 3}
    root = project(
        {"draws": {"again": again}, "picks": {"best": {"source": "drawn/again", "picker": "best_of_n"}}}
    )
    run(monkeypatch, "draw@again", draw.main, "again")
    drawn = read_training(root / "data/drawn/again")
    assert [pair.k for pair in drawn[:4]] == [3, 4, 3, 4] and len(drawn) == 16
    assert drawn[0].seed == image_seed(42, "objects-0", 3)
    run(monkeypatch, "rate_drawn@oracle-again", rate.main, "oracle", "drawn/again")
    run(monkeypatch, "pick@best", pick.main, "best")
    assert len(read_training(root / "data/picked/best")) == 8


def test_real_pairs_show_what_they_say_and_their_captions_can_be_drawn(
    project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from selma.shapes.reading.oracle import Oracle
    from selma.shapes.world.reader import read_caption

    row = {"weights": "models/backbones/shapes", "prompts": "data/rendered/real"}
    root = project(
        {"renders": {"real": {"skills": ["tags"], "images": 12, "seed": 5}}, "draws": {"captions": row}}
    )
    run(monkeypatch, "render@real", render.main, "real")
    found = read_pairs(root / "data/rendered/real")
    assert len({pair.text for pair in found}) == 12
    right = []
    for pair in found:
        asked = list(make_questions(read_caption(pair.text)))
        right += [
            said.answer == "yes" for said in Oracle().answer(Image.open(pair.file).convert("RGB"), asked)
        ]
    assert np.mean(right) > 0.98
    run(monkeypatch, "draw@captions", draw.main, "captions")
    drawn = read_training(root / "data/drawn/captions")
    assert [pair.text for pair in drawn] == [pair.text for pair in found]
    run(monkeypatch, "rate_drawn@oracle-captions", rate.main, "oracle", "drawn/captions")
    assert read_json(root / "metrics/rate/drawn/captions/oracle.json")["questions"] == len(right)


def test_captions_of_ones_own_folder_are_drawn_whatever_it_is_called(
    project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "my pictures"
    write_image(folder / "a.png", Image.new("RGB", (32, 32)))
    write_jsonl(folder / "metadata.jsonl", [{"file_name": "a.png", "text": "a cat on a mat"}])
    row = {"weights": "models/backbones/shapes", "prompts": str(folder), "images": 2}
    root = project({"draws": {"mine": row}, "rate.judges": ["clip"]})
    run(monkeypatch, "draw@mine", draw.main, "mine")
    assert [pair.text for pair in read_training(root / "data/drawn/mine")] == ["a cat on a mat"] * 2


def test_no_real_caption_is_near_an_exam_prompt(
    project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = project({"renders": {"real": {"skills": ["count"], "images": 30, "seed": 5}}})
    run(monkeypatch, "render@real", render.main, "real")
    taken = [pair.text for pair in read_pairs(root / "data/rendered/real")]
    exam = [Item(f"count-{i}", text, "count", "shapes", ()) for i, text in enumerate(taken[:10])]
    write_split(root / "data/benchmarks/shapes", "test", exam)
    run(monkeypatch, "render@real", render.main, "real")
    assert not {pair.text for pair in read_pairs(root / "data/rendered/real")} & set(taken[:10])


# Bad settings ----------------------------------------------------------------------------------

DRAW = {"weights": "models/experts/next", "prompts": "data/questions", "images": 2}
BAD = {
    "a picker that is no file": (
        {"picks": {"best": {"source": "images", "picker": "luck"}}},
        "picks.best.picker is 'luck'; it must be one of: best_of_n, first, pairs, threshold",
    ),
    "one image to choose from": (
        {"images.candidates": 1},
        "picks.best.picker is best_of_n, which chooses among 2 images of a prompt or more; images.candidates is 1",
    ),
    "pairs of one drawn image": (
        {
            "draws": {"again": {**DRAW, "weights": "models/experts/count", "images": 1}},
            "picks": {"best": {"source": "drawn/again", "picker": "pairs"}},
        },
        "picks.best.picker is pairs, which chooses among 2 images of a prompt or more; draws.again.images is 1",
    ),
    "more pairs than images": (
        {"picks": {"best": {"source": "images", "picker": "pairs", "options": {"pairs": 3}}}},
        "picks.best.options.pairs is 3; allowed: up to 1, as images.candidates is 3 and a pair takes two",
    ),
    "more pairs than drawn images": (
        {
            "draws": {"again": {**DRAW, "weights": "models/experts/count", "images": 2}},
            "picks": {"best": {"source": "drawn/again", "picker": "pairs", "options": {"pairs": 2}}},
        },
        "picks.best.options.pairs is 2; allowed: up to 1, as draws.again.images is 2 and a pair takes two",
    ),
    "no judge": (
        {"rate.judges": []},
        "picks.best: rate.judges is empty; name a judge, by whose scores best_of_n chooses or is compared",
    ),
    "a judge that does not rate": (
        {"picks": {"best": {"source": "images", "picker": "best_of_n", "options": {"judge": "clip"}}}},
        "picks.best.options.judge is clip; it must be one in rate.judges: oracle",
    ),
    "a judge that nobody knows": ({"rate.judges": ["nobody"]}, "rate.judges"),
    "no threshold": (
        {"picks": {"best": {"source": "images", "picker": "threshold"}}},
        "picks.best.options.least is missing; it must hold a number for one of: oracle",
    ),
    "a threshold above every score": (
        {
            "picks": {
                "best": {"source": "images", "picker": "threshold", "options": {"least": {"oracle": 1.5}}}
            }
        },
        "picks.best.options.least.oracle is 1.5; its score is a share of questions, 0 to 1: no image passes",
    ),
    "a source that nothing draws": (
        {"picks": {"best": {"source": "drawn/none", "picker": "first"}}},
        "picks.best.source is drawn/none; it must be one drawn by a stage: images, images/count, images/objects",
    ),
    "a source outside data": (
        {"picks": {"best": {"source": "../elsewhere", "picker": "first"}}},
        "it must be images, images/<skill> or drawn/<row of `draws`>",
    ),
    "a pick that nobody makes": (
        {"experts": {**SETTINGS["experts"], "next": {"data": "data/picked/none", "objective": "denoising"}}},
        "experts.next.data is data/picked/none; it must be one filled by a stage: ",
    ),
    "an expert that draws what it is trained on": (
        {"draws": {"again": DRAW}, "picks": {"best": {"source": "drawn/again", "picker": "first"}}},
        "experts.next.data is data/picked/best, which next itself draws (next from next); begin somewhere",
    ),
    "a teacher that is missing": (
        {"draws": {"again": {**DRAW, "weights": "models/experts/nobody"}}},
        "draws.again.weights is models/experts/nobody; it must be one made by a stage: ",
    ),
    "a merge as a teacher": (
        {"draws": {"again": {**DRAW, "weights": "models/merges/merged"}}},
        "draws.again.weights is models/merges/merged; merges may be made of experts",
    ),
    "prompts that no stage makes": (
        {"draws": {"again": {**DRAW, "weights": "models/experts/count", "prompts": "data/nothing"}}},
        "draws.again.prompts is data/nothing; allowed under data/: ",
    ),
    "captions that a judge has no questions for": (
        {"draws": {"again": {**DRAW, "weights": "models/experts/count", "prompts": "/somebody/pictures"}}},
        "rate.judges holds oracle, which answers questions alone, and the captions of draws.again.prompts "
        "(/somebody/pictures) have none",
    ),
    "no path": (
        {"draws": {"again": {**DRAW, "weights": "models/experts/count", "prompts": ""}}},
        "draws.again.prompts is ''; it must be a path on this disk",
    ),
    "a home folder": (
        {"draws": {"again": {**DRAW, "weights": "models/experts/count", "prompts": "~/pictures"}}},
        "it must be a path on this disk, from its root or from this folder on, without ~",
    ),
    "an exam's pictures by another way": (
        {
            "draws": {
                "again": {**DRAW, "weights": "models/experts/count", "prompts": "./data/../data/samples/base"}
            }
        },
        "draws.again.prompts is ./data/../data/samples/base; allowed under data/: ",
    ),
    "a margin that no two images have": (
        {"picks": {"best": {"source": "images", "picker": "pairs", "options": {"margin": 1.0}}}},
        "picks.best.options.margin is 1; its judge's score is a share of questions, 0 to 1",
    ),
    "images beyond all numbers": (
        {"draws": {"again": {**DRAW, "weights": "models/experts/count", "first": 2**31 - 1}}},
        "draws.again.first is 2147483647; it must be less than or equal to 1000000",
    ),
    "a skill without a style": (
        {"renders": {"real": {"skills": ["relations"], "images": 3, "seed": 1}}},
        "renders.real.skills holds relations; it must be one of the embedded world's styles: ",
    ),
    "a judge of questions that nobody writes": (
        {"questions.source": "none"},
        "rate.judges holds oracle, which answers questions alone, and questions.source is none",
    ),
    "an operator that looks at images elsewhere": (
        {"merges": {"merged": {"operator": "regmean", "experts": ["count", "next"]}}},
        "merges.merged.operator is regmean, which looks at the experts' images in data/images; next is trained on",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_are_one_line(case: str, make_project: Callable[..., Path]) -> None:
    overrides, said = BAD[case]
    root = make_project("project", {**SETTINGS, **overrides})
    with pytest.raises(UserError) as error:
        build_params(load_yaml(root / "params.yaml"), "params.yaml")
    assert said in str(error.value) and "\n" not in str(error.value)


# The docs' own example --------------------------------------------------------------------------


def test_the_picker_of_the_docs_works_as_a_file_of_the_folder(
    project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (ROOT / "docs/picking.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    assert len(code.strip().splitlines()) <= 20
    root = project(
        {"picks": {"best": {"source": "images/count", "picker": "near", "options": {"within": 0.0}}}}
    )
    (root / "selma/variants/pickers/near.py").write_text(code, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(root)}
    environment.pop("DVC_STAGE", None)
    for command in ("stages.rate oracle images/count", "stages.pick best"):  # as a user types them, too
        words = [sys.executable, "-m", *command.split()]
        done = subprocess.run(words, cwd=root, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert read_json(root / "metrics/pick/best.json")["kept"] == 4
