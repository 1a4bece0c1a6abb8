"""Pretrains the embedded backbone: corpus, VAE, tokenizer and CLIP, UNet, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPModel, CLIPTextModel

from selma.shapes.autoencoder import encode, pretrain_autoencoder
from selma.shapes.clip import make_tokenizer, pretrain_clip, tokenize
from selma.shapes.corpus import Corpus, make_corpus
from selma.shapes.denoiser import Encoded, embed, embed_captions, make_scheduler, pretrain_denoiser

Log = Callable[[str, int, float], None]  # part, step, loss


@dataclass(frozen=True)
class CorpusSpec:
    """A corpus's size and noise; see make_corpus."""

    images: int
    captions: int
    wrong: float
    drop: float
    spread: float


@dataclass(frozen=True)
class Recipe:
    """Two corpora, as Stable Diffusion had: a broad one for every part, a curated one for the UNet's later steps."""

    seed: int
    rare: float
    broad: CorpusSpec
    curated: CorpusSpec
    vae_steps: int
    clip_steps: int
    unet_steps: int
    curated_from: int


def pretrain(recipe: Recipe, folder: Path, log: Log) -> tuple[StableDiffusionPipeline, CLIPModel]:
    """The pretrained pipeline, and the CLIP whose text encoder it uses; float32.

    State is kept under `folder`, so that a killed run, started again with the same recipe, goes on where it was.
    """
    seed = recipe.seed
    broad = _corpus(seed, recipe.rare, recipe.broad)
    vae = pretrain_autoencoder(
        broad.images,
        steps=recipe.vae_steps,
        seed=seed,
        folder=folder / "vae",
        log=lambda step, loss: log("vae", step, loss),
    )
    tokenizer = make_tokenizer(text for texts in broad.captions for text in texts)
    clip = pretrain_clip(
        broad.images,
        tokenize(tokenizer, broad.captions),
        tokenizer,
        steps=recipe.clip_steps,
        seed=seed,
        folder=folder / "clip",
        log=lambda step, loss: log("clip", step, loss),
    )
    text_encoder = CLIPTextModel(clip.config.text_config).eval()
    text_encoder.load_state_dict(clip.text_model.state_dict())

    def encoded(corpus: Corpus) -> Encoded:
        # Everything the UNet sees is encoded once; clone() turns inference tensors into ones autograd may use.
        latents = torch.cat([torch.stack(posterior, 1) for posterior in encode(vae, corpus.images)]).clone()
        embeddings, rows = embed_captions(tokenizer, text_encoder, corpus.captions)
        return Encoded(latents * vae.config.scaling_factor, embeddings.clone(), rows)

    unet = pretrain_denoiser(
        lambda: encoded(broad),
        lambda: encoded(_corpus(seed + 1, recipe.rare, recipe.curated)),
        embed(tokenizer, text_encoder, [""])[0].float().clone(),
        steps=recipe.unet_steps,
        curated_from=recipe.curated_from,
        seed=seed,
        folder=folder / "unet",
        log=lambda step, loss: log("unet", step, loss),
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return pipeline, clip


def _corpus(seed: int, rare: float, spec: CorpusSpec) -> Corpus:
    return make_corpus(
        seed,
        spec.images,
        spec.captions,
        rare=rare,
        wrong=spec.wrong,
        drop=spec.drop,
        spread=spec.spread,
    )
