"""The stronger embedded backbone begins where the first one ended, and is a pipeline of SDXL's class."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from selma.shapes.pretraining.clip import tokenize
from selma.shapes.pretraining.corpus import make_corpus
from selma.shapes.pretraining.denoiser import UnetRun
from selma.shapes.pretraining.pretrain import CorpusSpec
from selma.shapes.pretraining.xl import TIME_IDS, XlRecipe, grow_unet, pretrain_xl, rescale, with_idle_layer

SHAPES = Path("models/backbones/shapes").absolute()
pytestmark = pytest.mark.skipif(not (SHAPES / "model_index.json").is_file(), reason="`dvc pull` fetches it")
TEXTS = [["a red circle above a blue square on a white background"], ["two green crosses"], [""]]


@pytest.fixture(scope="module")
def start():
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(SHAPES, dtype=torch.float32, safety_checker=None)


@pytest.fixture(scope="module")
def sample(start):
    corpus = make_corpus(1, images=128, captions=1, rare=0.03, wrong=0.0, drop=0.0, pairs=0.6)
    return tokenize(start.tokenizer, corpus.captions)[:, 0].long()


def states(encoder, ids):
    with torch.no_grad():
        return encoder(ids, output_hidden_states=True).hidden_states[-2]


def test_the_states_that_sdxl_reads_are_the_encoders_own_of_size_one(start, sample):
    ids = tokenize(start.tokenizer, TEXTS)[:, 0].long()
    taller = with_idle_layer(start.text_encoder)
    own = start.text_encoder(ids, output_hidden_states=True).hidden_states[-1]
    assert torch.equal(states(taller, ids), own)
    before = taller(ids).last_hidden_state.detach()
    rescale(taller, sample)
    assert states(taller, sample).std(-1, unbiased=False).mean().item() == pytest.approx(1, abs=1e-3)
    assert torch.allclose(taller(ids).last_hidden_state, before, atol=1e-4)


def test_the_grown_unet_predicts_what_the_first_one_does_whatever_else_it_is_told(start, sample):
    ids = tokenize(start.tokenizer, TEXTS)[:, 0].long()
    encoder = with_idle_layer(start.text_encoder)
    rescale(encoder, sample)
    grown = grow_unet(start.unet, encoder, sample)
    generator = torch.Generator().manual_seed(0)
    noisy, times = torch.randn(3, 4, 8, 8, generator=generator), torch.tensor([900, 700, 300])
    text = states(encoder, ids)
    predicted = []
    for seed in (1, 2):
        other = torch.randn(*text.shape, generator=generator.manual_seed(seed))
        pooled = torch.randn(3, 128, generator=generator)
        added = {"text_embeds": pooled, "time_ids": torch.tensor([TIME_IDS] * 3)}
        with torch.no_grad():
            both = torch.cat([text, other], -1)
            predicted.append(grown(noisy, times, both, added_cond_kwargs=added).sample)
    assert torch.allclose(*predicted, atol=1e-5)
    with torch.no_grad():
        first = start.unet(noisy, times, start.text_encoder(ids).last_hidden_state).sample
        without = start.unet(noisy, times, start.text_encoder(ids[[2, 2, 2]]).last_hidden_state).sample
    error, text_says = ((found - first).pow(2).mean((1, 2, 3)) for found in (predicted[0], without))
    assert (error[:2] < 0.02 * text_says[:2]).all(), "of what a caption changes, 2% at most is lost"


def test_a_tiny_recipe_makes_a_pipeline_that_diffusers_opens(start, tmp_path):
    from diffusers import DiffusionPipeline, StableDiffusionXLPipeline

    corpus = CorpusSpec(images=64, captions=1, wrong=0.1, drop=0.1, pairs=0.46, spread=1.0, jitter=1.0)
    run = UnetRun({"good": 2}, noisy=0.6, zero_snr=True, text=False, decay_from=0.4)
    recipe = XlRecipe(seed=0, rare=0.1, corpora={"good": corpus}, clip_steps=1, unet=[run])
    seen = []
    made = pretrain_xl(recipe, start, tmp_path / "state", lambda *row: seen.append(row))
    made.save_pretrained(tmp_path / "backbone")
    opened = DiffusionPipeline.from_pretrained(tmp_path / "backbone")
    assert isinstance(opened, StableDiffusionXLPipeline)
    opened.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "latent"}
    latents = [
        pipe("a red circle", generator=torch.Generator().manual_seed(1), **options).images
        for pipe in (opened, made)
    ]
    assert latents[0].shape == (1, 4, 8, 8) and torch.allclose(*latents, atol=1e-4)
    again = pretrain_xl(recipe, start, tmp_path / "state", lambda *row: None)
    assert all(
        torch.equal(a, b) for a, b in zip(again.unet.parameters(), made.unet.parameters(), strict=True)
    )
    own = start.text_encoder.state_dict()
    changed = [
        name
        for name, weight in made.text_encoder.state_dict().items()
        if name in own and "q_proj" in name and not torch.equal(weight, own[name])
    ]
    assert not changed, "the first backbone's encoder is not trained"
