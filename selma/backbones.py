"""Text-to-image backbones: a folder in diffusers' format becomes a pipeline ready to draw or to train on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from selma import records
from selma.errors import UserError

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Name in params.yaml -> (class in diffusers, options set over the backbone's own scheduler config).
# Latents have no fixed range, so DDIM must never clip them, whatever the config it inherits says.
SCHEDULERS: dict[str, tuple[str, dict]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "dpm++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
}


def pick_device(name: str) -> str:
    """Resolve "auto" to the best device at hand; a named device that is not there raises UserError."""
    available = ["cpu"]
    if torch.backends.mps.is_available():
        available.append("mps")
    if torch.cuda.is_available():
        available.append("cuda")
    if name == "auto":
        return available[-1]
    if name.split(":")[0] not in available:
        raise UserError(
            f"runtime.device: {name!r} is not on this machine; allowed: auto, {', '.join(available)}"
        )
    return name


def torch_dtype(name: str) -> torch.dtype:
    """Map "float32", "bfloat16" or "float16" to torch's dtype; any other name raises UserError."""
    if name not in DTYPES:
        raise UserError(f"runtime.dtype: {name!r} is unknown; allowed: {', '.join(DTYPES)}")
    return DTYPES[name]


def make_scheduler(name: str, config: dict) -> SchedulerMixin:
    """Build the sampler `name` on a backbone's scheduler config (betas, prediction type, offsets).

    Raises UserError for a name that is not in SCHEDULERS.
    """
    import diffusers

    if name not in SCHEDULERS:
        raise UserError(f"scheduler: {name!r} is unknown; allowed: {', '.join(SCHEDULERS)}")
    class_name, options = SCHEDULERS[name]
    return getattr(diffusers, class_name).from_config(config, **options)


def fingerprint(folder: Path) -> str:
    """sha256 over the UNet's weight files, names and bytes: the identity of what a LoRA was trained on."""
    files = sorted((folder / "unet").glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder}: no UNet weights here; a backbone folder holds unet/*.safetensors")
    lines = "".join(f"{file.name} {records.sha256_file(file)}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def load_pipeline(
    folder: Path, device: str = "cpu", dtype: str = "float32", lora: Path | None = None
) -> StableDiffusionPipeline:
    """Open a backbone folder, and put one LoRA folder on it at weight 1.

    The pipeline comes in eval mode with every parameter frozen, no safety checker (it blacks out training
    images) and no progress bar. Only safetensors are read, and nothing is fetched.
    Raises UserError when the folder is missing, corrupt or of another kind, and when the LoRA was trained on
    another backbone.
    """
    _check_kind(folder)
    _silence_loading()
    from diffusers import StableDiffusionPipeline

    try:
        pipe = StableDiffusionPipeline.from_pretrained(
            folder,
            dtype=torch_dtype(dtype),
            use_safetensors=True,
            local_files_only=True,
            safety_checker=None,
            requires_safety_checker=False,
        )
    except Exception as error:  # safetensors, json, transformers and diffusers each raise their own kind
        raise UserError(f"{folder}: this backbone cannot be opened ({_first_line(error)})") from error
    pipe.set_progress_bar_config(disable=True)
    pipe.to(device)
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.eval().requires_grad_(False)
    if str(device).startswith("cuda"):
        pipe.unet.to(memory_format=torch.channels_last)
        pipe.vae.to(memory_format=torch.channels_last)
    if lora is not None:
        _put_lora(pipe, folder, lora)
    return pipe


def image_size(pipe: StableDiffusionPipeline) -> tuple[int, int]:
    """(width, height) in pixels that the backbone draws by itself."""
    size = pipe.unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return width * pipe.vae_scale_factor, height * pipe.vae_scale_factor


@torch.no_grad()
def encode_texts(pipe: StableDiffusionPipeline, texts: list[str], batch: int = 64) -> torch.Tensor:
    """Encode texts to [n, tokens, channels] on the CPU, in the pipeline's dtype.

    Batches have a fixed size, the last one padded with empty texts, so that shapes are static.
    """
    batch = min(batch, len(texts))
    states = []
    for start in range(0, len(texts), batch):
        part = texts[start : start + batch]
        padded = part + [""] * (batch - len(part))
        states.append(pipe.encode_prompt(padded, pipe.device, 1, False)[0][: len(part)].cpu())
    return torch.cat(states)


def _silence_loading() -> None:
    """Keep the libraries' import notes and loading bars off stderr, which is for progress and one error line."""
    import transformers

    transformers.utils.logging.set_verbosity_error()  # before diffusers makes it warn about torchvision
    transformers.utils.logging.disable_progress_bar()
    import diffusers

    diffusers.utils.logging.disable_progress_bar()


def _check_kind(folder: Path) -> None:
    """Raise UserError unless model_index.json names a kind of pipeline that is supported here."""
    index = folder / "model_index.json"
    try:
        kind = json.loads(index.read_text())["_class_name"]
    except FileNotFoundError:
        raise UserError(f"{folder}: no backbone here (no model_index.json); `dvc pull` brings it") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{index}: not a diffusers pipeline index ({_first_line(error)})") from error
    if kind != "StableDiffusionPipeline":
        raise UserError(f"{folder}: a {kind} cannot be used as a backbone; allowed: StableDiffusionPipeline")


def _put_lora(pipe: StableDiffusionPipeline, folder: Path, lora: Path) -> None:
    """Load a LoRA folder written by selma.lora, after checking that it belongs to this backbone."""
    from diffusers.utils import logging

    card, weights = lora / "lora.json", lora / "pytorch_lora_weights.safetensors"
    for file in (card, weights):
        if not file.is_file():
            raise UserError(f"{file}: no such file; a LoRA folder holds lora.json and {weights.name}")
    provenance = records.read_json(card)
    trained_on = provenance.get("backbone") if isinstance(provenance, dict) else None
    if trained_on != fingerprint(folder):
        raise UserError(
            f"{lora}: this LoRA was trained on another backbone than {folder}; train it again on this one"
        )
    # diffusers warns of a LoRA without text encoder keys, which is what ours are.
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        pipe.load_lora_weights(lora, weight_name=weights.name, local_files_only=True)
    except Exception as error:
        raise UserError(f"{weights}: this LoRA cannot be loaded ({_first_line(error)})") from error
    finally:
        logging.set_verbosity(verbosity)
    # In float32 the weights can take W + dW exactly enough, which saves two matmuls per layer; in half
    # precision the sum would round the small dW away, so there the adapter stays beside W.
    if pipe.unet.dtype == torch.float32:
        pipe.fuse_lora(components=["unet"])
        pipe.unload_lora_weights()
    pipe.unet.eval().requires_grad_(False)


def _first_line(error: Exception) -> str:
    """The first line of an exception's message, or its type when it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
