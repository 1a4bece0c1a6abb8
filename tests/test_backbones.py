from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from selma.backbones.loading import fingerprint, image_size, load_pipeline
from selma.backbones.parts import text_encoders
from selma.backbones.schedulers import SCHEDULERS, make_scheduler
from selma.ground.errors import UserError
from selma.lora.adapter import add_lora, lora_state
from selma.lora.files import save_lora
from selma.runtime import devices
from stages import own_backbone


def saved_lora(folder: Path, backbone: Path, alpha: float = 8.0) -> Path:
    """A LoRA folder with random factors, B not zero."""
    pipe = load_pipeline(backbone)
    add_lora(pipe.unet, 4, alpha, ["to_q", "to_v"], seed=0)
    state = {key: torch.randn_like(value) * 0.3 for key, value in lora_state(pipe.unet).items()}
    provenance = {
        "backbone": fingerprint(backbone),
        "rank": 4,
        "alpha": alpha,
        "targets": ["to_q", "to_v"],
    }
    save_lora(folder, state, provenance)
    return folder


def test_the_pipeline_is_frozen_in_eval_mode_without_a_safety_checker(tiny_backbone):
    pipe = load_pipeline(tiny_backbone)
    assert pipe.safety_checker is None
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        assert not part.training
        assert not any(parameter.requires_grad for parameter in part.parameters())


def test_the_dtype_reaches_every_part(tiny_backbone):
    pipe = load_pipeline(tiny_backbone, dtype="bfloat16")
    assert {part.dtype for part in (pipe.unet, pipe.vae, pipe.text_encoder)} == {torch.bfloat16}


def test_an_sdxl_opens_whole(tiny_sdxl):
    pipe = load_pipeline(tiny_sdxl, dtype="bfloat16")
    assert type(pipe).__name__ == "StableDiffusionXLPipeline" and pipe.watermark is None
    parts = (pipe.unet, pipe.vae, *text_encoders(pipe))
    assert len(parts) == 4
    assert {part.dtype for part in parts} == {torch.bfloat16}
    assert not any(parameter.requires_grad for part in parts for parameter in part.parameters())
    assert image_size(pipe) == (32, 32)


@pytest.mark.parametrize("upcast", [True, False])
def test_a_vae_that_overflows_in_float16_stays_in_float32(tiny_sdxl, tmp_path, upcast):
    folder = shutil.copytree(tiny_sdxl, tmp_path / "sdxl")
    config = folder / "vae/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "force_upcast": upcast}))
    pipe = load_pipeline(folder, dtype="float16")
    assert pipe.unet.dtype == torch.float16
    assert pipe.vae.dtype == (torch.float32 if upcast else torch.float16)


def test_an_impossible_resolution_is_named_and_an_odd_one_warned_about(tiny_backbone, capsys):
    pipe = load_pipeline(tiny_backbone)
    assert image_size(pipe, 32) == (32, 32)
    assert capsys.readouterr().err == ""
    assert image_size(pipe, 48) == (48, 48)
    assert capsys.readouterr().err == "warning: resolution: 48 pixels; this backbone was made for 32 x 32\n"
    with pytest.raises(
        UserError, match="resolution: 30 pixels; for this backbone it must be a multiple of 4"
    ):
        image_size(pipe, 30)


