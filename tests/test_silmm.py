"""A multimodal model improves itself in rounds (SILMM), as a user runs the stages, on a tiny random Janus."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from selma.backbones.loading import fingerprint, load_backbone
from selma.backbones.multimodal import Multimodal
from selma.ground.adapters import read_adapter
from selma.ground.errors import UserError
from selma.ground.files import read_jsonl
from selma.ground.items import Item, write_items, write_split
from selma.ground.pairs import read_pairs, read_training
from selma.shapes.world.language import Facts
from selma.shapes.world.questions import make_questions
from stages import draw, expert, model, own_judge, pick, rate, sample, select
from tests.janus import make_janus

TARGETS = ["q_proj", "v_proj"]
ROUND = {"objective": "token_dpo", "options": {"beta": 0.2}}
PARAMS = {
    "skills": ["count"],
    "experts": {
        "r1": {"data": "data/picked/r1", **ROUND},
        "r2": {"data": "data/picked/r2", **ROUND},
        "plain": {"data": "data/drawn/r1", "objective": "next_token"},
    },
    "draws": {
        "r1": {"weights": "models/backbones/janus", "prompts": "data/questions/count", "images": 3},
        "r2": {"weights": "models/experts/r1", "prompts": "data/questions/count", "images": 3, "first": 3},
    },
    "picks": {
        "r1": {"source": "drawn/r1", "picker": "pairs", "options": {"judge": "self"}},
        "r2": {"source": "drawn/r2", "picker": "pairs", "options": {"judge": "self"}},
    },
    "merges": {},
    "models": {
        "base": {"weights": "models/backbones/janus", "guidance": "cfg"},
        "r2": {"weights": "models/experts/r2", "guidance": "cfg"},
    },
    "compare": [["r2", "base"]],
    "own.backbones": {"janus": {"path": "/models/janus"}},
    "own.judges": {"self": {"kind": "multimodal", "path": "models/backbones/janus"}},
    "rate.judges": ["self", "oracle"],
    "images.backbone": "janus",
    "images.drawing.scheduler": "tokens",
    "images.drawing.steps": 16,
    "evaluate.drawing.scheduler": "tokens",
    "evaluate.drawing.steps": 16,
    "expert.backbone": "janus",
    "expert.targets": TARGETS,
    "expert.rank": 2,
    "expert.alpha": 2.0,
    "expert.batch": 4,
    "expert.steps": 6,
    "expert.checkpoint_every": 3,
    "expert.learning_rate": 0.01,
    "select.policy": "last",
}


def items(split: str, n: int) -> list[Item]:
    shapes = ("circle", "square", "triangle", "cross")
    colors = ("red", "blue", "green", "yellow")
    found = []
    for i in range(n):
        facts = Facts(((colors[i // 4 % 4], shapes[i % 4], None),), None, None, None)
        prompt = f"a {facts.things[0][0]} {facts.things[0][1]}{' for the test' if split == 'test' else ''}"
        found.append(Item(f"count-{split}-{i}", prompt, "count", "shapes", make_questions(facts)))
    return found


@pytest.fixture
def make_silmm(make_project, tiny_janus: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    def make(name: str = "silmm", **overrides: object) -> Path:
        given = {**PARAMS, **{key.replace("__", "."): value for key, value in overrides.items()}}
        root = make_project(name, given)
        shutil.rmtree(root / "models/backbones/janus")
        shutil.copytree(tiny_janus, root / "models/backbones/janus")
        (root / "data/questions/count").mkdir(parents=True)
        write_items(root / "data/questions/count/prompts.jsonl", items("train", 5))
        write_split(root / "data/benchmarks/shapes", "test", items("test", 3))
        monkeypatch.chdir(root)
        return root

    return make


def run(stage: object, *names: str) -> None:
    name = stage.__name__.rpartition(".")[2]
    name = {"rate": "rate_drawn"}.get(name, name)
    os.environ["DVC_STAGE"] = f"{name}@{'-'.join(each.removeprefix('drawn/') for each in names)}"
    try:
        stage.main(*names)
    finally:
        del os.environ["DVC_STAGE"]


def one_round(name: str) -> None:
    run(draw, name)
    for judge in ("self", "oracle"):
        run(rate, judge, f"drawn/{name}")
    run(pick, name)
    run(expert, name)
    run(select, name)


def test_two_rounds_each_from_the_model_of_the_one_before(make_silmm) -> None:
    root = make_silmm()
    run(own_judge, "self")
    one_round("r1")
    one_round("r2")

    pairs = read_pairs(root / "data/drawn/r1")
    assert len(pairs) == 15 and all(len(pair.tokens) == 16 for pair in pairs)
    first = json.loads((root / "data/drawn/r1/drawer.json").read_text())
    assert first["weights"] is None and first["backbone"] == fingerprint(root / "models/backbones/janus")
    drawer = json.loads((root / "data/drawn/r2/drawer.json").read_text())
    assert drawer["weights"] == "models/experts/r1"
    assert (root / "data/picked/r2/drawer.json").read_bytes() == (
        root / "data/drawn/r2/drawer.json"
    ).read_bytes()

    # The pairs are the best and the worst by the model's own mean of p(yes) - p(no).
    drawn = {pair.file.name: pair for pair in read_pairs(root / "data/drawn/r2")}
    scores = {row["file_name"]: row["score"] for row in read_jsonl(root / "data/ratings/drawn/r2/self.jsonl")}
    assert all(-1 <= score <= 1 for score in scores.values()) and len(set(scores.values())) > 1
    for pair in read_training(root / "data/picked/r2", needed_by="token_dpo"):
        own = [name for name in scores if drawn[name].id == pair.id]
        assert scores[pair.file.name] == max(scores[name] for name in own)
        assert scores[pair.rejected.name] == min(scores[name] for name in own)
        assert pair.tokens == drawn[pair.file.name].tokens
        assert pair.rejected_tokens == drawn[pair.rejected.name].tokens

    first, second = (
        json.loads((root / f"models/experts/{name}/lora.json").read_text()) for name in ("r1", "r2")
    )
    assert "start" not in first and second["start"] == "models/experts/r1"
    factors = [read_adapter(root / f"models/experts/{name}").factors for name in ("r1", "r2")]
    moved = [float((factors[1][name][1] - factors[0][name][1]).abs().max()) for name in factors[0]]
    size = max(float(factors[0][name][1].abs().max()) for name in factors[0])
    assert 0 < max(moved) < 3 * size  # it went on from there

    run(model, "r2")
    run(sample, "r2", "shapes")
    assert len(read_pairs(root / "data/samples/r2/shapes")) == 6


def test_the_model_judges_itself_with_what_it_has_learnt(make_silmm) -> None:
    root = make_silmm()
    run(own_judge, "self")
    one_round("r1")
    run(draw, "r2")
    run(rate, "self", "drawn/r2")
    with_lora = (root / "data/ratings/drawn/r2/self.jsonl").read_text()
    shutil.copy(
        root / "data/drawn/r1/drawer.json", root / "data/drawn/r2/drawer.json"
    )  # as if the backbone had
    shutil.rmtree(root / ".work")
    run(rate, "self", "drawn/r2")
    assert (root / "data/ratings/drawn/r2/self.jsonl").read_text() != with_lora


def test_experts_by_next_token_start_from_nothing_and_encode_foreign_images(make_silmm) -> None:
    root = make_silmm()
    run(draw, "r1")
    run(expert, "plain")
    curve = (root / "metrics/loss/plain.csv").read_text().splitlines()
    losses = [float(line.split(",")[1]) for line in curve[1:]]
    assert losses[-1] < losses[0]
    # Without tokens in the metadata images are encoded: a person's own have none.
    file = root / "data/drawn/r1/metadata.jsonl"
    rows = [{key: value for key, value in row.items() if key != "tokens"} for row in read_jsonl(file)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.rmtree(root / ".work")
    run(expert, "plain")
    assert read_adapter(root / "models/checkpoints/plain/step-000006").factors


KILLED = """
import os, signal
from selma.images import tokens
from stages import draw
seen = []
def sample(*args, real=tokens.sample, **options):
    seen.append(1)
    if len(seen) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **options)
