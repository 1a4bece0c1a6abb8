"""The backbone's UNet: v-prediction on cached latents and cached text embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from selma.shapes.clip import WIDTH, tokenize
from selma.shapes.optimise import optimise

BATCH = 64
_EMPTY_CAPTIONS = 0.1  # share of captions left empty, for classifier-free guidance
_HIGH_NOISE = 0.6  # share of time steps drawn from the noisy end, where colours and layout are decided
_HIGH_NOISE_FROM = 600


def make_unet() -> UNet2DConditionModel:
    """An untrained UNet of about 4 M parameters; cross attention on the 4x4 level, where things are cells."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(64, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,  # diffusers reads this as the number of heads
        norm_num_groups=16,
    )


def make_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule with v-prediction, which keeps backgrounds right at this size."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


@torch.inference_mode()
def embed(
    tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, texts: list[str], batch: int = 500
) -> torch.Tensor:
    """Text embeddings, float16 [texts, 77, width]."""
    out = torch.empty((len(texts), tokenizer.model_max_length, WIDTH), dtype=torch.float16)
    for start in range(0, len(texts), batch):
        ids = tokenize(tokenizer, [texts[start : start + batch]])[0].long()
        out[start : start + batch] = text_encoder(ids).last_hidden_state.half()
    return out


def embed_captions(
    tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, captions: list[list[str]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings of the distinct captions, float16 [texts, 77, width], and each image's rows in them, [n, each]."""
    rows = {text: row for row, text in enumerate(dict.fromkeys(t for texts in captions for t in texts))}
    return embed(tokenizer, text_encoder, list(rows)), torch.tensor(
        [[rows[t] for t in texts] for texts in captions]
    )


@dataclass(frozen=True)
class Encoded:
    """A corpus as the UNet sees it, encoded once.

    latents: [n, 2, 4, 8, 8], the posterior's mean and std, scaled. embeddings: float16 [texts, 77, width] of the
    distinct captions. rows: [n, captions each], where in them an image's captions are.
    """

    latents: torch.Tensor
    embeddings: torch.Tensor
    rows: torch.Tensor


def pretrain_denoiser(
    broad: Callable[[], Encoded],
    curated: Callable[[], Encoded],
    empty: torch.Tensor,
    *,
    steps: int,
    curated_from: int,
    seed: int,
    folder: Path,
    log: Callable[[int, float], None],
) -> UNet2DConditionModel:
    """Train on the broad corpus and, from step `curated_from` on, on the curated one, as Stable Diffusion was.

    Each corpus is encoded when the first step needs it. empty: [77, width], the empty caption's embedding.
    """
    broad, curated = cache(broad), cache(curated)
    torch.manual_seed(seed)
    unet = make_unet()
    alphas = make_scheduler().alphas_cumprod

    def loss(generator: torch.Generator, step: int) -> torch.Tensor:
        corpus = broad() if step < curated_from else curated()
        index = torch.randint(len(corpus.latents), (BATCH,), generator=generator)
        which = torch.randint(corpus.rows.shape[1], (BATCH,), generator=generator)
        mean, std = corpus.latents[index].unbind(1)
        clean = mean + std * torch.randn(mean.shape, generator=generator)
        left_empty = torch.rand(BATCH, generator=generator) < _EMPTY_CAPTIONS
        text = corpus.embeddings[corpus.rows[index, which]].float()
        text = torch.where(left_empty[:, None, None], empty, text)
        high = torch.rand(BATCH, generator=generator) < _HIGH_NOISE
        time = torch.where(
            high,
            torch.randint(_HIGH_NOISE_FROM, 1000, (BATCH,), generator=generator),
            torch.randint(0, 1000, (BATCH,), generator=generator),
        )
        noise = torch.randn(clean.shape, generator=generator)
        a = alphas[time][:, None, None, None]
        predicted = unet(a.sqrt() * clean + (1 - a).sqrt() * noise, time, text).sample
        return (predicted - (a.sqrt() * noise - (1 - a).sqrt() * clean)).pow(2).mean()

    optimise({"unet": unet}, loss, steps=steps, learning_rate=1e-3, seed=seed, folder=folder, log=log)
    return unet.eval()