def test_a_missing_backbone_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        load_pipeline(tmp_path / "nowhere")


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model.safetensors", "vae/config.json"])
def test_a_truncated_backbone_is_one_line(tiny_backbone, tmp_path, part):
    folder = shutil.copytree(tiny_backbone, tmp_path / "broken")
    content = (folder / part).read_bytes()
    (folder / part).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="broken") as caught:
        load_pipeline(folder)
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_never_read(tiny_backbone, tmp_path):
    folder = shutil.copytree(tiny_backbone, tmp_path / "pickled")
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    torch.save(load_pipeline(tiny_backbone).unet.state_dict(), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(UserError, match="pickled"):
        load_pipeline(folder)


def test_missing_weights_are_one_line_and_nothing_of_diffusers_own(tiny_backbone, tmp_path, monkeypatch):
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    monkeypatch.setattr(logging.getLogger("diffusers"), "handlers", [handler])
    folder = shutil.copytree(tiny_backbone, tmp_path / "bare")
    (folder / "unet/diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(UserError, match="bare: this backbone cannot be opened"):
        load_pipeline(folder)
    assert said == []


@pytest.mark.parametrize(
    ("file", "end", "named"),
    [
        ("unet/diffusion_pytorch_model.safetensors", "conv_in.weight", "UNet2DConditionModel's weights lack"),
        ("text_encoder/model.safetensors", "token_embedding.weight", "CLIPTextModel's weights lack"),
        ("text_encoder/model.safetensors", "final_layer_norm.bias", "CLIPTextModel's weights lack"),
    ],
)
def test_a_weights_file_that_lacks_a_tensor_is_named(tiny_backbone, tmp_path, file, end, named):
    folder = shutil.copytree(tiny_backbone, tmp_path / "holes")
    tensors = load_file(folder / file)
    del tensors[next(key for key in tensors if key.endswith(end))]
    save_file(tensors, folder / file, {"format": "pt"})
    with pytest.raises(UserError, match=rf"holes: .*{named} .*{re.escape(end)}"):
        load_pipeline(folder)


def test_a_backbone_that_says_no_size_needs_one(tiny_backbone, tmp_path):
    folder = shutil.copytree(tiny_backbone, tmp_path / "sizeless")
    config = folder / "unet/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "sample_size": None}))
    pipe = load_pipeline(folder)
    assert image_size(pipe, 48) == (48, 48)
    with pytest.raises(UserError, match=r"resolution: null, .* no sample_size"):
        image_size(pipe)


def test_another_kind_of_pipeline_is_refused(tiny_backbone, tmp_path):
    folder = shutil.copytree(tiny_backbone, tmp_path / "other")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(UserError, match="FluxPipeline"):
        load_pipeline(folder)


def change(folder: Path, file: str, **settings) -> None:
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


VAE, UNET, SCHEDULE = "vae/config.json", "unet/config.json", "scheduler/scheduler_config.json"


@pytest.mark.parametrize(
    ("file", "settings", "named"),
    [
        (VAE, {"shift_factor": 0.1159}, "shift_factor is 0.1159; no Stable Diffusion pipeline applies it"),
        (VAE, {"latents_mean": [0.0] * 4}, "must both be null or lists of 4 numbers"),
        (VAE, {"latents_mean": [0.0] * 3, "latents_std": [1.0] * 4}, "lists of 4 numbers"),
        (VAE, {"latents_mean": [0.0] * 4, "latents_std": [0.0] * 4}, "latents_std must be above 0"),
        (VAE, {"latents_mean": ["0"] * 4, "latents_std": [1.0] * 4}, "lists of 4 numbers"),
        (
            VAE,
            {"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4},
            "StableDiffusionPipeline does not apply",
        ),
        (VAE, {"scaling_factor": None}, "scaling_factor is None"),
        (VAE, {"scaling_factor": float("nan")}, "vae/config.json, line 1: is not valid JSON"),
        (VAE, {"scaling_factor": "0.5"}, "scaling_factor is '0.5'"),
        (UNET, {"sample_size": "8"}, "sample_size is '8'"),
        (UNET, {"sample_size": 0}, "sample_size is 0; it must be a number of latents, or two"),
        (UNET, {"sample_size": [8]}, "sample_size is [8]"),
        (UNET, {"sample_size": [8, -8]}, "sample_size is [8, -8]"),
        (UNET, {"time_cond_proj_dim": 8}, "lack time_embedding.cond_proj.weight"),
        (UNET, {"class_embed_type": "identity"}, "class_embed_type is 'identity'; only None is supported"),
        (
            SCHEDULE,
            {"prediction_type": "sample"},
            "prediction_type is 'sample'; allowed: epsilon, v_prediction",
        ),
        (SCHEDULE, {"prediction_type": "v"}, "prediction_type is 'v'; allowed: epsilon, v_prediction"),
        (SCHEDULE, {"prediction_type": None}, "prediction_type is None"),
        (SCHEDULE, {"prediction_type": ["epsilon"]}, "prediction_type is ['epsilon']"),
        (SCHEDULE, {"beta_schedule": "magic"}, "cannot be opened"),
        (SCHEDULE, {"beta_start": "0.1"}, "cannot be opened"),
        (SCHEDULE, {"beta_end": 1e30}, "its betas are not finite"),
        (SCHEDULE, {"trained_betas": [0.01] * 10}, "has 10 trained_betas; num_train_timesteps is 1000"),
        (SCHEDULE, {"num_train_timesteps": 10**12}, "cannot be opened"),
        ("model_index.json", {"scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}, "has no betas"),
        ("model_index.json", {"scheduler": ["diffusers", "EDMEulerScheduler"]}, "has no betas"),
        ("model_index.json", {"text_encoder": [None, None]}, "text_encoder is [None, None]; it must be [lib"),
        ("model_index.json", {"tokenizer": [None, None]}, "tokenizer is [None, None]"),
        ("model_index.json", {"vae": [None, None]}, "vae is [None, None]"),
        (
            "model_index.json",
            {"text_encoder": ["transformers", "CLIPTextModelWithProjection"]},
            "CLIPTextModelWithProjection's weights lack text_projection.weight",
        ),
        ("model_index.json", {"unet": None}, "unet is None; it must be [library, class]"),
        ("model_index.json", {"unet": ["os", "system"]}, "unet is of 'os'; allowed: diffusers, transformers"),
        ("model_index.json", {"unet": 3}, "unet is 3"),
        (
            "model_index.json",
            {"_class_name": ["StableDiffusionPipeline"]},
            "cannot be used as a backbone; allowed: StableDiff",
        ),
        ("model_index.json", {"_class_name": None}, "cannot be used as a backbone; allowed: StableDiff"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 0}, "does not fit its text encoder"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 10**30}, "does not fit its text encoder"),
    ],
)
def test_parts_that_do_not_fit_or_would_be_drawn_wrongly_are_one_line(
    tiny_backbone, tmp_path, file, settings, named
):
    folder = shutil.copytree(tiny_backbone, tmp_path / "odd")
    change(folder, file, **settings)
    with pytest.raises(UserError) as caught:
        load_pipeline(folder)
    assert named in str(caught.value) and "\n" not in str(caught.value)
    assert "odd" in str(caught.value)


@pytest.mark.parametrize("content", ["[]", "[1, 2]", '"x"', "3", "null", "{}", "", "{", "\ufeff{}", "[[["])
@pytest.mark.parametrize(
    "file",
    [VAE, UNET, SCHEDULE, "model_index.json", "text_encoder/config.json"]
    + [f"tokenizer/{name}" for name in ("tokenizer_config.json", "tokenizer.json")],
)
def test_a_config_of_another_shape_is_one_line_or_is_read_as_diffusers_reads_it(
    tiny_backbone, tmp_path, file, content
):
    folder = shutil.copytree(tiny_backbone, tmp_path / "odd")
    (folder / file).write_text(content, encoding="utf-8")
    try:
        load_pipeline(folder)
    except UserError as error:
        assert "odd" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("part", ["tokenizer", "scheduler", "text_encoder", "vae", "unet"])
def test_a_backbone_without_a_part_is_one_line(tiny_backbone, tmp_path, part):
    folder = shutil.copytree(tiny_backbone, tmp_path / "odd")
    shutil.rmtree(folder / part)
    with pytest.raises(UserError, match="odd: "):
        load_pipeline(folder)


def test_parts_of_other_backbones_are_named(tiny_backbone, tiny_sdxl, tmp_path):
    def swapped(part: str, source: str) -> Path:
        folder = shutil.copytree(tiny_backbone, tmp_path / source)
        shutil.rmtree(folder / part)
        shutil.copytree(tiny_sdxl / source, folder / part)
        return folder

    with pytest.raises(
        UserError, match="a text encoder is a CLIPTextModelWithProjection; allowed: CLIPTextModel"
    ):
        folder = swapped("text_encoder", "text_encoder_2")
        index = json.loads((folder / "model_index.json").read_text())
        change(folder, "model_index.json", text_encoder=["transformers", "CLIPTextModelWithProjection"])
        assert index["text_encoder"][1] == "CLIPTextModel"
        load_pipeline(folder)
    with pytest.raises(UserError, match=r"width 40|addition_embed_type is 'text_time'"):
        load_pipeline(swapped("unet", "unet"))


def test_a_vae_of_other_channels_than_the_unet_is_named(tiny_backbone, tmp_path):
    from diffusers import AutoencoderKL

    folder = shutil.copytree(tiny_backbone, tmp_path / "odd")
    config = {**AutoencoderKL.load_config(folder / "vae"), "latent_channels": 16}
    AutoencoderKL.from_config(config).save_pretrained(folder / "vae")
    with pytest.raises(UserError, match="the UNet goes from 4 channels to 4, and the VAE has 16"):
        load_pipeline(folder)


def test_a_single_file_is_no_backbone(tiny_backbone):
    with pytest.raises(UserError, match="is a file; a backbone is a folder in diffusers' layout"):
        load_pipeline(tiny_backbone / "unet/diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize(
    "file", [VAE, "unet/diffusion_pytorch_model.safetensors", "tokenizer/tokenizer.json"]
)
def test_the_stage_names_the_users_own_file(tiny_backbone, make_project, tmp_path, monkeypatch, file):
    mine = shutil.copytree(tiny_backbone, tmp_path / "mine")
    content = (mine / file).read_bytes()
    (mine / file).write_bytes(b"[1]" if file.endswith("json") else content[:-64])
    root = make_project("project", {"own.backbones": {"own": {"path": str(mine)}}})
    monkeypatch.chdir(root)
    monkeypatch.setenv("DVC_STAGE", "own_backbone@own")
    with pytest.raises(UserError) as caught:
        own_backbone.main("own")
    assert str(mine) in str(caught.value) and ".work" not in str(caught.value)
    assert not Path("models/backbones/own").exists()


def test_statistics_that_change_nothing_and_a_shift_of_0_are_fine(tiny_sdxl, tmp_path):
    folder = shutil.copytree(tiny_sdxl, tmp_path / "xl")
    change(folder, VAE, shift_factor=0.0, latents_mean=[0.0] * 4, latents_std=[1.0] * 4)
    load_pipeline(folder)


@pytest.mark.parametrize("name", sorted(SCHEDULERS.keys() - {"pndm"}))
def test_a_scheduler_keeps_all_that_the_backbone_was_trained_with(name):
    trained = {
        "num_train_timesteps": 10,
        "beta_schedule": "scaled_linear",
        "trained_betas": [0.01 * (i + 1) for i in range(10)],
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
    }
    config = make_scheduler(name, trained, steps=5).config
    assert {key: config[key] for key in trained} == trained


def test_a_scheduler_that_cannot_be_set_up_is_one_line():
    for settings, named in (
        ({"timestep_spacing": "sideways"}, "ddim cannot draw with this backbone .*sideways"),
        ({"num_train_timesteps": 10}, "11 steps are more than the 10 that the backbone was trained on"),
        ({"beta_schedule": "magic"}, "magic is not implemented"),
    ):
        with pytest.raises(UserError, match=named):
            make_scheduler("ddim", settings, steps=11)


def test_a_fingerprint_follows_the_unet_only(tiny_backbone, tiny_backbone_epsilon, tmp_path):
    first = fingerprint(tiny_backbone)
    assert first != fingerprint(tiny_backbone_epsilon)
    copy = shutil.copytree(tiny_backbone, tmp_path / "copy")
    (copy / "scheduler/scheduler_config.json").write_text("{}")
    assert fingerprint(copy) == first


def test_a_lora_of_another_backbone_is_refused(tiny_backbone, tiny_backbone_epsilon, tmp_path):
    weights = saved_lora(tmp_path / "lora", tiny_backbone_epsilon)
    with pytest.raises(UserError, match="a different backbone"):
        load_pipeline(tiny_backbone, lora=weights)


def test_a_fused_lora_equals_the_adapter_beside_the_weights(tiny_backbone, tmp_path):
    weights = saved_lora(tmp_path / "lora", tiny_backbone)
    fused = load_pipeline(tiny_backbone, lora=weights).unet
    beside = load_pipeline(tiny_backbone)
    beside.load_lora_weights(weights)
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([10, 700]), torch.randn(2, 77, 16)
    with torch.inference_mode():
        plain = load_pipeline(tiny_backbone).unet(*inputs).sample
        torch.testing.assert_close(fused(*inputs).sample, beside.unet(*inputs).sample, rtol=1e-4, atol=1e-4)
        assert (fused(*inputs).sample - plain).abs().max() > 1e-2
    assert not any("lora" in name for name, _ in fused.named_parameters())


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_every_scheduler_keeps_the_prediction_type_and_clips_no_latents(tiny_backbone, name):
    config = {**load_pipeline(tiny_backbone).scheduler.config, "clip_sample": True}
    scheduler = make_scheduler(name, config)
    assert scheduler.config.prediction_type == "v_prediction"
    assert name not in ("ddim", "ddpm") or scheduler.config.clip_sample is False


def test_unknown_names_say_what_is_allowed():
    with pytest.raises(UserError, match="ddim"):
        make_scheduler("magic", {})
    with pytest.raises(UserError, match="float32"):
        devices.torch_dtype("float12")
    with pytest.raises(UserError, match="cpu"):
        devices.pick_device("abacus")
