"""The profile of a multimodal model, whole but for its sizes, on a tiny random Janus; and what does not fit it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from selma import profile
from selma.ground.adapters import read_adapter
from selma.ground.files import read_jsonl, write_json
from selma.ground.items import Item, write_items, write_split
from selma.ground.pairs import read_pairs, read_training
from selma.runtime import stage
from selma.runtime.params import load_params
from selma.shapes.world.language import Facts
from selma.shapes.world.questions import make_questions
from selma.variants.benchmarks import compbench
from stages import answer, draw, expert, model, own_judge, pick, rate, sample, select
from tests.judge_models import make_blip_vqa
from tests.test_silmm import run

ROOT = Path(__file__).parents[1]
SIZES = {  # all that a tiny model needs to be otherwise
    "images.drawing.steps": 16,
    "images.drawing.resolution": 32,
    "evaluate.drawing.steps": 16,
    "evaluate.drawing.resolution": 32,
    "expert.resolution": 32,
    "expert.rank": 4,
    "expert.alpha": 4,
    "expert.batch": 4,
    "expert.accumulate": 2,
    "expert.steps": 4,
    "expert.checkpoint_every": 2,
}
SKILLS = ("objects", "paragraph", "tags", "count", "counterfactual")
COLORS = ("red", "blue", "green", "yellow", "white")


def change(root: Path, changes: dict[str, object]) -> None:
    """Set values of a project's params.yaml."""
    yaml = YAML()
    yaml.width = 10**6
    params = yaml.load(root / "params.yaml")
    for dotted, value in changes.items():
        *sections, key = dotted.split(".")
        section = params
        for part in sections:
            section = section[part]
        section[key] = value
    yaml.dump(params, root / "params.yaml")


