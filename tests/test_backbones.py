from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from selma.backbones.loading import fingerprint, image_size, load_pipeline, text_encoders
from selma.backbones.schedulers import SCHEDULERS, make_scheduler
from selma.ground.errors import UserError
from selma.lora.adapter import add_lora, lora_state
from selma.lora.files import save_lora
from selma.runtime import devices


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


def test_a_weights_file_that_lacks_a_tensor_is_named(tiny_backbone, tmp_path):
    folder = shutil.copytree(tiny_backbone, tmp_path / "holes")
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    del tensors["conv_in.weight"]
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(UserError, match=r"holes: .*UNet2DConditionModel's weights lack conv_in\.weight"):
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
