"""Text-to-image backbones: a folder in diffusers' format becomes a pipeline ready to draw or to train on."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open

from selma.backbones.latents import check_scaling
from selma.backbones.schedulers import check_schedule
from selma.ground.adapters import WEIGHTS, Adapter, read_adapter
from selma.ground.errors import UserError, first_line
from selma.ground.files import read_record, sha256_file
from selma.runtime import timing
from selma.runtime.devices import enough_memory, pick_device, torch_dtype

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    Pipeline = StableDiffusionPipeline | StableDiffusionXLPipeline

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
TEXT_ENCODERS = ("CLIPTextModel", "CLIPTextModelWithProjection")  # Stable Diffusion has the first alone
PARTS = {
    "StableDiffusionPipeline": _SD,
    "StableDiffusionXLPipeline": (*_SD, "text_encoder_2", "tokenizer_2"),
}


def fingerprint(folder: Path) -> str:
    """sha256 over the UNet's weight files, names and bytes: the identity of what a LoRA was trained on."""
    files = sorted((folder / "unet").glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder}: no UNet weights here; a backbone folder holds unet/*.safetensors")
    lines = "".join(f"{file.name} {sha256_file(file)}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


@timing.phase("loading")
def load_pipeline(
    folder: Path, device: str = "cpu", dtype: str = "float32", lora: Path | None = None
) -> Pipeline:
    """Load a backbone folder onto a device (a value of runtime.device), optionally with a LoRA folder at weight 1.

    The pipeline comes in eval mode with every parameter frozen, no safety checker or watermark and no progress
    bar. Only safetensors are read, and nothing is downloaded. A VAE that overflows in float16 and declares it
    (`force_upcast`, as SDXL's does) stays in float32.
    Raises UserError when the folder is missing, corrupt, of another kind or of parts that do not fit each other, and
    when the LoRA is broken or was trained on a different backbone.
    """
    kind = read_kind(folder)
    _check_files(folder, kind)
    adapter = _read_lora(folder, lora) if lora else None
    pipeline = _pipeline(kind)
    try:
        with _unlogged():  # diffusers logs what is missing; our error reports it
            pipe = pipeline.from_pretrained(
                folder, dtype=torch_dtype(dtype), use_safetensors=True, local_files_only=True, **KINDS[kind]
            )
        _check_whole(pipe, folder)
        _check_parts(pipe)
    except Exception as error:  # safetensors, json, transformers and diffusers each raise their own kind
        raise UserError(f"{folder}: this backbone cannot be opened ({first_line(error)})") from error
    pipe.set_progress_bar_config(disable=True)
    with enough_memory("this backbone needs another runtime.device, or bfloat16 as runtime.dtype"):
        pipe.to(pick_device(device))
    for part in (pipe.unet, pipe.vae, *text_encoders(pipe)):
        part.eval().requires_grad_(False)
    if pipe.vae.dtype == torch.float16 and pipe.vae.config.force_upcast:
        pipe.vae.float()
    if pipe.device.type == "cuda":
        pipe.unet.to(memory_format=torch.channels_last)
        pipe.vae.to(memory_format=torch.channels_last)
    if lora is not None:
        _put_lora(pipe, adapter, lora)
    return pipe


def open_model(weights: Path, backbone: Path, device: str = "cpu", dtype: str = "float32") -> Pipeline:
    """The model in a row of `models`: a backbone folder, or a LoRA folder applied to `backbone`."""
    if (weights / "model_index.json").is_file():
        return load_pipeline(weights, device, dtype)
    return load_pipeline(backbone, device, dtype, lora=weights)


def image_size(pipe: Pipeline, side: int | None = None) -> tuple[int, int]:
    """(width, height) in pixels: a square of `side`, or the backbone's own size.

    Any other size is allowed with a warning: backbones draw worse at it, and small ones draw nothing usable.
    Raises UserError for a side that the VAE cannot produce.
    """
    factor = pipe.vae_scale_factor
    size = pipe.unet.config.sample_size
    own = size if size is None or isinstance(size, list | tuple) else (size, size)  # height, width
    if side is None:
        if own is None:
            raise UserError(
                "resolution: null, but this backbone's unet/config.json has no sample_size; set a resolution"
            )
        return own[1] * factor, own[0] * factor
    if side < 1 or side % factor:
        raise UserError(f"resolution: {side} pixels; for this backbone it must be a multiple of {factor}")
    if own is not None and set(own) != {side // factor}:
        made_for = f"{own[1] * factor} x {own[0] * factor}"
        print(f"warning: resolution: {side} pixels; this backbone was made for {made_for}", file=sys.stderr)
    return side, side


def _check_whole(pipe: Pipeline, folder: Path) -> None:
    """Raise ValueError if a weights file lacks a tensor: diffusers only warns and leaves the parameter empty, and
    transformers fills it with random numbers."""
    lacks = {
        part: [name for name, value in part.named_parameters() if value.is_meta]
        for part in (pipe.unet, pipe.vae)
    }
    for place, part in zip(("text_encoder", "text_encoder_2"), text_encoders(pipe), strict=False):
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


def _check_files(folder: Path, kind: str) -> None:
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


def _check_parts(pipe: Pipeline) -> None:
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
    for encoder, wanted in zip(encoders, TEXT_ENCODERS, strict=False):
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
    found = (pipe.components.get(name) for name in ("text_encoder", "text_encoder_2"))
    return [encoder for encoder in found if encoder is not None]


@timing.phase("start-up")
def _pipeline(kind: str) -> type[Pipeline]:
    """Import a class of pipeline, with the libraries' messages off stderr, which is for progress and one error line."""
    import transformers

    transformers.utils.logging.set_verbosity_error()  # before diffusers makes it warn about torchvision
    transformers.utils.logging.disable_progress_bar()
    import diffusers

    diffusers.utils.logging.disable_progress_bar()
    return getattr(diffusers, kind)


@contextmanager
def _unlogged() -> Iterator[None]:
    """Silence diffusers' log; its exceptions still pass through."""
    from diffusers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def read_kind(folder: Path) -> str:
    """The class of pipeline that model_index.json names; raises UserError unless it is one of KINDS."""
    if folder.is_file():
        raise UserError(f"{folder}: is a file; a backbone is a folder in diffusers' layout")
    index = folder / "model_index.json"
    if not index.exists():
        raise UserError(
            f"{folder}: no backbone here (no model_index.json); `dvc pull` downloads it, `dvc repro` produces it"
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


def _read_lora(folder: Path, lora: Path) -> Adapter:
    """A LoRA folder, checked for belonging to the backbone in `folder`."""
    adapter = read_adapter(lora)
    if adapter.card["backbone"] != fingerprint(folder):
        raise UserError(
            f"{lora}: this LoRA was trained on a different backbone than {folder}; train it again on this one"
        )
    return adapter


def _put_lora(pipe: Pipeline, adapter: Adapter, lora: Path) -> None:
    """Put the LoRA of a folder on its backbone, at weight 1."""
    weights = lora / WEIGHTS
    layers = dict(pipe.unet.named_modules())
    for name, (a, b) in adapter.factors.items():
        weight, wanted = getattr(layers.get(name), "weight", None), (b.shape[0], *a.shape[1:])
        if weight is None or tuple(weight.shape) != wanted:
            raise UserError(f"{weights}: {name} is of shape {wanted}; this backbone has no such layer")
    try:
        with _unlogged():  # diffusers warns about a LoRA without text encoder keys; ours have none
            pipe.load_lora_weights(lora, weight_name=weights.name, local_files_only=True)
    except Exception as error:
        raise UserError(f"{weights}: this LoRA cannot be loaded ({first_line(error)})") from error
    # In float32 the sum W + dW is exact enough, and fusing saves two matmuls per layer; in half
    # precision the sum would round the small dW away, so there the adapter stays separate from W.
    if pipe.unet.dtype == torch.float32:
        pipe.fuse_lora(components=["unet"])
        pipe.unload_lora_weights()
    pipe.unet.eval().requires_grad_(False)
