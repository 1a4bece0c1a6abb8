"""The report's parts that are read from data/: gains by part, picked prompts, the search, training images, what ran."""

from __future__ import annotations

import base64
import json
import re
from io import BytesIO
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from selma.ground.errors import UserError
from selma.ground.files import write_csv, write_json, write_jsonl
from selma.ground.items import Item, Question, write_split
from selma.ground.pairs import write_image
from selma.reporting import detail, explorer, pages, picked, spent
from selma.reporting.thumbnails import SIDE, strip
from selma.runtime.params import Judge
from selma.scoring.parts import kind_gains, skill_gains
from selma.scoring.scores import QuestionScore
from tests.test_report import HOSTILE, Tags, page, run  # noqa: F401 - a fixture

MODELS = ("base", "merged")
# (skill, base's answers, merged's answers) to "is it there" and "is it red", which depends on the first.
GIVEN = {
    "c0": ("count", ("no", "yes"), ("yes", "yes")),
    "c1": ("count", ("yes", "yes"), ("yes", "yes")),
    "c2": ("count", ("yes", "no"), ("yes", "yes")),
    "o0": ("objects", ("yes", "yes"), ("no", "no")),
    "o1": ("objects", ("no", "no"), ("no", "no")),
}


def questions() -> tuple[Question, ...]:
    return (
        Question("1", f"There? {HOSTILE}", ("yes", "no"), "yes", (), "object"),
        Question("2", "Red?", ("yes", "no"), "yes", ("1",), "color"),
    )


@pytest.fixture
def data(tmp_path):
    return drawn_and_judged(tmp_path / "data")


def drawn_and_judged(folder):
    """A run's data folder: two images of each prompt, of which the second is answered as base answers it."""
    items = [Item(id, f"{id} & {HOSTILE}", skill, "shapes", questions()) for id, (skill, *_) in GIVEN.items()]
    write_split(folder / "benchmarks/shapes", "test", items)
    for model in MODELS:
        rows, pairs = [], []
        for n, item in enumerate(items):
            for k in (0, 1):
                said = GIVEN[item.id][2 if model == "merged" and k == 0 else 1]
                rows += [
                    {"item": item.id, "k": k, "question": q.id, "answer": a, "p_yes": None, "expected": "yes"}
                    for q, a in zip(item.questions, said, strict=True)
                ]
                file = f"{item.id}-{k}.png"
                colour = (40 * n, 200 if model == "merged" else 0, 100 * k)
                write_image(folder / "samples" / model / "shapes" / file, Image.new("RGB", (16, 16), colour))
                pairs.append({"file_name": file, "text": item.prompt, "id": item.id, "seed": 1, "k": k})
        write_jsonl(folder / f"answers/{model}/shapes.jsonl", rows)
        write_jsonl(folder / "samples" / model / "shapes/metadata.jsonl", pairs)
    for n in range(12):
        write_image(folder / f"images/count/{n}.png", Image.new("RGB", (16, 16), (20 * n, 0, 0)))
    write_jsonl(
        folder / "images/count/metadata.jsonl",
        [{"file_name": f"{n}.png", "text": f"drawn {n}", "id": f"count-{n}", "seed": n} for n in range(12)],
    )
    return folder


def read(data, **changes):
    options = {"benchmark": "shapes", "models": MODELS, "pairs": [("merged", "base")], "skills": ["count"]}
    return detail.read(data, **(options | changes), resamples=200, seed=1)


def test_gains_by_skill_and_kind_have_intervals(data):
    (compared,) = read(data)["pairs"]
    by_skill, by_kind = compared["parts"]
    assert compared["intervals"] == len(by_skill["rows"]) + len(by_kind["rows"])
    skills = {row["name"]: row for row in by_skill["rows"]}
    # count: c0 gains 1 and c2 half a point of one of two images; objects: o0 loses all of one.
    assert skills["count"]["gain"] == "+25.00" and skills["objects"]["gain"] == "-25.00"
    assert skills["count"]["before"] == "50.00"  # c0 0 (its colour is void), c1 1, c2 1/2
    kinds = {row["name"]: row for row in by_kind["rows"]}
    assert list(kinds) == ["color", "object"] and kinds["object"]["gain"] == "+0.00"
    low, high = map(float, re.findall(r"[-+][\d.]+", skills["count"]["span"]))
    assert 0 <= low <= 25 <= high <= 50