tokens.sample = sample
os.environ["DVC_STAGE"] = "draw@r1"
draw.main("r1")
"""


def test_a_killed_drawing_goes_on_and_ends_with_the_same_folder(make_silmm) -> None:
    whole = make_silmm("whole", images__drawing__batch=4)
    run(draw, "r1")
    killed = make_silmm("killed", images__drawing__batch=4)
    environment = {**os.environ, "PYTHONPATH": str(killed), "OMP_NUM_THREADS": "1"}
    died = subprocess.run([sys.executable, "-c", KILLED], cwd=killed, env=environment, capture_output=True)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()[-2000:]
    assert list((killed / ".work").rglob("*.tokens"))
    run(draw, "r1")
    kept = [{f.name: f.read_bytes() for f in (root / "data/drawn/r1").iterdir()} for root in (whole, killed)]
    assert kept[0] == kept[1] and not any(name.endswith(".tokens") for name in kept[0])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"expert__targets": ["to_q"]}, "'to_q' is not a layer"),
        ({"expert__resolution": 64}, "resolution is 64; .* draws 32 pixels alone"),
    ],
)
def test_settings_that_do_not_fit_are_said_before_anything_is_computed(make_silmm, overrides, said) -> None:
    root = make_silmm(**overrides)
    run(draw, "r1")
    with pytest.raises(UserError, match=said):
        run(expert, "plain")
    assert not (root / "models/checkpoints/plain").exists()


def test_an_objective_of_the_other_kind_of_backbone_is_refused(make_silmm) -> None:
    experts = {"r1": {"data": "data/drawn/r1", "objective": "denoising"}}
    make_silmm(
        experts=experts,
        picks={},
        draws={"r1": PARAMS["draws"]["r1"]},
        models={"base": PARAMS["models"]["base"], "r1": {"weights": "models/experts/r1", "guidance": "cfg"}},
        compare=[["r1", "base"]],
    )
    with pytest.raises(
        UserError, match=r"experts.r1.objective is denoising, which trains diffusion backbones; .*janus, a"
    ):
        run(draw, "r1")


def test_tokens_that_the_backbone_does_not_have_are_refused(make_silmm) -> None:
    root = make_silmm()
    run(draw, "r1")
    file = root / "data/drawn/r1/metadata.jsonl"
    file.write_text(file.read_text().replace('"tokens": [', '"tokens": [99, ', 1))
    with pytest.raises(
        UserError, match="has 17 tokens, up to 99; this backbone has 16 of an image, below 50"
    ):
        run(expert, "plain")


def test_pairs_none_of_which_has_a_lead_are_no_pairs(make_silmm) -> None:
    picks = {
        name: {**row, "options": {"judge": "self", "margin": 0.9}} for name, row in PARAMS["picks"].items()
    }
    make_silmm(picks=picks)
    run(own_judge, "self")
    run(draw, "r1")
    for judge in ("self", "oracle"):
        run(rate, judge, "drawn/r1")
    with pytest.raises(UserError, match=r"no image is kept: .* no lead above 0.9"):
        run(pick, "r1")


def test_a_round_whose_model_was_trained_again_is_refused(make_silmm) -> None:
    root = make_silmm()
    run(own_judge, "self")
    one_round("r1")
    run(draw, "r2")
    weights = root / "models/experts/r1/pytorch_lora_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(UserError, match="is not the LoRA that drew the images of data/drawn/r2"):
        run(rate, "self", "drawn/r2")


def test_a_folder_that_is_no_multimodal_model_is_no_judge(make_silmm, tiny_backbone) -> None:
    root = make_silmm()
    shutil.rmtree(root / "models/backbones/janus")
    shutil.copytree(tiny_backbone / "text_encoder", root / "models/backbones/janus")
    with pytest.raises(
        UserError, match=r"is no multimodal model; a folder whose config.json says model_type janus"
    ):
        run(own_judge, "self")


def test_the_backbone_opens_with_what_two_rounds_have_learnt(make_silmm) -> None:
    """The LoRA of a round is applied once, on the backbone: rounds do not pile up."""
    root = make_silmm()
    run(own_judge, "self")
    one_round("r1")
    opened = load_backbone(root / "models/backbones/janus", lora=root / "models/experts/r1")
    plain = load_backbone(root / "models/backbones/janus")
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    (a, b), card = (
        read_adapter(root / "models/experts/r1").factors["language_model.layers.0.self_attn.q_proj"],
        read_adapter(root / "models/experts/r1").card,
    )
    change = opened.model.state_dict()[name] - plain.model.state_dict()[name]
    assert torch.allclose(change, card["alpha"] / card["rank"] * b @ a, atol=1e-6)


WIDE = {name: {**row, "options": {"judge": "self", "margin": 2.5}} for name, row in PARAMS["picks"].items()}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            {"expert__text_encoder": True},
            "expert.text_encoder is true for expert r1; janus is a multimodal backbone",
        ),
        ({"expert__flip": True}, "expert.flip is true for expert r1; janus is a multimodal backbone"),
        ({"expert__caption_dropout": 0.1}, "expert.caption_dropout is 0.1; objective token_dpo compares"),
        ({"images__drawing__steps": 12}, "images.drawing.steps is 12; janus .*draws 16 tokens an image"),
        (
            {"experts": {**PARAMS["experts"], "r2": {"data": "data/picked/r2", **ROUND, "rank": 4}}},
            "experts.r2: goes on from r1, which drew its pairs; rank, alpha",
        ),
        ({"own__loras": {"mine": {"path": "/x.safetensors"}}}, "own.loras.mine: is for diffusion backbones"),
        (
            {"picks": WIDE},
            r"margin is 2.5; its judge's score is a mean of p\(yes\) - p\(no\), -1 to 1",
        ),
    ],
)
def test_what_would_fail_late_is_said_when_params_are_read(make_silmm, overrides, said) -> None:
    make_silmm(**overrides)
    with pytest.raises(UserError, match=said):
        run(draw, "r1")


def test_a_finished_folder_that_was_not_published_is_not_drawn_again(make_silmm, monkeypatch) -> None:
    root = make_silmm()

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(draw, "write_drawer", stop)
        with pytest.raises(KeyboardInterrupt):
            run(draw, "r1")
    with monkeypatch.context() as patch:
        patch.setattr("selma.images.tokens.sample", None)
        run(draw, "r1")
    assert all(len(pair.tokens) == 16 for pair in read_pairs(root / "data/drawn/r1"))


def _foreign(root: Path, tmp_path: Path) -> None:
    """Make the expert's backbone another one than that which drew."""
    shutil.rmtree(root / "models/backbones/janus")
    make_janus(root / "models/backbones/janus", seed=9)


