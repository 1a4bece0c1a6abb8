"""SILMM on a diffusion backbone: candidates by features of their own, and text encoders that learn from pairs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from selma.backbones.diversity import masks, perturbed
from selma.backbones.loading import load_backbone, load_pipeline
from selma.experts import features
from selma.ground.adapters import read_adapter
from selma.ground.errors import UserError
from selma.ground.items import write_items, write_split
from selma.ground.pairs import read_image, read_pairs, read_training
from selma.images import sampler
from selma.lora.text import add_text_lora
from selma.runtime.candidates import Diversity
from selma.runtime.drawing import Drawing
from selma.variants.objectives import kc_dpo
from stages import draw, expert, pick, select
from tests.test_silmm import items, run

VECTORS = st.lists(st.floats(-3, 3), min_size=4, max_size=4)
KERNELS = st.sampled_from(("rbf", "euclidean", "cosine"))
FEATURES = Diversity("features", 0.5)
OPTIONS = {"gamma": 10.0, "kernel": "rbf", "bandwidth": 0.5, "pool": "mean"}


# Kernels ---------------------------------------------------------------------------------------


@given(VECTORS, VECTORS, KERNELS)
def test_kernels_are_distances(a: list[float], b: list[float], kernel: str) -> None:
    one, other = torch.tensor([a]), torch.tensor([b])
    k = kc_dpo.distance(one, other, kernel, 0.5)
    assert k.item() >= -1e-6
    assert k.item() == pytest.approx(kc_dpo.distance(other, one, kernel, 0.5).item(), abs=1e-6)
    if sum(map(abs, a)) > 0.1:
        assert kc_dpo.distance(one, one, kernel, 0.5).item() == pytest.approx(0, abs=1e-5)
    assert kernel != "rbf" or k.item() <= 1


@given(VECTORS, VECTORS)
def test_a_wide_rbf_is_the_euclidean_distance_scaled(a: list[float], b: list[float]) -> None:
    """1 - exp(-d / 2s^2) is near d / 2s^2 for s much larger than d."""
    one, other = torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64)
    near = kc_dpo.distance(one, other, "rbf", 300.0) * 2 * 300**2
    assert near.item() == pytest.approx(
        kc_dpo.distance(one, other, "euclidean", 1.0).item(), rel=1e-3, abs=1e-9
    )


def test_pooling_is_the_mean_over_tokens_or_all_of_them() -> None:
    states = torch.arange(12.0).view(1, 3, 4)
    assert kc_dpo.pooled(states, "mean").tolist() == [[4, 5, 6, 7]]
    assert kc_dpo.pooled(states, "tokens").tolist() == [list(range(12))]


# Diversity -------------------------------------------------------------------------------------


def test_features_are_changed_by_the_seed_alone_and_by_as_much_as_asked() -> None:
    states = (
        torch.randn(3, 7, 64, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1.0, 2, 3])[:, None, None]
    )
    changed = perturbed(states, [4, 5, 6], FEATURES)
    assert torch.equal(changed[1:2], perturbed(states[1:2], [5], FEATURES))
    assert not torch.equal(changed, perturbed(states, [4, 5, 7], FEATURES))
    share = (changed - states).square().mean((1, 2)).sqrt() / states.square().mean((1, 2)).sqrt()
    assert share.tolist() == pytest.approx([0.5] * 3, rel=0.15)


def test_dropout_keeps_the_mean_and_drops_the_same_entries_of_every_token() -> None:
    states = torch.ones(200, 3, 50)
    changed = perturbed(states, range(200), Diversity("dropout", 0.25))
    assert changed.unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(changed[:, 0], changed[:, 2])
    assert changed.mean().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(masks([3], 50, 0.25)[0], masks([1, 3], 50, 0.25)[1])


def _tokens(opened, **options) -> list[list[int]]:
    drawing = Drawing(scheduler="tokens", steps=16, guidance=2.0, batch=8, resolution=32)
    found = sampler.draw(opened, ["a red circle"] * 3, [1, 2, 3], drawing, **options)
    return [image.info["tokens"] for _, image in found]


def test_a_multimodal_backbone_draws_by_temperature_and_by_dropout(tiny_janus) -> None:
    opened = load_backbone(tiny_janus)
    plain = _tokens(opened)
    assert _tokens(opened, diversity=Diversity("temperature", 1.0)) == plain
    hot, cold = (_tokens(opened, diversity=Diversity("temperature", t)) for t in (5.0, 1e-5))
    assert hot != plain != cold
    assert len({tuple(row) for row in cold}) == 1  # the most likely tokens, whatever the seed
    dropped = _tokens(opened, diversity=Diversity("dropout", 0.3))
    assert dropped != plain and _tokens(opened, diversity=Diversity("dropout", 0.3)) == dropped
    assert _tokens(opened) == plain  # nothing is left behind


@pytest.mark.parametrize(
    ("backbone", "method"), [("tiny_janus", "features"), ("tiny_backbone", "temperature")]
)
def test_a_method_of_the_other_kind_of_backbone_is_refused(request, backbone, method) -> None:
    opened = load_backbone(request.getfixturevalue(backbone))
    way = ("tokens", 16) if backbone == "tiny_janus" else ("ddim", 2)
    drawing = Drawing(scheduler=way[0], steps=way[1], guidance=1.0, batch=2, resolution=32)
    with pytest.raises(UserError, match=f"diversity.method is {method}, which a .* backbone does not have"):
        next(sampler.draw(opened, ["a"], [1], drawing, diversity=Diversity(method, 0.5)))


# Learning --------------------------------------------------------------------------------------


def a_batch(pipe, model, n: int = 6) -> features.Features:
    texts = ["a red circle", "two blue squares", "a cross"] * (n // 3)
    ids = features.token_ids(pipe, texts).ids
    with torch.no_grad():
        states = model.encode(ids)[0]
    pairs = (perturbed(states, range(start, start + n), FEATURES) for start in (0, 100))
    return features.Features(ids, states, *pairs)


@pytest.mark.parametrize("options", [{}, {"kernel": "euclidean"}, {"kernel": "cosine"}, {"pool": "tokens"}])
@pytest.mark.parametrize("backbone", ["tiny_backbone", "tiny_sdxl"])
def test_the_loss_begins_at_log_2_and_the_features_come_nearer_to_the_winners(
    request, backbone, options
) -> None:
    pipe = load_pipeline(request.getfixturevalue(backbone))
    model = add_text_lora(pipe, 4, 4.0, 0)
    batch, own = a_batch(pipe, model), {**OPTIONS, **options}
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=1e-2)
    losses = []
    for _ in range(30):
        loss = kc_dpo.batch_loss(model, batch, **own)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[0] == pytest.approx(np.log(2), abs=1e-4)
    assert losses[-1] < losses[0] - 1e-3
    margins = kc_dpo.margins(model, batch, own["kernel"], own["bandwidth"], own["pool"])
    assert margins.mean() > 0


def test_the_loss_is_the_papers_formula() -> None:
    """-log sigmoid(gamma (-k(H, Hw) + k(Hr, Hw) + k(H, Hl) - k(Hr, Hl))), by hand."""
    now, reference, winner, loser = (torch.full((1, 2, 4), value) for value in (2.0, 1.0, 3.0, 0.0))

    class Model:
        def encode(self, ids):
            return now, None

    batch = features.Features(torch.zeros(1, 1, 2, dtype=torch.long), reference, winner, loser)
    loss = kc_dpo.batch_loss(Model(), batch, gamma=0.1, kernel="euclidean", bandwidth=1.0, pool="mean")
    margin = -1.0 + 4.0 + 4.0 - 1.0
    assert loss.item() == pytest.approx(np.log1p(np.exp(-0.1 * margin)), abs=1e-6)


# The stages ------------------------------------------------------------------------------------

ROUND = {"objective": "kc_dpo", "options": {"gamma": 20.0}}
PARAMS = {
    "skills": ["count"],
    "experts": {"c1": {"data": "data/picked/c1", **ROUND}, "c2": {"data": "data/picked/c2", **ROUND}},
    "draws": {
        "c1": {
            "weights": "models/backbones/shapes",
            "prompts": "data/questions/count",
            "images": 3,
            "diversity": {"method": "features", "strength": 0.5},
        },
        "c2": {
            "weights": "models/experts/c1",
            "prompts": "data/questions/count",
            "images": 3,
            "first": 3,
            "diversity": {"method": "features", "strength": 0.5},
        },
    },
    "picks": {name: {"source": f"drawn/{name}", "picker": "pairs"} for name in ("c1", "c2")},
    "merges": {},
    "models": {
        "base": {"weights": "models/backbones/shapes", "guidance": "cfg"},
        "c2": {"weights": "models/experts/c2", "guidance": "cfg"},
    },
    "compare": [["c2", "base"]],
    "rate.judges": ["tiny"],
    "own.judges": {"tiny": {"kind": "clip", "path": "models/clip/shapes"}},
    "images.drawing.steps": 2,
    "expert.rank": 2,
    "expert.alpha": 2.0,
    "expert.batch": 2,
    "expert.steps": 8,
    "expert.checkpoint_every": 4,
    "expert.learning_rate": 0.01,
    "select.policy": "last",
}


@pytest.fixture
def make_round(make_project, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    def make(**overrides: object) -> Path:
        root = make_project(
            "kc", {**PARAMS, **{key.replace("__", "."): value for key, value in overrides.items()}}
        )
        (root / "data/questions/count").mkdir(parents=True)
        write_items(root / "data/questions/count/prompts.jsonl", items("train", 5))
        write_split(root / "data/benchmarks/shapes", "test", items("test", 3))
        monkeypatch.chdir(root)
        return root

    return make


def rated(root: Path, name: str) -> None:
    """Ratings by how bright an image is: random pictures show nothing that a judge could name."""
    folder = root / f"data/ratings/drawn/{name}"
    folder.mkdir(parents=True)
    rows = [
        {
            "file_name": pair.file.name,
            "id": pair.id,
            "k": pair.k,
            "score": float(np.mean(read_image(pair.file))),
        }
        for pair in read_pairs(root / f"data/drawn/{name}")
    ]
    (folder / "tiny.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_two_rounds_of_the_text_encoder_each_from_the_one_before(make_round) -> None:
    root = make_round()
    for name in ("c1", "c2"):
        run(draw, name)
        rated(root, name)
        run(pick, name)
        run(expert, name)
        run(select, name)
    said = json.loads((root / "data/picked/c1/drawer.json").read_text())
    assert said["weights"] is None and said["diversity"] == {"method": "features", "strength": 0.5}
    assert all(pair.rejected_seed is not None for pair in read_training(root / "data/picked/c1"))
    adapters = [read_adapter(root / f"models/experts/{name}") for name in ("c1", "c2")]
    assert all(layer.startswith("text_encoder.") for layer in adapters[0].factors)
    assert "start" not in adapters[0].card and adapters[1].card["start"] == "models/experts/c1"
    plain, learnt = (
        load_pipeline(root / "models/backbones/shapes", lora=lora)
        for lora in (None, root / "models/experts/c2")
    )
    ids = features.token_ids(plain, ["a red circle"]).ids[:, 0]
    assert not torch.allclose(plain.text_encoder(ids)[0], learnt.text_encoder(ids)[0], atol=1e-5)
    for name, weight in plain.unet.state_dict().items():
        assert torch.equal(weight, learnt.unet.state_dict()[name])


def test_images_without_features_of_their_own_are_no_pairs_of_features(make_round) -> None:
    plain = {name: {**row, "diversity": None} for name, row in PARAMS["draws"].items()}
    make_round(draws=plain)
    with pytest.raises(
        UserError, match=r"experts\.c1\.objective is kc_dpo, which tells features apart; the images of"
    ):
        run(draw, "c1")


def test_a_row_cannot_switch_the_text_encoders_off(make_round) -> None:
    experts = {name: {**row, "text_encoder": False} for name, row in PARAMS["experts"].items()}
    root = make_round(experts=experts)
    run(draw, "c1")
    rated(root, "c1")
    run(pick, "c1")
    run(expert, "c1")
    assert read_adapter(root / "models/checkpoints/c1/step-000008").factors


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"options": {"bandwidth": 0.0}},
            r"experts\.c1\.options: bandwidth is 0\.0; it must be greater than 0",
        ),
        (
            {"options": {"kernel": "linear"}},
            r"experts\.c1\.options: kernel is 'linear'; it must be one of: rbf",
        ),
    ],
)
def test_a_kernel_that_cannot_be_is_said_before_anything_runs(make_round, change, said) -> None:
    experts = {name: {**row, **change} for name, row in PARAMS["experts"].items()}
    make_round(experts=experts)
    with pytest.raises(UserError, match=said):
        run(draw, "c1")


def test_dropout_of_everything_is_refused(make_round) -> None:
    draws = {
        name: {**row, "diversity": {"method": "dropout", "strength": 1.0}}
        for name, row in PARAMS["draws"].items()
    }
    make_round(draws=draws)
    with pytest.raises(
        UserError, match=r"draws\.c1\.diversity\.strength is 1; dropout keeps something below 1"
    ):
        run(draw, "c1")
