"""Text-to-image backbones: a folder in diffusers' format becomes a pipeline ready to draw or to train on."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from selma.ground.errors import UserError
from selma.ground.files import read_json, sha256_file
from selma.runtime.devices import pick_device, torch_dtype

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


def fingerprint(folder: Path) -> str:
    """sha256 over the UNet's weight files, names and bytes: the identity of what a LoRA was trained on."""
    files = sorted((folder / "unet").glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder}: no UNet weights here; a backbone folder holds unet/*.safetensors")
    lines = "".join(f"{file.name} {sha256_file(file)}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def load_pipeline(
    folder: Path, device: str = "cpu", dtype: str = "float32", lora: Path | None = None
) -> Pipeline:
    """Load a backbone folder onto a device (a value of runtime.device), optionally with a LoRA folder at weight 1.

    The pipeline comes in eval mode with every parameter frozen, no safety checker or watermark and no progress
    bar. Only safetensors are read, and nothing is downloaded. A VAE that overflows in float16 and declares it
    (`force_upcast`, as SDXL's does) stays in float32.
    Raises UserError when the folder is missing, corrupt or of another kind, and when the LoRA was trained on
    a different backbone.
    """
    kind = read_kind(folder)
    _silence_loading()
    import diffusers

    try:
        with _unlogged():  # diffusers logs what is missing; our error reports it
            pipe = getattr(diffusers, kind).from_pretrained(
                folder, dtype=torch_dtype(dtype), use_safetensors=True, local_files_only=True, **KINDS[kind]
            )
        _check_whole(pipe)
    except Exception as error:  # safetensors, json, transformers and diffusers each raise their own kind
        raise UserError(f"{folder}: this backbone cannot be opened ({_first_line(error)})") from error
    pipe.set_progress_bar_config(disable=True)
    pipe.to(pick_device(device))
    for part in (pipe.unet, pipe.vae, *text_encoders(pipe)):
        part.eval().requires_grad_(False)
    if pipe.vae.dtype == torch.float16 and pipe.vae.config.force_upcast:
        pipe.vae.float()
    if pipe.device.type == "cuda":
        pipe.unet.to(memory_format=torch.channels_last)
        pipe.vae.to(memory_format=torch.channels_last)
    if lora is not None:
        _put_lora(pipe, folder, lora)
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


def _check_whole(pipe: Pipeline) -> None:
    """Raise ValueError if a weights file lacks a tensor: diffusers only warns and leaves the parameter empty."""
    for part in (pipe.unet, pipe.vae, *text_encoders(pipe)):
        lacking = [name for name, value in part.named_parameters() if value.is_meta]
        if lacking:
            raise ValueError(
                f"{type(part).__name__}'s weights lack {lacking[0]}, {len(lacking)} tensors in total"
            )


def text_encoders(pipe: Pipeline) -> list[torch.nn.Module]:
    """The backbone's text encoders: one, or SDXL's two."""
    found = (pipe.components.get(name) for name in ("text_encoder", "text_encoder_2"))
    return [encoder for encoder in found if encoder is not None]


def _silence_loading() -> None:
    """Keep the libraries' messages and progress bars off stderr, which is for our progress and one error line."""
    import transformers

    transformers.utils.logging.set_verbosity_error()  # before diffusers makes it warn about torchvision
    transformers.utils.logging.disable_progress_bar()
    import diffusers

    diffusers.utils.logging.disable_progress_bar()


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
    index = folder / "model_index.json"
    try:
        kind = json.loads(index.read_text())["_class_name"]
    except FileNotFoundError:
        raise UserError(
            f"{folder}: no backbone here (no model_index.json); `dvc pull` downloads it, `dvc repro` produces it"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{index}: not a diffusers pipeline index ({_first_line(error)})") from error
    if kind not in KINDS:
        raise UserError(f"{folder}: a {kind} cannot be used as a backbone; allowed: {', '.join(KINDS)}")
    return kind


def _put_lora(pipe: Pipeline, folder: Path, lora: Path) -> None:
    """Load a LoRA folder written by selma/lora, after checking that it belongs to this backbone."""
    card, weights = lora / "lora.json", lora / "pytorch_lora_weights.safetensors"
    for file in (card, weights):
        if not file.is_file():
            raise UserError(f"{file}: file not found; a LoRA folder holds lora.json and {weights.name}")
    provenance = read_json(card)
    trained_on = provenance.get("backbone") if isinstance(provenance, dict) else None
    if trained_on != fingerprint(folder):
        raise UserError(
            f"{lora}: this LoRA was trained on a different backbone than {folder}; train it again on this one"
        )
    try:
        with _unlogged():  # diffusers warns about a LoRA without text encoder keys; ours have none
            pipe.load_lora_weights(lora, weight_name=weights.name, local_files_only=True)
    except Exception as error:
        raise UserError(f"{weights}: this LoRA cannot be loaded ({_first_line(error)})") from error
    # In float32 the sum W + dW is exact enough, and fusing saves two matmuls per layer; in half
    # precision the sum would round the small dW away, so there the adapter stays separate from W.
    if pipe.unet.dtype == torch.float32:
        pipe.fuse_lora(components=["unet"])
        pipe.unload_lora_weights()
    pipe.unet.eval().requires_grad_(False)


def _first_line(error: Exception) -> str:
    """The first line of an exception's message, or its type when it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