def test_pairs_of_another_backbone_are_refused(make_silmm, tmp_path) -> None:
    root = make_silmm()
    run(own_judge, "self")
    run(draw, "r1")
    for judge in ("self", "oracle"):
        run(rate, judge, "drawn/r1")
    run(pick, "r1")
    _foreign(root, tmp_path)
    with pytest.raises(
        UserError, match=r"its images were drawn by another backbone .*token_dpo learns from pairs"
    ):
        run(expert, "r1")


def test_images_of_another_backbone_are_encoded_anew(make_silmm, tmp_path, monkeypatch) -> None:
    root = make_silmm()
    run(draw, "r1")
    _foreign(root, tmp_path)
    seen: list[int] = []
    encode = Multimodal.encode

    def encoded(self: Multimodal, images: list) -> torch.Tensor:
        seen.append(len(images))
        return encode(self, images)

    monkeypatch.setattr(Multimodal, "encode", encoded)
    run(expert, "plain")
    assert sum(seen) == 15


def test_next_token_does_not_go_on_from_the_lora_that_drew(make_silmm) -> None:
    experts = {**PARAMS["experts"], "plain": {"data": "data/drawn/r2", "objective": "next_token", "rank": 3}}
    root = make_silmm(experts=experts)
    run(own_judge, "self")
    one_round("r1")
    run(draw, "r2")
    run(expert, "plain")
    card = json.loads((root / "models/checkpoints/plain/step-000006/lora.json").read_text())
    assert "start" not in card and card["rank"] == 3


def test_another_multimodal_judge_judges_as_it_is(make_silmm) -> None:
    """A held-out judge: the LoRA that drew is not its own."""
    judges = {**PARAMS["own.judges"], "other": {"kind": "multimodal", "path": "other"}}
    root = make_silmm(own__judges=judges, rate__judges=["self", "other", "oracle"])
    make_janus(root / "other", seed=9)
    for judge in ("self", "other"):
        run(own_judge, judge)
    run(draw, "r1")
    for judge in ("self", "other", "oracle"):
        run(rate, judge, "drawn/r1")
    run(pick, "r1")
    run(expert, "r1")
    run(select, "r1")
    run(draw, "r2")
    run(rate, "other", "drawn/r2")
    rows = read_jsonl(root / "data/ratings/drawn/r2/other.jsonl")
    assert len(rows) == 15
