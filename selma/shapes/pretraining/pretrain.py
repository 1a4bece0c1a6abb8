"""Pretrains the embedded backbone: corpus, VAE, tokenizer and CLIP, UNet, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from selma.shapes.pretraining.autoencoder import encode, pretrain_autoencoder
from selma.shapes.pretraining.clip import make_tokenizer, pretrain_clip, tokenize
from selma.shapes.pretraining.corpus import Corpus, make_corpus
from selma.shapes.pretraining.denoiser import (
    Encoded,
    TextSide,
    UnetRun,
    make_scheduler,
    make_unet,
    pretrain_denoiser,
)

Log = Callable[[str, int, float], None]  # part, step, loss


@dataclass(frozen=True)
class CorpusSpec:
    """A corpus's size and noise; see make_corpus."""

    images: int
    captions: int
    wrong: float
    drop: float
    pairs: float
    spread: float
    jitter: float


@dataclass(frozen=True, kw_only=True)
class BaseRecipe:
    """What both backbones are made by: corpora, the steps of a CLIP on the first of them, and the UNet's runs."""

    seed: int
    rare: float
    corpora: Mapping[str, CorpusSpec]
    clip_steps: int
    unet: Sequence[UnetRun]

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Self:
        """A recipe from plain values, as params.yaml has them."""
        corpora = {name: CorpusSpec(**spec) for name, spec in plain["corpora"].items()}
        return cls(**{**plain, "corpora": corpora, "unet": [UnetRun(**run) for run in plain["unet"]]})

    def corpus(self) -> Callable[[str], Corpus]:
        """A function from a corpus's name to the corpus, which is made once."""
        names = list(self.corpora)
        return cache(
            lambda name: make_corpus(
                self.seed + names.index(name), rare=self.rare, **asdict(self.corpora[name])
            )
        )


@dataclass(frozen=True, kw_only=True)
class Recipe(BaseRecipe):
    """The first corpus trains every part; the UNet continues on better ones, as Stable Diffusion's did."""

    vae_steps: int


def pretrain(recipe: Recipe, folder: Path, log: Log) -> tuple[StableDiffusionPipeline, CLIPModel]:
    """The pretrained pipeline, and the CLIP whose text encoder it uses; float32.

    State is kept under `folder`, so that a killed run, started again with the same recipe, resumes.
    """
    seed = recipe.seed
    corpus = recipe.corpus()
    broad = corpus(next(iter(recipe.corpora)))
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

    def condition(ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"encoder_hidden_states": text_encoder(ids).last_hidden_state}

    torch.manual_seed(seed)
    unet = make_unet()
    pretrain_denoiser(
        unet,
        TextSide({"text_encoder": text_encoder}, condition),
        recipe.unet,
        cache(lambda name: encode_corpus(corpus(name), vae, tokenizer)),
        tokenize(tokenizer, [[""]])[0, 0],
        seed=seed,
        folder=folder / "unet",
        log=lambda step, loss: log("unet", step, loss),
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=make_scheduler(recipe.unet[-1].zero_snr),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return pipeline, clip


def encode_corpus(corpus: Corpus, vae: AutoencoderKL, tokenizer: CLIPTokenizer) -> Encoded:
    """A corpus as a UNet sees it: each image is encoded once."""
    # clone() turns inference tensors into ones autograd may use.
    latents = torch.cat([torch.stack(posterior, 1) for posterior in encode(vae, corpus.images)]).clone()
    return Encoded(latents * vae.config.scaling_factor, tokenize(tokenizer, corpus.captions))
