"""Which images a row's expert was trained on: what the comparison table's page shows of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from selma.runtime.facts import flatten
from selma.runtime.params import Params, build_params
from selma.runtime.schema import load_yaml, overridden
from selma.studies.choices import choice_lines, choice_of

ROOT = Path(__file__).parents[1]
SKILLS = load_yaml(ROOT / "params.yaml")["skills"]
ROUNDS = {
    "images.candidates": 4,
    "rate.judges": ["oracle"],
    "draws": {"again": {"weights": "models/experts/first", "prompts": "data/questions", "images": 4}},
    "picks": {
        "one": {"source": "images", "picker": "best_of_n"},
        "two": {"source": "drawn/again", "picker": "best_of_n"},
    },
    "experts": {
        "first": {"data": "data/picked/one", "objective": "denoising"},
        "second": {"data": "data/picked/two", "objective": "denoising"},
    },
}
LOW = {"prompts": 10, "mean": 0.4, "best": 0.5, "diversity": 0.3}
PICKED = {"images": 160, "prompts": 40, "kept": 20, "prompts_kept": 20, "scores": {"oracle": {"kept": 0.95}}}
RATED = {
    **{f"metrics/rate/images/{skill}/oracle.json": LOW for skill in SKILLS[1:]},
    f"metrics/rate/images/{SKILLS[0]}/oracle.json": LOW
    | {"prompts": 60, "mean": 0.8, "best": 1.0, "diversity": 0.1},
    "metrics/rate/drawn/again/oracle.json": {"prompts": 40, "mean": 0.9, "best": 1.0, "diversity": None},
    "metrics/pick/one.json": PICKED,
    "metrics/pick/two.json": PICKED | {"images": 40},
}


class Left:
    """What a run left: its metrics."""

    def metrics(self, path: str) -> dict:
        return RATED[path]


@pytest.fixture(scope="module")
def params() -> Params:
    plain = load_yaml(ROOT / "params.yaml")
    return build_params(overridden(plain, flatten(ROUNDS)), where="test")


def test_scores_are_means_over_prompts_whichever_skill_they_are_of(params):
    found = choice_of(Left(), params, "first")
    assert found["drawn_by"] == "shapes" and found["kept"] == 20
    judged = found["judges"]["oracle"]
    assert judged["mean"] == pytest.approx(0.64) and judged["best"] == pytest.approx(0.8)
    assert judged["diversity"] == pytest.approx(0.18) and judged["kept"] == 0.95


def test_a_later_rounds_images_are_by_the_model_before(params):
    assert choice_of(Left(), params, "second")["drawn_by"] == "first"


def test_lines_are_means_over_seeds_and_one_image_of_a_prompt_has_no_diversity(params):
    one, two = (choice_of(Left(), params, name) for name in ("first", "second"))
    lines = choice_lines({"a": {42: one, 43: {**one, "kept": 30}}, "b": {42: two}, "c": {}})
    assert [line["name"] for line in lines] == ["a", "b"]
    assert (
        lines[0]["kept"] == "25"
        and lines[0]["diversity"] == "0.180"
        and lines[0]["mean_scores"] == "oracle 0.640"
    )
    assert lines[1]["diversity"] == ""


@pytest.mark.parametrize("expert", ["count", "nobody", None])
def test_an_expert_that_no_picker_chose_for_has_none(params, expert):
    assert choice_of(Left(), params, expert) is None
