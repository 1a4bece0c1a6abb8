"""Objectives that learn from pairs: their losses against direct formulas, training, bad input."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn.functional import logsigmoid

from selma.backbones.loading import fingerprint, load_pipeline
from selma.backbones.schedulers import training_schedule
from selma.experts import beginning, examples, loop, noisy, pairwise
from selma.ground.errors import UserError
from selma.ground.files import write_jsonl
from selma.ground.pairs import read_training, write_image
from selma.lora.adapter import add_lora, lora_parameters, without_adapter
from selma.lora.files import load_lora
from selma.runtime import tracking, variants
from selma.runtime.params import Training, load_params
from selma.variants.objectives import dpo, mapo
from selma.variants.objectives.mapo import odds
from stages import expert
from tests.test_expert_stage import add_images
from tests.test_trainer import CARD, SETTINGS, checkpoints, kill_at, pictures  # noqa: F401 - the killed process's

BACKBONES = ["tiny_backbone", "tiny_backbone_epsilon", "tiny_sdxl"]
BETA = {dpo: 50.0, mapo: 0.1}
TEXTS = ["a red circle", "a blue square", "a green star", "a cross"]
PIXELS = pictures(8)


def encoded_pairs(pipe: object, flip: bool = False) -> examples.Examples:
    return examples.encode(pipe, PIXELS[:4], TEXTS, flip=flip, losers=PIXELS[4:])


def trained(
    objective: ModuleType, backbone: Path, folder: Path, settings: Training = SETTINGS, **options: object
) -> list:
    """Train a fresh adapter on pairs; also run, with other arguments, in the process that is killed below."""
    pipe = load_pipeline(backbone)
    encoded = options.pop("encoded", None) or encoded_pairs(pipe)
    add_lora(pipe.unet, 4, 4.0, ["to_q", "to_v", "conv1"], seed=0)
    return loop.train(
        objective,
        pipe.unet,
        training_schedule(pipe),
        encoded,
        settings,
        seed=0,
        folder=folder / "out",
        state=folder / "state.safetensors",
        provenance={**CARD, "targets": ["to_q", "to_v", "conv1"], "backbone": fingerprint(backbone)},
        **{"options": {"beta": BETA[objective]}, **options},
    )


def adapted(backbone: Path, targets: tuple[str, ...] = ("to_q", "to_v", "conv1")) -> tuple:
    """A pipeline whose adapter changes something, and a batch of pairs."""
    pipe = load_pipeline(backbone)
    batch = pairwise.draw_pairs(training_schedule(pipe), encoded_pairs(pipe), SETTINGS, seed=0, step=0)
    add_lora(pipe.unet, 4, 4.0, list(targets), seed=0)
    return pipe, batch


def move(unet: torch.nn.Module, by: float = 0.1) -> None:
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in lora_parameters(unet).items():
            if "lora_B" in name:
                parameter.add_(by * torch.randn(parameter.shape, generator=random))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_images_of_a_pair_carry_the_same_noise_at_the_same_time(backbone, request):
    pipe = load_pipeline(request.getfixturevalue(backbone))
    schedule = training_schedule(pipe)
    encoded = encoded_pairs(pipe, flip=True)
    pairs = pairwise.draw_pairs(schedule, encoded, SETTINGS, seed=3, step=2)
    alone = noisy.draw_batch(schedule, replace(encoded, losers=None), SETTINGS, seed=3, step=2)
    assert torch.equal(pairs.winners.noisy, alone.noisy)  # whatever follows, winners are drawn as ever
    assert torch.equal(pairs.winners.times, pairs.losers.times)
    assert torch.equal(pairs.winners.texts.states, pairs.losers.texts.states)
    assert not torch.equal(pairs.winners.noisy, pairs.losers.noisy)
    if schedule.config.prediction_type == "epsilon":
        assert torch.equal(pairs.winners.target, pairs.losers.target)
    halves = list(pairs.split(2))
    assert [len(half) for half in halves] == [2, 2]
    assert torch.equal(torch.cat([half.losers.noisy for half in halves]), pairs.losers.noisy)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_without_the_adapter_is_the_base_model(backbone, request):
    """Linear layers beside and merged, and convolutions; the adapter is back afterwards, in this thread."""
    folder = request.getfixturevalue(backbone)
    pipe, batch = adapted(folder)
    base = load_pipeline(folder).unet
    move(pipe.unet)
    with torch.no_grad():
        expected = noisy.predict(base, batch.winners)
        with without_adapter():
            found = noisy.predict(pipe.unet, batch.winners)
        assert torch.equal(found, expected)
        assert (noisy.predict(pipe.unet, batch.winners) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("beta", [1.0, 5000.0])
def test_dpo_begins_at_log_2(backbone, beta, request):
    pipe, batch = adapted(request.getfixturevalue(backbone))
    assert torch.equal(dpo.margins(pipe.unet, batch), torch.zeros(4))
    assert dpo.batch_loss(pipe.unet, batch, beta=beta).item() == pytest.approx(math.log(2), abs=1e-7)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_dpo_is_its_formula_by_two_models(backbone, request):
    """Each image alone, through the base model and through the adapted one."""
    folder = request.getfixturevalue(backbone)
    pipe, batch = adapted(folder)
    base = load_pipeline(folder).unet
    move(pipe.unet)

    def error(unet: torch.nn.Module, part: noisy.Batch, row: int) -> torch.Tensor:
        one = part[row : row + 1]
        return ((noisy.predict(unet, one) - one.target) ** 2).mean()

    inside = [
        error(pipe.unet, batch.winners, row)
        - error(pipe.unet, batch.losers, row)
        - error(base, batch.winners, row)
        + error(base, batch.losers, row)
        for row in range(4)
    ]
    expected = -logsigmoid(-25 * torch.stack(inside)).mean()
    found = dpo.batch_loss(pipe.unet, batch, beta=50.0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    parameters = list(lora_parameters(pipe.unet).values())
    ours, theirs = (torch.autograd.grad(loss, parameters, retain_graph=True) for loss in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_dpos_gradient_is_its_slope(tiny_backbone):
    """Against finite differences, along the gradient."""
    pipe, batch = adapted(tiny_backbone)
    move(pipe.unet)
    parameters = list(lora_parameters(pipe.unet).values())
    gradient = torch.autograd.grad(dpo.batch_loss(pipe.unet, batch, beta=10.0), parameters)
    length = torch.sqrt(sum((part**2).sum() for part in gradient))
    values, by = [], 1e-2
    for sign in (1, -2, 1):  # forwards, back behind the start, and to the start again
        with torch.no_grad():
            for parameter, part in zip(parameters, gradient, strict=True):
                parameter.add_(part / length, alpha=sign * by)
            values.append(dpo.batch_loss(pipe.unet, batch, beta=10.0).item())
    assert (values[0] - values[1]) / (2 * by) == pytest.approx(length.item(), rel=2e-2)


@given(st.floats(0, 2.0**99, width=32))
def test_odds_are_finite_and_fall(value):
    error = torch.tensor(value, requires_grad=True)
    found = odds(error)
    found.backward()
    assert 0 <= found.item() <= 1 and -0.25 - 1e-6 <= error.grad.item() <= 0
    if value < 100:
        u = 0.5 * np.float64(np.float32(value))
        assert found.item() == pytest.approx(u / math.expm1(u) if u else 1.0, rel=1e-5, abs=1e-12)


def test_mapo_is_its_formula(tiny_sdxl):
    pipe, batch = adapted(tiny_sdxl)
    with torch.no_grad():
        winners, losers = pairwise.errors(pipe.unet, batch)
        h = [0.5 * error / (torch.exp(0.5 * error) - 1) for error in (winners, losers)]
        expected = winners.mean() - 0.1 * logsigmoid(1000 * (h[0] - h[1])).mean()
        torch.testing.assert_close(
            mapo.batch_loss(pipe.unet, batch, beta=0.1), expected, rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("objective", [dpo, mapo])
def test_it_learns_to_prefer_and_what_it_learned_is_a_lora_like_any(objective, backbone, request, tmp_path):
    """A toy: in latents, what won is high and what lost is low."""
    folder = request.getfixturevalue(backbone)
    settings = replace(SETTINGS, steps=60, checkpoint_every=60, caption_dropout=0.0, batch=8)
    base = load_pipeline(folder)
    apart = encoded_pairs(base)
    apart = replace(apart, mean=apart.mean + 2, losers=replace(apart.losers, mean=apart.losers.mean - 2))
    trained(objective, folder, tmp_path, settings, encoded=apart)
    learned = load_pipeline(folder, lora=tmp_path / "out/step-000060")
    seen = pairwise.draw_pairs(training_schedule(base), apart, replace(settings, batch=64), seed=9, step=0)
    with torch.no_grad():
        gap = [
            losers - winners for winners, losers in (pairwise.errors(p.unet, seen) for p in (base, learned))
        ]
    accuracy = (gap[1] > gap[0]).float().mean()  # implicit; by chance 0.5
    assert accuracy > 0.75
    assert np.isfinite(np.asarray(draw_one(learned))).all()


def draw_one(pipe: object) -> Image.Image:
    from selma.ground.items import Item
    from selma.runtime.drawing import Drawing
    from selma.scoring import exam

    item = Item("a", "a red circle", "", "", ())
    ((*_, image),) = exam.draw(pipe, [item], Drawing("ddim", 2, 2.0, 1, 32), images=1, seed=0)
    return image


@pytest.mark.parametrize("objective", [dpo, mapo])
def test_pairs_in_parts_train_the_same(objective, tiny_sdxl, tmp_path):
    settings = replace(SETTINGS, steps=5, learning_rate=1e-3)
    whole = trained(objective, tiny_sdxl, tmp_path / "whole", settings)
    split = trained(objective, tiny_sdxl, tmp_path / "parts", replace(settings, accumulate=3))
    np.testing.assert_allclose([loss for _, loss in whole], [loss for _, loss in split], rtol=1e-4)
    one, other = (load_lora(tmp_path / name / "out/step-000005") for name in ("whole", "parts"))
    for module in one.factors:
        torch.testing.assert_close(one.delta(module), other.delta(module), rtol=2e-2, atol=1e-5)


def test_parts_side_by_side_do_not_switch_each_other_off(tiny_backbone, tmp_path):
    """On several cores one part's reference is computed while another is with the adapter."""
    before = torch.get_num_threads()
    settings = replace(SETTINGS, steps=5, batch=48, learning_rate=1e-3)
    curves = []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            curves.append(trained(dpo, tiny_backbone, tmp_path / str(threads), settings))
    finally:
        torch.set_num_threads(before)
    one, other = ([loss for _, loss in curve] for curve in curves)
    np.testing.assert_allclose(one, other, rtol=1e-3)


