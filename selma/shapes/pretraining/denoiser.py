"""A backbone's UNet: v-prediction on cached latents, in the end together with what encodes its captions."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import nn

from selma.shapes.pretraining.clip import WIDTH
from selma.shapes.pretraining.optimise import optimise

BATCH = 64
_EMPTY_CAPTIONS = 0.1  # share of captions left empty, for classifier-free guidance
_NOISY_FROM = 600  # the noisy end of the time steps, where colours and layout are decided


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


def make_scheduler(zero_snr: bool) -> DDIMScheduler:
    """Stable Diffusion's noise schedule with v-prediction, which keeps backgrounds right at this size.

    zero_snr: the last time step is pure noise (arXiv 2305.08891). Otherwise enough of an image shines through it
    that the UNet reads colours and layout there and not from the text, and at sampling takes them from the noise.
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        rescale_betas_zero_snr=zero_snr,
        timestep_spacing="trailing" if zero_snr else "leading",
    )


@dataclass(frozen=True)
class Encoded:
    """A corpus as the UNet sees it, encoded once.

    latents: [n, 2, 4, 8, 8], the posterior's mean and std, scaled. captions: int16 token ids [n, captions each, 77].
    """

    latents: torch.Tensor
    captions: torch.Tensor


@dataclass(frozen=True)
class UnetRun:
    """One training run of the UNet, from where the last one ended.

    corpora: steps on each corpus, in order. noisy: share of the time steps drawn from the noisy end, [600, 1000); the
    others are drawn from all. zero_snr: see make_scheduler. text: train the text encoder, too. decay_from: share
    of the steps after which the learning rate falls to zero; 1 keeps it constant.
    """

    corpora: Mapping[str, int]
    noisy: float
    zero_snr: bool
    decay_from: float
    text: bool = False


@dataclass(frozen=True)
class TextSide:
    """What conditions a UNet on captions.

    encoders: those that a run may train, by name. condition: the UNet's keyword arguments for token ids [n, 77].
    """

    encoders: Mapping[str, nn.Module]
    condition: Callable[[torch.Tensor], dict[str, Any]]


def pretrain_denoiser(
    unet: UNet2DConditionModel,
    text: TextSide,
    runs: Sequence[UnetRun],
    encoded: Callable[[str], Encoded],
    empty: torch.Tensor,
    *,
    seed: int,
    folder: Path,
    log: Callable[[int, float], None],
) -> None:
    """Train the UNet run after run, as Stable Diffusion's was (v1.1 on all of the web, v1.2 on its better part, ...).

    unet: changed in place, as are the encoders of `text` by the runs that train them. encoded: a corpus by name,
    called when a step needs it. empty: int16 [77], the empty caption's token ids.
    log: called with (step over all runs, mean loss).
    """
    done = 0
    for number, run in enumerate(runs):
        for encoder in text.encoders.values():
            encoder.requires_grad_(run.text)
        optimise(
            {"unet": unet, **text.encoders},
            _loss(unet, text, run, encoded, empty),
            steps=sum(run.corpora.values()),
            learning_rate=1e-3,
            seed=seed + number,
            decay_from=run.decay_from,
            folder=folder / f"run-{number}",
            log=lambda step, loss, done=done: log(done + step, loss),
        )
        done += sum(run.corpora.values())
    for encoder in text.encoders.values():
        encoder.requires_grad_(True)
    unet.eval()


def _loss(
    unet: UNet2DConditionModel,
    text: TextSide,
    run: UnetRun,
    encoded: Callable[[str], Encoded],
    empty: torch.Tensor,
) -> Callable[[torch.Generator, int], torch.Tensor]:
    alphas = make_scheduler(run.zero_snr).alphas_cumprod
    names, ends = list(run.corpora), list(accumulate(run.corpora.values()))

    def loss(generator: torch.Generator, step: int) -> torch.Tensor:
        corpus = encoded(names[bisect_right(ends, step)])
        index = torch.randint(len(corpus.latents), (BATCH,), generator=generator)
        which = torch.randint(corpus.captions.shape[1], (BATCH,), generator=generator)
        mean, std = corpus.latents[index].unbind(1)
        clean = mean + std * torch.randn(mean.shape, generator=generator)
        left_empty = torch.rand(BATCH, generator=generator) < _EMPTY_CAPTIONS
        ids = torch.where(left_empty[:, None], empty, corpus.captions[index, which])
        with torch.set_grad_enabled(run.text):
            conditioned = text.condition(ids.long())
        noisy = torch.rand(BATCH, generator=generator) < run.noisy
        time = torch.where(
            noisy,
            torch.randint(_NOISY_FROM, 1000, (BATCH,), generator=generator),
            torch.randint(0, 1000, (BATCH,), generator=generator),
        )
        noise = torch.randn(clean.shape, generator=generator)
        a = alphas[time][:, None, None, None]
        predicted = unet(a.sqrt() * clean + (1 - a).sqrt() * noise, time, **conditioned).sample
        return (predicted - (a.sqrt() * noise - (1 - a).sqrt() * clean)).pow(2).mean()

    return loss
