"""Pretrains the stronger embedded backbone, of SDXL's class: two text encoders, time ids, better captions.

It does not begin from nothing, which would take the first backbone's hours again: VAE, tokenizer and first text encoder
are the first backbone's, and its UNet is grown into one that reads both encoders (`grow_unet`). From then on only
the UNet learns: as SDXL's, both encoders are finished before.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from selma.shapes.pretraining.clip import WIDTH, pretrain_clip, tokenize
from selma.shapes.pretraining.denoiser import TextSide, make_scheduler, pretrain_denoiser
from selma.shapes.pretraining.pretrain import BaseRecipe, Log, encode_corpus
from selma.shapes.world.render import CANVAS

TIME_IDS = (CANVAS, CANVAS, 0, 0, CANVAS, CANVAS)  # every image is of this size and whole
_TIME_WIDTH = 32  # of each time id's embedding
_SAMPLE = 512  # captions by which the scale of an encoder's states is measured


@dataclass(frozen=True, kw_only=True)
class XlRecipe(BaseRecipe):
    """The first corpus trains the second text encoder, by contrast; then the UNet's runs, none of which trains text."""

    def __post_init__(self) -> None:
        if any(run.text for run in self.unet):
            raise ValueError("a run trains the text encoders; here they stay as they are")


def pretrain_xl(
    recipe: XlRecipe, start: StableDiffusionPipeline, folder: Path, log: Log
) -> StableDiffusionXLPipeline:
    """The stronger pipeline, float32, from the first backbone, `start`, in float32.

    State is kept under `folder`, so that a killed run, started again with the same recipe, resumes.
    """
    seed, tokenizer, vae = recipe.seed, start.tokenizer, start.vae
    corpus = recipe.corpus()
    first = corpus(next(iter(recipe.corpora)))
    ids = tokenize(tokenizer, first.captions)
    clip = pretrain_clip(
        first.images,
        ids,
        tokenizer,
        steps=recipe.clip_steps,
        seed=seed,
        folder=folder / "clip",
        log=lambda step, loss: log("clip", step, loss),
    )
    second = CLIPTextModelWithProjection(clip.config.text_config).eval()
    second.text_model.load_state_dict(clip.text_model.state_dict())
    second.text_projection.load_state_dict(clip.text_projection.state_dict())
    text_encoder, sample = with_idle_layer(start.text_encoder), ids[:_SAMPLE, 0].long()
    for encoder in (text_encoder, second.text_model):
        rescale(encoder, sample)

    def condition(ids: torch.Tensor) -> dict[str, Any]:
        one = text_encoder(ids, output_hidden_states=True)
        two = second(ids, output_hidden_states=True)
        added = {"text_embeds": two.text_embeds, "time_ids": torch.tensor([TIME_IDS]).expand(len(ids), -1)}
        states = torch.cat([one.hidden_states[-2], two.hidden_states[-2]], -1)
        return {"encoder_hidden_states": states, "added_cond_kwargs": added}

    torch.manual_seed(seed)
    unet = grow_unet(start.unet, text_encoder, sample)
    pretrain_denoiser(
        unet,
        TextSide({}, condition),
        recipe.unet,
        cache(lambda name: encode_corpus(corpus(name), vae, tokenizer)),
        tokenize(tokenizer, [[""]])[0, 0],
        seed=seed,
        folder=folder / "unet",
        log=lambda step, loss: log("unet", step, loss),
    )
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=text_encoder,
        text_encoder_2=second,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=make_scheduler(recipe.unet[-1].zero_snr),
        force_zeros_for_empty_prompt=False,  # trained on empty captions, not on zeros
        add_watermarker=False,
    )


def with_idle_layer(encoder: CLIPTextModel) -> CLIPTextModel:
    """The encoder with a copy of its last layer on top.

    SDXL reads the states before the last layer, which are then those that the encoder's own layers made.
    """
    config = deepcopy(encoder.config)
    config.num_hidden_layers += 1
    taller = CLIPTextModel(config)
    state = encoder.state_dict()
    last, idle = (f"encoder.layers.{config.num_hidden_layers - n}." for n in (2, 1))
    state |= {name.replace(last, idle): weight for name, weight in state.items() if name.startswith(last)}
    taller.load_state_dict(state)
    return taller.eval()


@torch.no_grad()
def rescale(encoder: CLIPTextModel, ids: torch.Tensor) -> None:
    """Make the states before the last layer one in size, over the captions `ids` [n, 77]; all else stays the same.

    Every layer reads the states through a layer norm, so their size says nothing; but it is the size of what the UNet's
    keys and values read, and training is fit for ones.
    """
    states = encoder(ids, output_hidden_states=True).hidden_states[-2]
    scale = 1 / states.std(-1, unbiased=False).mean()
    written = ("token_embedding.weight", "position_embedding.weight", "out_proj.weight", "out_proj.bias")
    for name, weight in encoder.named_parameters():
        if name.endswith((*written, "fc2.weight", "fc2.bias")):  # what adds to the states
            weight.mul_(scale)
    encoder.config.layer_norm_eps *= float(scale**2)
    for module in encoder.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = encoder.config.layer_norm_eps


@torch.no_grad()
def grow_unet(unet: UNet2DConditionModel, encoder: CLIPTextModel, ids: torch.Tensor) -> UNet2DConditionModel:
    """A UNet of SDXL's class that predicts nearly what `unet` does, whatever the second encoder and the time ids say.

    Keys and values read the states before the last layer of `encoder`, and not what its final layer norm makes of them:
    its weights are folded in, its bias into what follows, and its scale is the mean over the captions `ids` [n, 77].
    They read nothing of the second encoder's, and the time ids add nothing, until training says otherwise.
    """
    config = {key: value for key, value in unet.config.items() if not key.startswith("_")}
    grown = UNet2DConditionModel.from_config(
        config
        | {
            "cross_attention_dim": 2 * WIDTH,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": _TIME_WIDTH,
            "projection_class_embeddings_input_dim": len(TIME_IDS) * _TIME_WIDTH + WIDTH,
        }
    )
    states = encoder(ids, output_hidden_states=True).hidden_states[-2]
    norm = encoder.final_layer_norm
    centre = torch.eye(WIDTH) - 1 / WIDTH
    fold = norm.weight.diag() @ centre / (states.var(-1, unbiased=False) + norm.eps).sqrt().mean()
    state, old = grown.state_dict(), unet.state_dict()
    for name, weight in old.items():
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
            state[name] = torch.cat([weight @ fold, torch.zeros_like(weight)], 1)
        elif not name.endswith("attn2.to_out.0.bias"):
            state[name] = weight.reshape(state[name].shape)  # a projection by a 1x1 convolution is linear
        if name.endswith("attn2.to_v.weight"):  # attention's weights sum to one: the bias passes through
            out = name.replace("to_v.weight", "to_out.0.")
            state[out + "bias"] = old[out + "bias"] + old[out + "weight"] @ weight @ norm.bias
    for part in ("weight", "bias"):
        state[f"add_embedding.linear_2.{part}"].zero_()
    grown.load_state_dict(state)
    return grown