@pytest.fixture
def project(make_project, tiny_janus: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The profile on a tiny Janus and a tiny BLIP VQA, with a prompt a skill."""
    root = make_project("project", {})
    shutil.copytree(ROOT / "profiles", root / "profiles")
    profile.apply("janus", root)
    change(root, SIZES)
    shutil.copytree(tiny_janus, root / "models/backbones/janus")
    blip = make_blip_vqa(root / "models/judges/blip_vqa")
    write_json(blip / "judge.json", {"kind": "blip_vqa"})
    for skill, color in zip(SKILLS, COLORS, strict=True):
        asked = make_questions(Facts(((color, "circle", None),), None, None, None))
        (root / "data/questions" / skill).mkdir(parents=True)
        write_items(
            root / "data/questions" / skill / "prompts.jsonl",
            [Item(f"{skill}-1", f"a {color} circle", skill, "filter", asked)],
        )
    prompt = "a red circle and a blue square"
    exam = Item("color-1", prompt, "color", "compbench", compbench.questions("color", prompt))
    write_split(root / "data/benchmarks/compbench", "test", [exam])
    monkeypatch.chdir(root)
    return root


def test_three_rounds_at_the_settings_of_the_profile(project: Path) -> None:
    """As `dvc repro` runs them: draw, rate by itself and by the one that looks on, pick, train, and the exam."""
    params = load_params()
    assert params.runtime.dtype == "bfloat16" and params.rate.judges == ("self", "blip_vqa")
    run(own_judge, "self")
    rounds = list(params.picks)
    for name, learner in zip(rounds, ("silmm1", "silmm2", "silmm3"), strict=True):
        assert params.experts[learner].data == f"data/picked/{name}"
        run(draw, name)
        for judge in params.rate.judges:
            run(rate, judge, f"drawn/{name}")
        run(pick, name)
        run(expert, learner)
        run(select, learner)
    run(draw, "after")
    for judge in params.rate.judges:
        run(rate, judge, "drawn/after")

    drawn = [read_pairs(project / "data/drawn" / name) for name in params.draws]
    assert [len(pairs) for pairs in drawn] == [30, 30, 30, 5]
    seeds = [pair.seed for pairs in drawn for pair in pairs]
    assert len(set(seeds)) == len(seeds), "no round draws from the noise of another"
    drawers = [
        json.loads((project / "data/drawn" / name / "drawer.json").read_text())["weights"]
        for name in params.draws
    ]
    assert drawers == [None, *(f"models/experts/silmm{n}" for n in (1, 2, 3))]

    for name in rounds:  # the pairs are by the model's own answers
        said = project / "data/ratings/drawn" / name
        scores = {row["file_name"]: row["score"] for row in read_jsonl(said / "self.jsonl")}
        pairs = read_training(project / "data/picked" / name, needed_by="token_dpo")
        assert 0 < len(pairs) <= 5 and len(scores) == len(read_jsonl(said / "blip_vqa.jsonl")) == 30
        for pair in pairs:
            own = [score for file, score in scores.items() if file.startswith(pair.id)]
            assert (scores[pair.file.name], scores[pair.rejected.name]) == (max(own), min(own))

    cards = [json.loads((project / f"models/experts/silmm{n}/lora.json").read_text()) for n in (1, 2, 3)]
    assert [card.get("start") for card in cards] == [None, "models/experts/silmm1", "models/experts/silmm2"]
    factors = [read_adapter(project / f"models/experts/silmm{n}").factors for n in (1, 2, 3)]
    assert len(factors[0]) == 2 * 7, "layers of the tiny model, and linear ones of each"
    for before, after in pairwise(factors):
        assert before.keys() == after.keys()
        assert any(not before[layer][1].equal(after[layer][1]) for layer in before)

    run(model, "silmm3")
    run(sample, "silmm3", "compbench")
    run(answer, "silmm3", "compbench")
    said = read_jsonl(project / "data/answers/silmm3/compbench.jsonl")
    assert {row["answer"] for row in said} <= {"yes", "no"} and len(said) == 2


@pytest.fixture
def told(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """The one line that a stage ends with, exit code 2, after changes of params.yaml."""

    def call(changes: dict[str, object]) -> str:
        change(project, changes)
        monkeypatch.setattr("sys.argv", ["stages.expert", "silmm1"])
        monkeypatch.setenv("DVC_STAGE", "expert@silmm1")
        with pytest.raises(SystemExit) as ended:
            stage.run(expert.main)
        assert ended.value.code == 2
        assert not (project / "models/checkpoints").exists()
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return call


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"questions.source": "none"}, "rate.judges holds self, which answers questions alone"),
        (
            {"judge": {"name": "pickscore", "kind": "pickscore"}},
            "judge.name is pickscore, which answers no questions",
        ),
        ({"rate.judges": ["blip_vqa"]}, "picks.round1.options.judge is self; it must be one in rate.judges"),
        (
            {"images.drawing.scheduler": "ddim"},
            "images.drawing.scheduler is ddim; janus is a multimodal backbone",
        ),
        ({"images.drawing.steps": 576}, "images.drawing.steps is 576; janus draws 16 tokens an image"),
        (
            {"experts.silmm1.objective": "dpo"},
            "experts.silmm1.objective is dpo, which trains diffusion backbones",
        ),
        (
            {"experts.silmm1.data": "data/drawn/round1"},
            "experts.silmm1.data is data/drawn/round1, which holds",
        ),
        ({"experts.silmm2.rank": 8}, "experts.silmm2: goes on from silmm1, which drew its pairs"),
        ({"draws.round1.images": 1}, "picks.round1.picker is pairs, which chooses among 2 images"),
        ({"select.policy": "best"}, "select.policy is best, but compbench has no dev split"),
        ({"expert.caption_dropout": 0.1}, "expert.caption_dropout is 0.1; objective token_dpo compares"),
        (
            {"merges.merged.operator": "regmean"},
            "merges.merged.operator is regmean, which knows diffusion backbones",
        ),
    ],
)
def test_what_does_not_fit_is_one_line_before_anything_is_trained(told, changes, said) -> None:
    assert said in told(changes)


def test_a_backbone_without_image_tokens_is_one_line(told, project: Path, tiny_backbone: Path) -> None:
    shutil.rmtree(project / "models/backbones/janus")
    shutil.copytree(tiny_backbone, project / "models/backbones/janus")
    assert "images.drawing.scheduler is tokens; janus is a diffusion backbone" in told({})
    ways = {f"{section}.drawing.scheduler": "ddim" for section in ("images", "evaluate")}
    assert "objective is next_token, which trains multimodal backbones" in told(ways)