def test_a_killed_run_on_pairs_goes_on_and_ends_with_the_same_bytes(tiny_backbone, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    curve = trained(dpo, tiny_backbone, whole)
    script = (
        "import sys; from pathlib import Path; from tests.test_objectives import *;"
        "trained(dpo, Path(sys.argv[1]), Path(sys.argv[2]), on_loss=kill_at(8))"
    )
    root = Path(__file__).parents[1]
    dead = subprocess.run([sys.executable, "-c", script, tiny_backbone, killed], cwd=root)
    assert dead.returncode == -signal.SIGKILL
    seen = []
    again = trained(dpo, tiny_backbone, killed, on_loss=lambda step, loss: seen.append(step))
    assert seen == list(range(6, 13))  # not from the start
    assert again == curve and checkpoints(killed) == checkpoints(whole)


def test_what_was_encoded_once_is_read_again_with_its_losers(tiny_sdxl, tmp_path):
    pipe = load_pipeline(tiny_sdxl)
    made = encoded_pairs(pipe, flip=True)
    for encode in (lambda: made, lambda: pytest.fail("encoded twice")):
        found = examples.kept(tmp_path / "kept.safetensors", encode, pipe.device)
        assert torch.equal(found.losers.mean, made.losers.mean)
        assert torch.equal(found.losers.mirror_std, made.losers.mirror_std)
        assert torch.equal(found.losers.texts.states, made.texts.states)
        assert torch.equal(found.losers.caption, made.caption)
    alone = examples.encode(pipe, PIXELS[4:], TEXTS, flip=True)
    assert torch.equal(made.losers.mean, alone.mean) and torch.equal(made.losers.time_ids, alone.time_ids)


# The stage ---------------------------------------------------------------------------------------

ROW = {"data": "data/picked/count", "objective": "dpo", "options": {"beta": 100.0}}
STAGE = {
    "expert.steps": 4,
    "expert.checkpoint_every": 4,
    "expert.batch": 2,
    "expert.rank": 2,
    "expert.alpha": 4.0,
    "images.candidates": 2,
    "rate.judges": ["clip"],
    "picks": {"count": {"source": "images/count", "picker": "pairs"}},
}


def add_pairs(root: Path, name: str = "count", lost: bool = True) -> Path:
    """Fill data/picked/<name> with noise pictures, two for each text."""
    folder, rows = root / "data/picked" / name, []
    for i, text in enumerate(TEXTS):
        row = {"file_name": f"{i}-0.png", "text": text, "id": f"{name}-{i}", "seed": i}
        rows.append(row | ({"rejected": f"{i}-1.png"} if lost else {}))
        for k in (0, 1):
            write_image(folder / f"{i}-{k}.png", PIXELS[2 * i + k])
    write_jsonl(folder / "metadata.jsonl", rows)
    return folder


def run(root: Path, monkeypatch: pytest.MonkeyPatch, name: str = "count") -> Path:
    monkeypatch.chdir(root)
    monkeypatch.setenv("DVC_STAGE", f"expert@{name}")
    monkeypatch.setattr(tracking, "log_metric", lambda metric, value, step: None)
    expert.main(name)
    return root / "models/checkpoints" / name / "step-000004"


def test_the_stage_trains_on_pairs_and_says_how(make_project, monkeypatch):
    root = make_project("project", {**STAGE, "experts.count": ROW})
    add_pairs(root)
    said = load_lora(run(root, monkeypatch)).provenance
    assert (said["objective"], said["options"], said["images"]) == ("dpo", {"beta": 100.0}, 4)


def test_denoising_trains_on_the_winners_of_pairs(make_project, monkeypatch):
    plain = {"data": "data/picked/count", "objective": "denoising"}
    found = []
    for name, lost in (("pairs", True), ("winners", False)):
        root = make_project(name, {**STAGE, "experts.count": plain})
        add_pairs(root, lost=lost)
        found.append((run(root, monkeypatch) / "pytorch_lora_weights.safetensors").read_bytes())
    assert found[0] == found[1]


def test_pairs_may_stand_in_a_table(tmp_path):
    folder = add_pairs(tmp_path)
    (folder / "metadata.jsonl").unlink()
    (folder / "metadata.csv").write_text("file_name,text,rejected\n0-0.png,a cross,0-1.png\n")
    (pair,) = read_training(folder, needed_by="dpo")
    assert pair.rejected == folder / "0-1.png"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"rejected": None},
            r"data/picked/count/metadata\.jsonl, line \d: has no column rejected for '2-0\.png'; objective dpo needs",
        ),
        ({"rejected": "2-0.png"}, r"'2-0\.png' is rejected against itself"),
        ({"rejected": "nobody.png"}, r"data/picked/count/nobody\.png: image not found"),
        ({"rejected": "../2-1.png"}, "rejected"),
    ],
)
def test_pairs_that_are_none_are_said_before_anything_is_loaded(make_project, monkeypatch, change, says):
    root = make_project("project", {**STAGE, "experts.count": ROW})
    folder = add_pairs(root)
    rows = [
        {"file_name": f"{i}-0.png", "text": text, "rejected": f"{i}-1.png"} for i, text in enumerate(TEXTS)
    ]
    rows[2] = {key: value for key, value in {**rows[2], **change}.items() if value is not None}
    write_jsonl(folder / "metadata.jsonl", rows)
    monkeypatch.setattr(beginning, "load_pipeline", None)
    with pytest.raises(UserError, match=says) as error:
        run(root, monkeypatch)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"data": "data/images/count"}, r"experts\.count\.data is data/images/count, which holds no pairs"),
        ({"data": "data/images"}, r"experts\.count\.data is data/images, which holds no pairs"),
        ({"options": {"beta": 0}}, r"experts\.count\.options: beta is 0"),
        ({"options": {"gamma": 1}}, r"experts\.count\.options: .*gamma"),
        ({"objective": "denoising"}, r"experts\.count\.options: denoising has no settings"),
        (
            {"objective": "ipo"},
            r"experts\.count\.objective is 'ipo'; it must be one of: denoising, dpo, kc_dpo, mapo, next_token",
        ),
    ],
)
def test_a_row_that_cannot_be_is_one_line_when_params_are_read(make_project, row, says):
    root = make_project("project", {**STAGE, "experts.count": {**ROW, **row}})
    with pytest.raises(UserError, match=says) as error:
        load_params(root / "params.yaml")
    assert "\n" not in str(error.value)


