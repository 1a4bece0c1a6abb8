"""Pretraining resumes exactly, and makes a pipeline that diffusers opens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from selma.runtime import variants
from selma.shapes.pretraining.autoencoder import to_pixels
from selma.shapes.pretraining.clip import write_inputs
from selma.shapes.pretraining.optimise import optimise
from selma.shapes.pretraining.pretrain import CorpusSpec, Recipe, UnetRun, pretrain


class _Stop(Exception):
    """The run is killed here."""


def _fit(folder: Path, stop_at: int | None = None, steps: int = 40, log=lambda *row: None) -> torch.Tensor:
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 2)

    def loss(generator: torch.Generator, step: int) -> torch.Tensor:
        if step == stop_at:
            raise _Stop
        x = torch.randn(8, 3, generator=generator)
        return (module(x) - x[:, :2]).pow(2).mean()

    optimise({"m": module}, loss, steps=steps, learning_rate=1e-2, seed=5, folder=folder, log=log)
    return module.weight.detach().clone()


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    whole = _fit(tmp_path / "whole")
    monkeypatch.setattr("selma.shapes.pretraining.optimise._SAVE_EVERY_SECONDS", 0)
    with pytest.raises(_Stop):
        _fit(tmp_path / "stopped", stop_at=17)
    assert torch.equal(_fit(tmp_path / "stopped"), whole)


def test_the_loss_curve_of_a_stopped_run_is_that_of_a_whole_one(tmp_path, monkeypatch):
    whole, stopped = [], []
    _fit(tmp_path / "whole", steps=120, log=lambda *row: whole.append(row))
    monkeypatch.setattr("selma.shapes.pretraining.optimise._SAVE_EVERY_SECONDS", 0)
    with pytest.raises(_Stop):
        _fit(tmp_path / "stopped", stop_at=60, steps=120)
    _fit(tmp_path / "stopped", steps=120, log=lambda *row: stopped.append(row))
    assert stopped == whole and len(whole) == 1


def test_a_finished_run_is_not_run_again(tmp_path):
    whole = _fit(tmp_path)
    assert torch.equal(_fit(tmp_path, stop_at=0), whole)


def test_the_loss_falls(tmp_path):
    torch.manual_seed(0)
    start = torch.nn.Linear(3, 2).weight.detach()
    target = torch.eye(2, 3)
    end = _fit(tmp_path)
    assert (end - target).norm() < (start - target).norm()


def test_a_tiny_recipe_makes_a_pipeline_that_diffusers_opens_and_a_clip_that_judges(tmp_path):
    from diffusers import DiffusionPipeline

    corpus = CorpusSpec(images=64, captions=1, wrong=0.1, drop=0.1, pairs=0.46, spread=1.0, jitter=1.0)
    recipe = Recipe(
        seed=0,
        rare=0.1,
        corpora={"broad": corpus, "better": corpus},
        vae_steps=1,
        clip_steps=1,
        unet=[
            UnetRun({"broad": 1, "better": 1}, noisy=0.6, zero_snr=False, text=False, decay_from=1.0),
            UnetRun({"better": 1}, noisy=0.0, zero_snr=True, text=True, decay_from=0.4),
        ],
    )
    seen = []
    pipeline, clip = pretrain(recipe, tmp_path / "state", lambda *row: seen.append(row))
    pipeline.save_pretrained(tmp_path / "backbone")
    opened = DiffusionPipeline.from_pretrained(tmp_path / "backbone")
    opened.set_progress_bar_config(disable=True)
    image = opened("a red circle", num_inference_steps=2, guidance_scale=1.0).images[0]
    assert image.size == (64, 64)
    ids = opened.tokenizer(["a red circle"], padding="max_length", return_tensors="pt").input_ids
    assert ids.shape == (1, 77)
    states = pipeline.text_encoder(ids).last_hidden_state
    assert torch.allclose(opened.text_encoder(ids).last_hidden_state, states, atol=1e-5)
    # The UNet's last run trains the text encoder on; the CLIP stays what it was.
    assert not torch.allclose(clip.text_model(ids).last_hidden_state, states, atol=1e-5)

    folder = tmp_path / "clip"
    clip.half().save_pretrained(folder)
    weights = (folder / "model.safetensors").read_bytes()
    write_inputs(folder, tmp_path / "backbone/tokenizer")
    assert (folder / "model.safetensors").read_bytes() == weights
    scorer = variants.load("judges", "clip", "kind").load(folder, {}, "cpu", "float32")
    pixels = to_pixels(torch.from_numpy(np.array(image))[None])
    with torch.no_grad():
        output = clip.float()(input_ids=ids, pixel_values=pixels)
    cosine = torch.nn.functional.cosine_similarity(output.image_embeds, output.text_embeds).item()
    assert scorer.score(image, "a red circle") == pytest.approx(cosine, abs=1e-4)
