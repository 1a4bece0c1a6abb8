"""A LoRA on the text encoders, beside the UNet's: trained by every objective, merged, opened and exported."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors import safe_open

from selma.backbones import conditioning
from selma.backbones.conditioning import token_ids
from selma.backbones.loading import fingerprint, load_pipeline, text_fingerprint
from selma.backbones.parts import text_encoders
from selma.backbones.schedulers import training_schedule
from selma.experts import examples, loop
from selma.ground.adapters import CARD, WEIGHTS, part_of
from selma.ground.errors import UserError
from selma.lora import kohya
from selma.lora.adapter import add_lora, lora_state
from selma.lora.files import load_lora, save_lora
from selma.lora.text import TEXT_TARGETS, WithTexts, add_text_lora, save_with_texts
from selma.merging.merge import merge
from selma.policies.starting import start_adapter
from selma.runtime.params import Training, load_params
from selma.variants.objectives import denoising, dpo, mapo
from tests.test_objectives import PIXELS, STAGE, add_pairs, run
from tests.test_trainer import SETTINGS, checkpoints, kill_at  # noqa: F401 - the killed process's

BACKBONES = ["tiny_backbone", "tiny_sdxl", "tiny_sdxl_v"]
TEXTS = ["a red circle", "a blue square", "a green star", "a cross"]
BETA = {denoising: {}, dpo: {"beta": 50.0}, mapo: {"beta": 0.1}}
# As the stage says it; the fingerprints are added below.
TRAINED = {"rank": 4, "alpha": 6.0, "targets": ["to_q", "to_v"], "text_targets": list(TEXT_TARGETS)}


def prints(backbone: Path) -> dict[str, str]:
    return {"backbone": fingerprint(backbone), "text_backbone": text_fingerprint(backbone)}


def trained(
    objective: ModuleType, backbone: Path, folder: Path, settings: Training = SETTINGS, **options: object
) -> tuple[list, WithTexts]:
    """Train fresh adapters on UNet and texts; also run in the process that is killed below."""
    pipe = load_pipeline(backbone)
    losers = None if objective is denoising else PIXELS[4:]
    encoded = examples.encode(pipe, PIXELS[:4], TEXTS, losers=losers, as_ids=True)
    add_lora(pipe.unet, 4, 6.0, ["to_q", "to_v"], seed=0)
    model = add_text_lora(pipe, 4, 6.0, seed=0)
    curve = loop.train(
        objective,
        model,
        training_schedule(pipe),
        encoded,
        settings,
        seed=0,
        folder=folder / "out",
        state=folder / "state.safetensors",
        provenance={"name": "count", **TRAINED, **prints(backbone)},
        options=BETA[objective],
        save=lambda *given: save_with_texts(model, *given),
        **options,
    )
    return curve, model


@pytest.mark.parametrize("backbone", BACKBONES)
def test_texts_are_encoded_as_diffusers_own_pipeline_does(backbone, request):
    pipe = load_pipeline(request.getfixturevalue(backbone))
    texts = ["", *TEXTS, "a red circle " * 60]
    wanted = conditioning.encode_texts(pipe, texts)
    with torch.no_grad():
        states, pooled = WithTexts(pipe).encode(token_ids(pipe, texts).ids)
    torch.testing.assert_close(states, wanted.states, rtol=1e-4, atol=1e-5)
    if wanted.pooled is None:
        assert pooled is None
    else:
        torch.testing.assert_close(pooled, wanted.pooled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_frozen_encoders_give_the_loss_that_states_encoded_once_give(backbone, request):
    pipe = load_pipeline(request.getfixturevalue(backbone))
    schedule, found = training_schedule(pipe), []
    for as_ids, model in ((False, pipe.unet), (True, WithTexts(pipe))):
        encoded = examples.encode(pipe, PIXELS[:4], TEXTS, as_ids=as_ids)
        batch = denoising.draw_batch(schedule, encoded, replace(SETTINGS, caption_dropout=0.5), 0, 0)
        with torch.no_grad():
            found.append(denoising.batch_loss(model, batch))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("backbone", BACKBONES[:2])
@pytest.mark.parametrize("objective", [denoising, dpo, mapo])
def test_what_was_trained_is_what_opens_and_the_texts_have_changed(objective, backbone, request, tmp_path):
    folder = request.getfixturevalue(backbone)
    _, model = trained(objective, folder, tmp_path)
    lora = tmp_path / "out/step-000012"
    names = ("text_encoder", "text_encoder_2")[: len(model.encoders)]
    assert {part_of(layer)[0] for layer in load_lora(lora).factors} == {"unet", *names}
    base, opened = load_pipeline(folder), load_pipeline(folder, lora=lora)
    ids = token_ids(base, TEXTS).ids
    with torch.no_grad():
        live, read, first = (each.encode(ids)[0] for each in (model, WithTexts(opened), WithTexts(base)))
    torch.testing.assert_close(read, live, rtol=1e-3, atol=1e-4)
    assert (live - first).abs().max() > 1e-3, "the text encoders learned nothing"
    for name, encoder in zip(names, text_encoders(base), strict=True):
        moved = [
            load_lora(lora).delta(layer) for layer in load_lora(lora).factors if part_of(layer)[0] == name
        ]
        assert len(moved) == 4 * encoder.config.num_hidden_layers
    half = load_pipeline(folder, "cpu", "bfloat16", lora=lora)
    states = conditioning.encode_texts(half, TEXTS).states.float()
    assert (states - live).abs().mean() < 0.1 * (live - first).abs().mean()


@pytest.mark.parametrize("backbone", BACKBONES[:2])
def test_diffusers_opens_the_file_by_itself(backbone, request, tmp_path):
    from diffusers import DiffusionPipeline

    folder = request.getfixturevalue(backbone)
    _, model = trained(denoising, folder, tmp_path)
    pipe = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.load_lora_weights(tmp_path / "out/step-000012", weight_name=WEIGHTS)
    found = pipe.encode_prompt(
        TEXTS, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )[0]
    with torch.no_grad():
        live = model.encode(token_ids(pipe, TEXTS).ids)[0]
    torch.testing.assert_close(found, live, rtol=1e-3, atol=1e-4)


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(tiny_sdxl, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    curve, _ = trained(denoising, tiny_sdxl, whole)
    script = (
        "import sys; from pathlib import Path; from tests.test_text_lora import *;"
        "trained(denoising, Path(sys.argv[1]), Path(sys.argv[2]), on_loss=kill_at(8))"
    )
    root = Path(__file__).parents[1]
    dead = subprocess.run([sys.executable, "-c", script, tiny_sdxl, killed], cwd=root)
    assert dead.returncode == -signal.SIGKILL
    again, _ = trained(denoising, tiny_sdxl, killed)
    assert again == curve and checkpoints(killed) == checkpoints(whole)


@pytest.mark.parametrize("backbone", BACKBONES[:2])
def test_checkpointed_gradients_and_those_of_parts_are_the_same(backbone, request, tmp_path):
    folder, found = request.getfixturevalue(backbone), []
    for name in ("plain", "checkpointed", "parts"):
        pipe = load_pipeline(folder)
        encoded = examples.encode(pipe, PIXELS[:4], TEXTS, as_ids=True)
        add_lora(pipe.unet, 4, 6.0, ["to_q", "to_v"], seed=0)
        model = add_text_lora(pipe, 4, 6.0, seed=0)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if "lora_B" in key:
                    parameter.add_(0.05)
        if name == "checkpointed":
            model.enable_gradient_checkpointing()
        settings = replace(SETTINGS, batch=6, caption_dropout=0.3)
        batch = denoising.draw_batch(training_schedule(pipe), encoded, settings, 0, 0)
        for part in batch.split(3) if name == "parts" else [batch]:
            (denoising.batch_loss(model, part) * len(part) / len(batch)).backward()
        # SDXL reads the states before an encoder's last layer, whose adapter the first encoder therefore never trains.
        found.append({key: p.grad for key, p in model.named_parameters() if p.grad is not None})
    assert [key for key in found[0] if key.startswith("encoders.0")]
    assert len(found[0]) == len(found[1]) == len(found[2])
    largest = max(gradient.abs().max().item() for gradient in found[0].values())
    for other in found[1:]:
        for key, gradient in found[0].items():
            torch.testing.assert_close(other[key], gradient, rtol=1e-3, atol=1e-3 * largest)


def test_token_ids_are_kept_and_read_again(tiny_sdxl, tmp_path):
    pipe = load_pipeline(tiny_sdxl)
    made = examples.encode(pipe, PIXELS[:4], TEXTS, losers=PIXELS[4:], as_ids=True)
    found = examples.kept(tmp_path / "kept.safetensors", lambda: made, pipe.device)
    assert torch.equal(found.texts.ids, made.texts.ids) and found.texts.ids.dtype == torch.int64
    assert torch.equal(found.losers.texts.ids, made.texts.ids)


# Merging and exporting -----------------------------------------------------------------------------


@pytest.fixture
def two(tiny_sdxl, tmp_path):
    for name, seed in (("one", 0), ("other", 1)):
        pipe = load_pipeline(tiny_sdxl)
        add_lora(pipe.unet, 4, 6.0, ["to_q", "to_v"], seed=seed)
        model = add_text_lora(pipe, 4, 6.0, seed)
        random = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if "lora_B" in key:
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=random))
        card = {"name": name, **TRAINED, **prints(tiny_sdxl)}
        save_with_texts(model, tmp_path / name, card, torch.float32)
    return {name: load_lora(tmp_path / name) for name in ("one", "other")}


@pytest.mark.parametrize("operator", ["factor_mean", "delta_mean", "weighted", "svd", "ties", "knots"])
def test_experts_with_texts_merge_layer_by_layer(two, operator, tiny_sdxl, tmp_path):
    merged = merge("m", operator, two)
    assert set(merged.factors) == set(two["one"].factors)
    if operator == "delta_mean":
        for layer in merged.factors:
            mean = (two["one"].delta(layer) + two["other"].delta(layer)) / 2
            torch.testing.assert_close(merged.delta(layer), mean, rtol=1e-4, atol=1e-6)
    save_lora(tmp_path / "merged", merged.state(), merged.provenance)
    opened = load_pipeline(tiny_sdxl, lora=tmp_path / "merged")
    base = load_pipeline(tiny_sdxl)
    states, plain = (conditioning.encode_texts(pipe, TEXTS).states for pipe in (opened, base))
    assert (states - plain).abs().max() > 1e-4


def test_kohyas_names_are_those_that_comfyui_reads(two):
    sdxl, sd = {"addition_embed_type": "text_time"}, {}
    first, second = (
        f"{part}.text_model.encoder.layers.1.self_attn.out_proj"
        for part in ("text_encoder", "text_encoder_2")
    )
    own = "text_model_encoder_layers_1_self_attn_out_proj"
    assert kohya.layer_name(first, sdxl) == f"lora_te1_{own}"
    assert kohya.layer_name(second, sdxl) == f"lora_te2_{own}"
    assert kohya.layer_name(first, sd) == f"lora_te_{own}"


def test_files_that_diffusers_would_open_otherwise_are_refused(two, tmp_path):
    folder = tmp_path / "one"
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps({**card, "text_targets": ["q_proj", "k_proj"]}))
    with pytest.raises(UserError, match=r"text_encoder\.target_modules"):
        load_lora(folder)
    (folder / CARD).write_text(json.dumps({key: card[key] for key in card if key != "text_targets"}))
    with pytest.raises(UserError, match=r"text_encoder\.target_modules"):
        load_lora(folder)
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        said = json.loads(file.metadata()["lora_adapter_metadata"])
    assert said["text_encoder_2.r"] == 4 and said["text_encoder_2.lora_alpha"] == 6.0


def test_it_opens_on_the_text_encoders_that_it_was_trained_on(two, tiny_sdxl, tmp_path):
    card = json.loads((tmp_path / "one" / CARD).read_text())
    (tmp_path / "one" / CARD).write_text(json.dumps({**card, "text_backbone": "0" * 64}))
    with pytest.raises(UserError, match=r"on a different backbone than .*, with other text encoders"):
        load_pipeline(tiny_sdxl, lora=tmp_path / "one")
    other = load_lora(tmp_path / "one")
    with pytest.raises(UserError, match="was trained with other text encoders"):
        merge("m", "factor_mean", {"one": other, "other": two["other"]})


def test_a_card_of_text_encoders_without_any_is_refused(tiny_sdxl, tmp_path):
    pipe = load_pipeline(tiny_sdxl)
    add_lora(pipe.unet, 4, 6.0, ["to_q", "to_v"], seed=0)
    save_lora(tmp_path / "lora", lora_state(pipe.unet), {**TRAINED, **prints(tiny_sdxl)})
    with pytest.raises(UserError, match=r"has text_targets, and .* no layer of a text encoder"):
        load_lora(tmp_path / "lora")


def test_a_policy_does_not_start_from_it(two, tiny_sdxl, tmp_path):
    pipe = load_pipeline(tiny_sdxl)
    with pytest.raises(UserError, match="adapts the text encoders, too"):
        start_adapter(pipe.unet, tmp_path / "one", tiny_sdxl, None, 0)


# Params and the stage ------------------------------------------------------------------------------

TEXT = {"experts.count.text_encoder": True}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            TEXT,
            r"merges\.merged\.experts: count trains the text encoders, too \(text_encoder\), and objects does not",
        ),
        (
            {"expert.text_encoder": True, "merges.merged.operator": "regmean"},
            r"merges\.merged\.operator is regmean, which knows what the UNet's layers read",
        ),
        (
            {"expert.text_encoder": True, "mixtures.moe": {"objective": "moe_gates", "experts": None}},
            r"mixtures\.moe: expert has text_encoder true",
        ),
        (
            {
                "expert.text_encoder": True,
                "policies.nft": {
                    "algorithm": "nft",
                    "start": "models/experts/single",
                    "prompts": "data/questions",
                    "rewards": {"oracle": 1.0},
                    "images": 192,
                },
            },
            r"policies\.nft\.start is an expert that trains the text encoders",
        ),
        ({"expert.text_encoder": 1}, r"expert\.text_encoder is 1"),
    ],
)
def test_what_cannot_be_is_one_line_when_params_are_read(make_project, monkeypatch, change, says):
    monkeypatch.chdir(make_project("project", change))
    with pytest.raises(UserError, match=says) as raised:
        load_params()
    assert "\n" not in str(raised.value)


def test_all_experts_may_train_them_and_merge(make_project, monkeypatch):
    monkeypatch.chdir(make_project("project", {"expert.text_encoder": True}))
    assert load_params().expert.text_encoder


def test_the_stage_trains_them_and_says_so(make_project, monkeypatch):
    row = {"data": "data/picked/count", "objective": "denoising", "text_encoder": True}
    root = make_project("project", {**STAGE, "experts.count": row, "merges.merged.experts": ["objects"]})
    add_pairs(root)
    found = load_lora(run(root, monkeypatch))
    assert found.provenance["text_targets"] == list(TEXT_TARGETS)
    assert any(part_of(layer)[0] == "text_encoder" for layer in found.factors)