# The docs ----------------------------------------------------------------------------------------

DOCS = Path(__file__).parents[1] / "docs/objectives.md"


def test_the_objective_in_the_docs_is_20_lines_and_trains_where_it_is_put(make_project):
    text = DOCS.read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert code.count("\n") <= 20
    row = yaml.safe_load(re.search(r"^ +(robust: \{.*)$", text, re.MULTILINE)[1])
    root = make_project("project", {**STAGE, "experts.robust": row["robust"]})
    add_images(root, "count")
    (root / "selma/variants/objectives/huber.py").write_text(code, encoding="utf-8")
    environment = {**os.environ, "DVC_STAGE": "expert@robust", "PYTHONPATH": ""}
    command = [sys.executable, "-m", "stages.expert", "robust"]
    subprocess.run(command, cwd=root, env=environment, check=True)
    said = load_lora(root / "models/checkpoints/robust/step-000004").provenance
    assert (said["objective"], said["options"]) == ("huber", {"c": 0.3})


def test_the_docs_list_every_objective_and_setting():
    text = DOCS.read_text(encoding="utf-8")
    for name in variants.names("objectives"):
        (line,) = re.findall(rf"^\| `{name}` .*$", text, re.MULTILINE)
        own = variants.constants("objectives", name).get("OPTIONS", {})
        assert set(re.findall(r"`(\w+)`", line.split("|")[3])) == set(own)
        assert re.search(rf"^## {name}$", text, re.MULTILINE)
