"""The shipped multimodal backbone: it draws what is asked for, answers about what it sees, and runs SILMM's rounds.

The gates themselves (`python -m selma.gates --backbone shapes_mm`) are of a thousand renders and all dev prompts. What
is asked here is a little of it, with room for chance.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from selma.backbones.loading import load_backbone
from selma.gates import accuracy, agreement
from selma.ground.files import read_jsonl
from selma.images.tokens import fitted
from selma.judging.judge import load_judge
from selma.runtime.params import load_params
from selma.scoring import exam
from selma.scoring.scores import macro
from selma.variants.benchmarks import shapes
from selma.variants.judges import multimodal
from stages import own_judge
from tests.test_silmm import make_silmm, one_round, run  # noqa: F401 - make_silmm is a fixture

FOLDER = (Path(__file__).parents[1] / "models/backbones/shapes_mm").resolve()
pytestmark = pytest.mark.skipif(not (FOLDER / "config.json").is_file(), reason="`dvc pull` fetches it")


@pytest.fixture
def tiny_janus() -> Path:
    """In the place of the random one that test_silmm.py takes."""
    return FOLDER


def test_it_answers_about_renders_and_its_drawings_show_what_was_asked_for():
    params = load_params()
    own = multimodal.load(FOLDER, {}, "cpu", "float32")
    assert accuracy(own, 777, 60)["all"] > 0.8
    pipe = load_backbone(FOLDER)
    drawing = replace(fitted(pipe, params.evaluate.drawing), guidance=1.35)
    items = shapes.make(seed=5, dev_per_skill=8, test_per_skill=1)["dev"]
    drawn = list(exam.draw(pipe, items, drawing, images=1, seed=3))
    oracle = load_judge("oracle", "cpu", "float32")
    score = macro(exam.faithfulness(oracle, items, drawn, where="drawings"))
    assert 0.35 < score < 0.95
    said, goes = agreement(own, oracle, drawn, items)
    assert abs(said - score) < 0.25 and goes > 0.3


def test_two_rounds_of_silmm(make_silmm, monkeypatch):  # noqa: F811
    drawing = ("images__drawing", "evaluate__drawing")
    size = {f"{name}__{key}": 64 for name in drawing for key in ("steps", "resolution")}
    root = make_silmm(**size, expert__resolution=64)
    run(own_judge, "self")
    for name in ("r1", "r2"):
        one_round(name)
        rated = {
            row["file_name"]: row["score"]
            for row in read_jsonl(root / f"data/ratings/drawn/{name}/self.jsonl")
        }
        assert len(set(rated.values())) > 1, "it tells its drawings apart"
    means = [
        json.loads((root / f"metrics/rate/drawn/{name}/oracle.json").read_text())["mean"]
        for name in ("r1", "r2")
    ]
    assert fmean(means) > 0.3, "they are still pictures"
    assert json.loads((root / "models/experts/r2/lora.json").read_text())["start"] == "models/experts/r1"