def test_every_compared_pair_has_its_own(data):
    """The other way round, every gain is a loss."""
    first, second = read(data, pairs=[("merged", "base"), ("base", "merged")])["pairs"]
    for one, other in zip(first["parts"], second["parts"], strict=True):
        lost = {row["name"]: float(row["gain"]) for row in other["rows"]}
        assert {row["name"]: -float(row["gain"]) for row in one["rows"]} == lost
    assert second["names"] == ("base", "merged")


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=9)
)
def test_gains_by_part_are_the_differences_of_the_means(rows):
    def scores(column: int) -> list[QuestionScore]:
        return [
            QuestionScore(str(n), row[0], row[0], 0, "1", "yes", row[column], row[column], row[column])
            for n, row in enumerate(rows)
        ]

    for gains in (skill_gains, kind_gains):
        found = gains(scores(1), scores(2), resamples=20, seed=0)
        for part, (mean, low, high) in found.items():
            own = [after - before for skill, before, after in rows if skill == part]
            assert mean == pytest.approx(sum(own) / len(own))
            assert low <= mean + 1e-9 and mean - 1e-9 <= high


def test_models_that_were_asked_different_things_have_no_gain_by_part():
    one = QuestionScore("a", "s", "k", 0, "1", "yes", 1, 1, 1)
    other = QuestionScore("b", "s", "k", 0, "1", "yes", 1, 1, 1)
    for gains in (skill_gains, kind_gains):
        with pytest.raises(ValueError, match="not asked"):
            gains([one], [other], resamples=20, seed=0)


def test_the_biggest_wins_and_losses_show_the_image_that_differs(data):
    found = picked.wins_and_losses(explorer.examined(data, "shapes", MODELS), ("merged", "base"))
    assert [card["prompt"][:2] for card in found["wins"]] == ["c0", "c2"]
    assert [card["prompt"][:2] for card in found["losses"]] == ["o0"]
    assert found["wins"][0]["images"]["merged"].name == "c0-0.png"
    question = found["losses"][0]["questions"][0]
    assert question["answers"] == {"base": "yes", "merged": "no"}


def test_the_search_holds_every_prompt_with_every_models_first_answers(data):
    content = read(data)["explorer"]
    assert [item["id"] for item in content["items"]] == list(GIVEN) and content["all"] == 5
    first = content["items"][0]
    assert first["scores"] == [0, 1]
    said = [question["said"] for question in first["questions"]]
    assert said == [
        [["no", explorer.WRONG], ["yes", explorer.RIGHT]],
        [["yes", explorer.VOID], ["yes", explorer.RIGHT]],
    ]


def test_a_large_benchmark_is_shown_in_part_every_skill_of_it(data, monkeypatch):
    monkeypatch.setattr(explorer, "MOST", 2)
    content = read(data)["explorer"]
    assert content["all"] == 5 and {item["skill"] for item in content["items"]} == {"count", "objects"}


