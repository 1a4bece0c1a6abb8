"""The parts of a backbone's folder: which kinds of pipeline there are, and whether what lies there is one, whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open

from selma.backbones.latents import check_scaling
from selma.backbones.schedulers import check_schedule
from selma.ground.adapters import TEXT_ENCODERS
from selma.ground.errors import UserError
from selma.ground.files import read_record

if TYPE_CHECKING:
    from selma.backbones.loading import Pipeline

# Kind of pipeline, as model_index.json names it -> parts that are not loaded: drawing and training do not need them.
# The safety checker would black out training images.
KINDS: dict[str, dict] = {
    "StableDiffusionPipeline": {
        "safety_checker": None,
        "feature_extractor": None,
        "image_encoder": None,
        "requires_safety_checker": False,
    },
    "StableDiffusionXLPipeline": {"feature_extractor": None, "image_encoder": None, "add_watermarker": False},
}
# Parts that are loaded, and must be there.
_SD = ("unet", "vae", "scheduler", "text_encoder", "tokenizer")
TEXT_CLASSES = ("CLIPTextModel", "CLIPTextModelWithProjection")  # Stable Diffusion has the first alone
PARTS = {
    "StableDiffusionPipeline": _SD,
    "StableDiffusionXLPipeline": (*_SD, "text_encoder_2", "tokenizer_2"),
}


def read_kind(folder: Path) -> str:
    """The class of pipeline that model_index.json names; raises UserError unless it is one of KINDS."""
    if folder.is_file():
        raise UserError(f"{folder}: is a file; a backbone is a folder in diffusers' layout")
    index = folder / "model_index.json"
    if not index.exists():
        raise UserError(
            f"{folder}: no backbone here (no model_index.json); `dvc repro` makes it, and `dvc pull -r starter "
            "pretrain pretrain_xl pretrain_mm` brings the embedded ones"
        )
    found = read_record(index, dict)
    kind = found.get("_class_name")
    if kind not in tuple(KINDS):
        raise UserError(f"{folder}: a {kind} cannot be used as a backbone; allowed: {', '.join(KINDS)}")
    for part in PARTS[kind]:
        named = found.get(part)
        if not (isinstance(named, list) and len(named) == 2 and all(isinstance(word, str) for word in named)):
            raise UserError(f"{index}: {part} is {named!r}; it must be [library, class]")
        if named[0] not in ("diffusers", "transformers"):  # diffusers would import any
            raise UserError(f"{index}: {part} is of {named[0]!r}; allowed: diffusers, transformers")
    return kind


def check_whole(pipe: Pipeline, folder: Path) -> None:
    """Raise ValueError if a weights file lacks a tensor: diffusers only warns and leaves the parameter empty, and
    transformers fills it with random numbers."""
    lacks = {
        part: [name for name, value in part.named_parameters() if value.is_meta]
        for part in (pipe.unet, pipe.vae)
    }
    for place, part in zip(TEXT_ENCODERS, text_encoders(pipe), strict=False):
        held: set[str] = set()
        for file in (folder / place).glob("*.safetensors"):
            with safe_open(file, framework="pt") as opened:
                held |= {key.removeprefix("text_model.") for key in opened.keys()}  # noqa: SIM118
        lacks[part] = [
            name for name, _ in part.named_parameters() if name.removeprefix("text_model.") not in held
        ]
    for part, lacking in lacks.items():
        if lacking:
            raise ValueError(
                f"{type(part).__name__}'s weights lack {lacking[0]}, {len(lacking)} tensors in total"
            )


def check_files(folder: Path, kind: str) -> None:
    """Raise UserError, naming it, for a part that is missing, or whose JSON is no mapping of settings.

    Of those the libraries complain in many ways, or they fill in defaults that no backbone was trained with.
    """
    for part in PARTS[kind]:
        if not (folder / part).is_dir():
            raise UserError(f"{folder}: has no folder {part}; a backbone holds {', '.join(PARTS[kind])}")
        for file in sorted((folder / part).glob("*.json")):
            read_record(file, dict)
    schedule = folder / "scheduler/scheduler_config.json"
    if not {"beta_schedule", "trained_betas"} & read_record(schedule, dict).keys():
        raise UserError(
            f"{schedule}: states no betas (beta_schedule); a schedule of discrete steps is needed"
        )


def check_parts(pipe: Pipeline) -> None:
    """Raise ValueError unless the parts fit each other and are what drawing and training here know how to run.

    diffusers opens any combination; it fails at the first image, or draws another one than its own pipeline would.
    """
    xl = "text_encoder_2" in pipe.components
    check_schedule(pipe.scheduler)
    unet, vae = pipe.unet.config, pipe.vae.config
    channels = vae.latent_channels
    if (unet.in_channels, unet.out_channels) != (channels, channels):
        raise ValueError(
            f"the UNet goes from {unet.in_channels} channels to {unet.out_channels}, and the VAE has {channels}; "
            "they must be the same (inpainting and depth models are not supported)"
        )
    check_scaling(vae, channels, statistics=xl)
    known = {
        "addition_embed_type": "text_time" if xl else None,
        "class_embed_type": None,
        "num_class_embeds": None,
    }
    for key, value in {**known, "time_cond_proj_dim": None, "encoder_hid_dim_type": None}.items():
        if unet.get(key) != value:
            raise ValueError(f"unet/config.json: {key} is {unet[key]!r}; only {value!r} is supported")
    size = unet.sample_size
    sides = size if isinstance(size, list | tuple) and len(size) == 2 else [1 if size is None else size]
    if not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"unet/config.json: sample_size is {size!r}; it must be a number of latents, or two")
    encoders = text_encoders(pipe)
    for encoder, wanted in zip(encoders, TEXT_CLASSES, strict=False):
        if type(encoder).__name__ != wanted:
            raise ValueError(
                f"model_index.json: a text encoder is a {type(encoder).__name__}; allowed: {wanted}"
            )
    width = sum(encoder.config.hidden_size for encoder in encoders)
    if unet.cross_attention_dim != width:
        raise ValueError(
            f"the UNet reads texts of width {unet.cross_attention_dim}, and the text encoder gives {width}"
        )
    for encoder, tokenizer in zip(
        encoders, (pipe.tokenizer, getattr(pipe, "tokenizer_2", None)), strict=False
    ):
        texts = encoder.config
        if (
            len(tokenizer) > texts.vocab_size
            or not 2 < tokenizer.model_max_length <= texts.max_position_embeddings
        ):
            raise ValueError(
                f"a tokenizer of {len(tokenizer)} tokens, at most {tokenizer.model_max_length} at once, does not fit "
                f"its text encoder, which has {texts.vocab_size} and takes {texts.max_position_embeddings}"
            )


def text_encoders(pipe: Pipeline) -> list[torch.nn.Module]:
    """The backbone's text encoders: one, or SDXL's two."""
    found = (pipe.components.get(name) for name in TEXT_ENCODERS)
    return [encoder for encoder in found if encoder is not None]
