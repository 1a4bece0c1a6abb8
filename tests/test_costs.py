"""What a row of the comparison table cost: everything that it was made from, each once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from selma.ground.files import read_json, write_json
from selma.runtime.facts import flatten
from selma.runtime.params import Params, build_params
from selma.runtime.schema import load_yaml, overridden
from selma.studies.costs import Costs
from selma.studies.results import Cost

ROOT = Path(__file__).parents[1]
SKILLS = load_yaml(ROOT / "params.yaml")["skills"]
ROUNDS = {
    "images.candidates": 4,
    "rate.judges": ["oracle", "clip"],
    "draws": {"again": {"weights": "models/experts/first", "prompts": "data/questions", "images": 4}},
    "picks": {
        "one": {"source": "images", "picker": "best_of_n"},
        "two": {"source": "drawn/again", "picker": "best_of_n"},
    },
    "experts": {
        "first": {"data": "data/picked/one", "objective": "denoising"},
        "second": {"data": "data/picked/two", "objective": "denoising"},
    },
    "mixtures": {"gates": {"objective": "moe_gates", "experts": None}},
}
TIMES = {
    **{f"{stage}@{skill}": 1.0 for stage in ("prompts", "filter", "images") for skill in SKILLS},
    **{f"rate@{judge}-{skill}": 2.0 for judge in ("oracle", "clip") for skill in SKILLS},
    **{f"rate_drawn@{judge}-again": 3.0 for judge in ("oracle", "clip")},
    **{
        "draw@again": 5.0,
        "expert@first": 10.0,
        "select@first": 1.0,
        "expert@second": 20.0,
        "mixture@gates": 7.0,
    },
}


class Made:
    """What a run left: its outs and metrics in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name, images in (*((skill, 40) for skill in SKILLS), ("first", 18), ("second", 19)):
            write_json(root / f"models/experts/{name}/lora.json", {"images": images, "steps": 300})
            write_json(root / f"metrics/select/{name}.json", {"scores": {"150": 0.5, "300": 0.6}})
        write_json(root / "models/mixtures/gates/mixture.json", {"images": 80, "steps": 200})
        write_json(root / "metrics/select/gates.json", {"scores": {"200": 0.6}})
        for source, images in (*((f"images/{skill}", 40) for skill in SKILLS), ("drawn/again", 80)):
            for judge, asked in (("oracle", 4), ("clip", 1)):
                found = {"images": images, "questions": asked * images}
                write_json(root / f"metrics/rate/{source}/{judge}.json", found)

    def out(self, path: str) -> Path:
        return self.root / path

    def metrics(self, path: str) -> Any:
        return read_json(self.root / path)


@pytest.fixture
def costs(tmp_path: Path) -> Costs:
    params: Params = build_params(
        overridden(load_yaml(ROOT / "params.yaml"), flatten(ROUNDS)), where="params.yaml"
    )
    return Costs(params, Made(tmp_path), tmp_path, TIMES, lambda expert: (10, 50))


def test_a_second_round_costs_both_trainings_and_all_images_that_were_judged(costs: Costs) -> None:
    found = costs.of(["second"])
    chosen = 2 * 2  # two trainings, of two checkpoints each
    assert found == Cost(
        steps=600,
        images=5 * 40 + 80 + chosen * 10,
        judge_calls=4 * (5 * 40 + 80) + chosen * 50,  # oracle's alone, who chose
        seconds=15 * 1.0 + 5 * 2.0 + 3.0 + 5.0 + 11.0 + 20.0,
    )


@pytest.mark.parametrize(
    ("picker", "options", "images", "calls"),
    [
        ("first", {}, 15, 0),  # three of each skill were kept, and nobody was asked
        ("best_of_n", {"judge": "clip"}, 200, 1),
        ("pairs", {}, 200, 4),
        ("threshold", {"judge": "clip", "least": {"oracle": 0.5}}, 200, 5),
    ],
)
def test_a_row_is_charged_for_the_judges_that_chose_its_images(tmp_path, picker, options, images, calls):
    changed = {**ROUNDS, "picks": {"one": {"source": "images", "picker": picker, "options": options}}}
    objective = "dpo" if picker == "pairs" else "denoising"
    changed["experts"] = {"first": {"data": "data/picked/one", "objective": objective}}
    changed["draws"] = {}
    params = build_params(overridden(load_yaml(ROOT / "params.yaml"), flatten(changed)), where="params.yaml")
    made = Made(tmp_path)
    write_json(tmp_path / "models/experts/first/lora.json", {"images": 15, "steps": 300})
    found = Costs(params, made, tmp_path, TIMES, lambda expert: (0, 0)).of(["first"])
    assert (found.images, found.judge_calls) == (images, 200 * calls)


def test_what_two_share_counts_once(costs: Costs) -> None:
    assert costs.of(["first", "second"]) == costs.of(["second"])


def test_a_mixture_costs_its_experts_too(costs: Costs) -> None:
    found, experts = costs.of(["gates"]), costs.of(SKILLS)
    assert found.steps == experts.steps + 200 and found.seconds == experts.seconds + 7.0
    assert found.images == experts.images + 10 and found.judge_calls == experts.judge_calls + 50