def test_pictures_of_many_prompts_are_half_as_wide(tmp_path):
    for name in ("a", "b"):
        Image.new("RGB", (200, 100)).save(tmp_path / f"{name}.png")
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    for side, size in ((SIDE, (2 * 128, 64)), (SIDE // 2, (2 * 64, 32))):
        data = base64.b64decode(strip(files, side).partition(",")[2])
        assert Image.open(BytesIO(data)).size == size


def test_the_search_takes_the_smaller_pictures_for_a_large_benchmark(data, monkeypatch):
    seen = set()
    monkeypatch.setattr(explorer, "strip", lambda files, side: seen.add(side) or "")
    read(data)
    assert seen == {SIDE}
    monkeypatch.setattr(explorer, "FEW", 4)
    assert len(read(data)["explorer"]["items"]) == 5 and seen == {SIDE, SIDE // 2}


def test_training_images_are_some_by_chance_and_the_same_again(data):
    (part,) = read(data)["gallery"]
    prompts = [picture["prompt"] for picture in part["pictures"]]
    assert part["number"] == 12 and len(set(prompts)) == 8
    assert prompts == [picture["prompt"] for picture in read(data)["gallery"][0]["pictures"]]


def test_the_page_is_whole_and_no_text_breaks_out_of_it(run, data):  # noqa: F811
    html = page(
        run,
        detail=read(data),
        ran=[("base model", HOSTILE, "")],
        cost=[{"name": HOSTILE, "steps": "1", "images": "1", "judged": "0", "mean": "1", "span": ""}],
    )
    for script in re.findall(r"<script[^>]*>(.*?)</script>", html, re.DOTALL):
        assert "alert('x')</script" not in script
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", html, re.DOTALL)
    assert [attributes for attributes, _ in scripts] == [' type="application/json" id="items"', ""]
    assert json.loads(scripts[0][1]) == read(data)["explorer"]
    tags = Tags(re.sub(r"<(script)[^>]*>.*?</script>", "", html, flags=re.DOTALL).replace("<input ", "<br "))
    inside = [link for link in tags.links if not link.startswith("data:image/")]
    anchors = set(re.findall(r'id="([\w-]+)"', html))
    assert inside and {link.removeprefix("#") for link in inside} <= anchors
    for heading in (
        "Biggest wins and losses",
        "All test prompts",
        "Training images",
        "What ran",
        "Methods by cost",
        "Glossary",
    ):
        assert heading in tags.text
    assert "All test prompts" not in page(run) and "What ran" not in page(run)


def test_a_page_without_answers_or_images_is_one_line(data):
    (data / "samples/merged/shapes/c1-0.png").unlink()
    with pytest.raises(UserError, match=r"c1-0\.png"):
        read(data)


def test_a_prompt_without_its_picture_is_named(data):
    file = data / "samples/merged/shapes/metadata.jsonl"
    file.write_text("".join(line for line in file.read_text().splitlines(True) if "c1-0" not in line))
    with pytest.raises(UserError, match="data/samples/merged/shapes: no image of c1"):
        read(data)


def test_what_was_spent_is_counted_from_the_metrics(tmp_path):
    told = {"requests": 30, "prompt_tokens": 1000, "completion_tokens": 500, "estimated_cost": 1.25}
    for what in ("prompts", "questions"):
        write_json(tmp_path / what / "count.json", told)
        write_json(tmp_path / what / "tags.json", told)
    rows = [{"step": step, "loss": 0.1} for step in range(3, 301, 3)]
    write_csv(tmp_path / "loss/count.csv", rows, ["step", "loss"])
    params = SimpleNamespace(
        skills=["count", "tags"],
        experts={"count": None},
        policies={"nft": SimpleNamespace(images=2880)},
        judge=Judge("gpt", "endpoint", input_price=2.0, output_price=10.0),
    )
    found = spent.spent(tmp_path, params, {"gallery": [{"number": 200}, {"number": 100}], "answers": 4000})
    assert [row[1] for row in found] == ["60", "60", "300", "300", "2,880", "4,000"]
    assert found[0][2] == "2,000 tokens read, 1,000 tokens written, about 2.50 in the prices of params.yaml"
    assert found[-1][2] == "all models"
    told = {
        "gallery": [],
        "answers": 4000,
        "tokens": {"prompt_tokens": 1_000_000, "completion_tokens": 4_000},
    }
    paid = "all models, 1,000,000 tokens read, 4,000 tokens written"
    assert spent.spent(tmp_path, params, told)[-1][2] == f"{paid}, about 2.04 in the prices of params.yaml"
    params.judge = Judge("gpt", "endpoint", input_price=2.0)  # one price alone says nothing
    assert spent.spent(tmp_path, params, told)[-1][2] == paid
    write_json(tmp_path / "prompts/tags.json", {"requests": 30})  # a server that did not tell
    assert spent.spent(tmp_path, params, {"gallery": [], "answers": 0})[0][2] == ""


def test_the_script_is_a_file_of_its_own_that_fetches_nothing():
    script = pages.script("report.js")
    assert not re.search(r"fetch\(|XMLHttp|import\(|https?:|innerHTML|eval\(", script)


def test_models_are_listed_by_what_they_cost(tmp_path):
    for name, last in (("count", 300), ("tags", 200), ("gates", 50)):
        write_csv(
            tmp_path / f"loss/{name}.csv",
            [{"step": 1, "loss": 1}, {"step": last, "loss": 1}],
            ["step", "loss"],
        )
    write_json(tmp_path / "policy/nft.json", {"updates": 40})
    params = SimpleNamespace(
        skills=["count", "tags"],
        experts={
            "count": SimpleNamespace(data="data/images/count", skills=None),
            "tags": SimpleNamespace(data="data/images", skills=["tags"]),
            "own": SimpleNamespace(data="/pictures", skills=None),
        },
        merges={
            "merged": SimpleNamespace(experts=None),
            "brought": SimpleNamespace(experts=["count", "styled"]),
        },
        mixtures={"gates": SimpleNamespace(experts=None)},
        policies={"nft": SimpleNamespace(images=2880, start="models/experts/count")},
        models={
            name: SimpleNamespace(weights=weights)
            for name, weights in {
                "merged": "models/merges/merged",
                "base": "models/backbones/shapes",
                "count": "models/experts/count",
                "gates": "models/mixtures/gates",
                "nft": "models/experts/nft",
                "brought": "models/merges/brought",
            }.items()
        },
    )
    write_csv(tmp_path / "loss/own.csv", [{"step": 7, "loss": 1}], ["step", "loss"])
    gallery = [{"skill": "count", "number": 200}, {"skill": "tags", "number": 100}]
    scores = {name: {"mean": 0.5, "low": 0.4, "high": 0.6} for name in params.models}
    found = spent.by_cost(tmp_path, params, scores, {"gallery": gallery})
    assert [tuple(row[key] for key in ("name", "steps", "images", "judged")) for row in found] == [
        ("base", "0", "0", "0"),
        ("brought", "300", "200", "0"),
        ("count", "300", "200", "0"),
        ("merged", "500", "300", "0"),
        ("gates", "550", "300", "0"),
        ("nft", "340", "3,080", "2,880"),
    ]
    assert found[0]["mean"] == "50.00" and found[0]["span"] == "[40.00, 60.00]"
