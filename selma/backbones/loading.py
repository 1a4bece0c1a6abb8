"""Text-to-image backbones: a folder in diffusers' format becomes a pipeline ready to draw or to train on."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from selma.backbones.bank import add_bank, add_gates
from selma.backbones.cpu import speed_up
from selma.backbones.multimodal import Multimodal, load_multimodal
from selma.backbones.parts import KINDS, check_files, check_parts, check_whole, read_kind, text_encoders
from selma.ground.adapters import TEXT_ENCODERS, UNET, WEIGHTS, Adapter, layer_of, part_of, read_adapter
from selma.ground.backbones import is_backbone, is_multimodal
from selma.ground.errors import UserError, first_line
from selma.ground.files import sha256_file
from selma.ground.mixtures import Mixture, is_mixture, read_mixture
from selma.runtime import timing
from selma.runtime.devices import enough_memory, pick_device, torch_dtype

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    Pipeline = StableDiffusionPipeline | StableDiffusionXLPipeline


def fingerprint(folder: Path) -> str:
    """sha256 over the UNet's weight files, or a multimodal model's, names and bytes: the identity of what a LoRA was
    trained on."""
    files = sorted((folder if is_multimodal(folder) else folder / UNET).glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder}: no UNet weights here; a backbone folder holds unet/*.safetensors")
    return _digest(files)


def text_fingerprint(folder: Path) -> str:
    """The same of the text encoders: what a LoRA that adapts them was trained on, too."""
    return _digest([file for part in TEXT_ENCODERS for file in sorted((folder / part).glob("*.safetensors"))])


def _digest(files: Sequence[Path]) -> str:
    lines = "".join(f"{file.name} {sha256_file(file)}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def check_trained_on(lora: Path, card: Mapping[str, Any], folder: Path) -> None:
    """Raise UserError unless the LoRA or mixture in a folder, by its card, was trained on the backbone in `folder`."""
    same = card["backbone"] == fingerprint(folder)
    if not same or card.get("text_backbone") not in (None, text_fingerprint(folder)):
        what, parts = (
            ("mixture" if is_mixture(lora) else "LoRA"),
            "" if not same else ", with other text encoders",
        )
        raise UserError(
            f"{lora}: this {what} was trained on a different backbone than {folder}{parts}; train it again on this one"
        )


@timing.phase("loading")
def load_backbone(
    folder: Path, device: str = "cpu", dtype: str = "float32", lora: Path | None = None
) -> Pipeline | Multimodal:
    """A backbone of either kind, diffusion or multimodal, as `load_pipeline` loads it."""
    if not is_multimodal(folder):
        return load_pipeline(folder, device, dtype, lora)
    if lora is not None:
        if is_mixture(lora):
            raise UserError(
                f"{lora}: a mixture of experts is for diffusion backbones; {folder} is a multimodal model"
            )
        check_trained_on(lora, read_adapter(lora).card, folder)
    return load_multimodal(folder, device, dtype, lora)


@timing.phase("loading")
def load_pipeline(
    folder: Path, device: str = "cpu", dtype: str = "float32", lora: Path | None = None
) -> Pipeline:
    """Load a diffusion backbone's folder onto a device (a value of runtime.device), optionally with a LoRA folder at
    weight 1.

    `lora` may be a mixture's folder (selma/ground/mixtures.py), too: its experts weigh as its gates say.

    The pipeline comes in eval mode with every parameter frozen, no safety checker or watermark and no progress
    bar. Only safetensors are read, and nothing is downloaded. A VAE that overflows in float16 and declares it
    (`force_upcast`, as SDXL's does) stays in float32.
    Raises UserError when the folder is missing, corrupt, of another kind or of parts that do not fit each other, and
    when the LoRA is broken or was trained on a different backbone.
    """
    if is_multimodal(folder):
        raise UserError(f"{folder}: is a multimodal model; what is asked for here needs a diffusion backbone")
    kind = read_kind(folder)
    check_files(folder, kind)
    adapter = _read_lora(folder, lora) if lora else None
    pipeline = _pipeline(kind)
    try:
        with _unlogged():  # diffusers logs what is missing; our error reports it
            pipe = pipeline.from_pretrained(
                folder, dtype=torch_dtype(dtype), use_safetensors=True, local_files_only=True, **KINDS[kind]
            )
        check_whole(pipe, folder)
        check_parts(pipe)
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
        put = _put_mixture if isinstance(adapter, Mixture) else _put_lora
        put(pipe, adapter, lora)
    speed_up(pipe.unet, pipe.vae, *text_encoders(pipe))
    return pipe


def open_model(
    weights: Path, backbone: Path, device: str = "cpu", dtype: str = "float32"
) -> Pipeline | Multimodal:
    """The model in a row of `models`: a backbone folder, or a LoRA folder applied to `backbone`."""
    if is_backbone(weights):
        return load_backbone(weights, device, dtype)
    return load_backbone(backbone, device, dtype, lora=weights)


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


def _read_lora(folder: Path, lora: Path) -> Adapter | Mixture:
    """A LoRA's or a mixture's folder, checked for belonging to the backbone in `folder`."""
    mixed = is_mixture(lora)
    adapter = read_mixture(lora) if mixed else read_adapter(lora)
    check_trained_on(lora, adapter.card, folder)
    return adapter


def _put_mixture(pipe: Pipeline, mixture: Mixture, folder: Path) -> None:
    """Put a mixture's experts and gates beside its backbone's layers."""
    try:
        add_bank(pipe.unet, mixture.factors, mixture.card["ranks"], mixture.card["scalings"])
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    add_gates(pipe.unet, mixture.gates)


def _put_lora(pipe: Pipeline, adapter: Adapter, lora: Path) -> None:
    """Put the LoRA of a folder on its backbone, at weight 1."""
    weights = lora / WEIGHTS
    layers = _adaptable(pipe)
    for name, (a, b) in adapter.factors.items():
        weight, wanted = getattr(layers.get(name), "weight", None), (b.shape[0], *a.shape[1:])
        if weight is None or tuple(weight.shape) != wanted:
            raise UserError(f"{weights}: {name} is of shape {wanted}; this backbone has no such layer")
    try:
        with _unlogged():  # diffusers warns about a LoRA without text encoder keys; most of ours have none
            pipe.load_lora_weights(lora, weight_name=weights.name, local_files_only=True)
    except Exception as error:
        raise UserError(f"{weights}: this LoRA cannot be loaded ({first_line(error)})") from error
    # In float32 the sum W + dW is exact enough, and fusing saves two matmuls per layer; in half
    # precision the sum would round the small dW away, so there the adapter stays separate from W.
    if pipe.unet.dtype == torch.float32:
        pipe.fuse_lora(components=sorted({part_of(name)[0] for name in adapter.factors}))
        pipe.unload_lora_weights()
    for part in (pipe.unet, *text_encoders(pipe)):
        part.eval().requires_grad_(False)


def _adaptable(pipe: Pipeline) -> dict[str, torch.nn.Module]:
    """The layers that a LoRA may adapt, by the names that selma/ground/adapters.py gives them."""
    found = dict(pipe.unet.named_modules())
    for part, encoder in zip(TEXT_ENCODERS, text_encoders(pipe), strict=False):
        for name, layer in encoder.named_modules():
            found[layer_of(part, name)] = layer
    return found
