"""A LoRA file of any tool becomes factors of a backbone's layers, of one rank and one scale.

A file may give each layer a rank and an alpha of its own (kohya's conv_dim, alpha_pattern). Factors of a lower rank are
filled up with zeros, and another scale is multiplied into B: the updates stay the same.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, sqrt
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from selma.foreign.backbone import Backbone
from selma.foreign.names import by_name, plain, split
from selma.ground.adapters import METADATA, PRECISIONS, TEXT_ENCODERS, UNET, WEIGHTS, open_weights, part_of
from selma.ground.errors import UserError
from selma.ground.files import read_json

PEFT, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
_ALLOWED = (
    "allowed: a LoRA's factors and alphas, by kohya's, diffusers' or peft's names "
    "(no DoRA, LoHa, LoKr, LoCon with lora_mid or biases)"
)
# Settings of peft that change what the factors mean.
_OTHER = ("use_dora", "lora_bias", "fan_in_fan_out", "modules_to_save", "trainable_token_indices")


@dataclass(frozen=True)
class Read:
    """Layer -> (A, B) in fp32; the update is scaling * B @ A. `dtype` holds them without loss."""

    factors: dict[str, tuple[torch.Tensor, torch.Tensor]]
    scaling: float
    dtype: torch.dtype


def find(path: Path) -> Path:
    """The weights of a LoRA: the file itself, or the one in a folder; raises UserError otherwise."""
    if path.is_file():
        if path.suffix != ".safetensors":
            raise UserError(f"{path}: is no .safetensors file; pickles (.pt, .ckpt, .bin) are never loaded")
        return path
    if not path.is_dir():
        raise UserError(
            f"{path}: file or folder not found; a LoRA is a .safetensors file, or a folder with one"
        )
    for name in (WEIGHTS, PEFT):
        if (path / name).is_file():
            return path / name
    found = sorted(path.glob("*.safetensors"))
    if len(found) != 1:
        held = ", ".join(file.name for file in found) or "no .safetensors file"
        raise UserError(f"{path}: holds {held}; name the file of the LoRA")
    return found[0]


def read(file: Path, backbone: Backbone) -> Read:
    """The LoRA in a file, as factors of the backbone's layers.

    Raises UserError, naming the file, for a tensor that is no part of a LoRA, a layer that the backbone lacks, a factor
    of another shape or that is missing, values that are not finite, and settings that are not understood.
    """
    tensors, metadata = open_weights(file, "LoRA")
    said = _settings(file, metadata)
    names = by_name(backbone.shapes, backbone.unet)
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key in sorted(tensors):
        found = split(key)
        if found is None:
            raise UserError(f"{file}: holds {key}; {_ALLOWED}")
        name, part = found
        layer = names.get(plain(name))
        if layer is None or part in parts.get(layer, {}):
            why = "no such layer" if layer is None else "that layer once"
            raise UserError(f"{file}: holds {key}, and {backbone.folder} has {why}{backbone.other(tensors)}")
        parts.setdefault(layer, {})[part] = tensors[key]
    if not any(part_of(layer)[0] == UNET for layer in parts):
        raise UserError(f"{file}: adapts no layer of the UNet; {_ALLOWED}")
    factors, scales = {}, {}
    for layer, found in parts.items():
        factors[layer] = _factors(file, layer, found, backbone, tensors)
        scales[layer] = _scale(file, layer, factors[layer][0].shape[0], found.get("alpha"), said)
    return _alike(factors, scales)


# A layer ---------------------------------------------------------------------------------------


def _factors(
    file: Path,
    layer: str,
    found: Mapping[str, torch.Tensor],
    backbone: Backbone,
    tensors: Mapping[str, torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B as the layer needs them: a 1 x 1 convolution's serve a linear layer, and the other way round."""
    wanted = backbone.shapes[layer]
    for part in "AB":
        if part not in found:
            raise UserError(f"{file}: {layer} has no factor {part}; both are needed")
        if str(found[part].dtype).removeprefix("torch.") not in PRECISIONS:
            raise UserError(f"{file}: {layer} is in {found[part].dtype}; allowed: {', '.join(PRECISIONS)}")
        if not found[part].isfinite().all():
            raise UserError(f"{file}: {layer} holds values that are not finite")
    a, b = _as_needed(found["A"], len(wanted)), _as_needed(found["B"], len(wanted))
    fits = a.ndim == b.ndim == len(wanted) and a.shape[0] == b.shape[1] and a.shape[0] > 0
    if not fits or (b.shape[0], *a.shape[1:]) != wanted or any(size != 1 for size in b.shape[2:]):
        raise UserError(
            f"{file}: the factors of {layer} have the shapes {tuple(found['A'].shape)} and {tuple(found['B'].shape)}, "
            f"and the layer of {backbone.folder} {wanted}{backbone.other(tensors)}"
        )
    return a, b


def _as_needed(factor: torch.Tensor, axes: int) -> torch.Tensor:
    if axes == 2 and factor.ndim == 4 and factor.shape[2:] == (1, 1):
        return factor.flatten(1)
    if axes == 4 and factor.ndim == 2:
        return factor[:, :, None, None]
    return factor


def _scale(file: Path, layer: str, rank: int, alpha: torch.Tensor | None, said: Mapping[str, Any]) -> float:
    """alpha / rank of a layer: by its own alpha, else by the file's settings; a file without either means 1."""
    part, own = part_of(layer)
    if alpha is not None:
        if alpha.numel() != 1:
            raise UserError(
                f"{file}: the alpha of {layer} is no number, but of the shape {tuple(alpha.shape)}"
            )
        value = float(alpha)
    else:
        settings = said.get(part, {})
        value = _pattern(settings.get("alpha_pattern"), own, settings.get("lora_alpha", rank))
        if settings.get("use_rslora"):
            value *= sqrt(rank)
    if not (isinstance(value, int | float) and isfinite(value) and value > 0):
        raise UserError(f"{file}: the alpha of {layer} is {value!r}; it must be a positive number")
    return value / rank


def _pattern(pattern: Any, layer: str, default: Any) -> Any:
    """A layer's value in peft's rank_pattern or alpha_pattern."""
    if not isinstance(pattern, dict) or not pattern:
        return default
    from peft.utils.other import get_pattern_key

    return pattern.get(get_pattern_key(pattern.keys(), layer), default)


def _alike(factors: dict[str, tuple[torch.Tensor, torch.Tensor]], scales: Mapping[str, float]) -> Read:
    rank = max(a.shape[0] for a, _ in factors.values())
    scaling = Counter(scales.values()).most_common(1)[0][0]
    kept = {factor.dtype for pair in factors.values() for factor in pair}
    dtype = kept.pop() if len(kept) == 1 and set(scales.values()) == {scaling} else torch.float32
    made = {}
    for layer, (a, b) in factors.items():
        a, b = a.float(), b.float()
        if scales[layer] != scaling:
            b = b * (scales[layer] / scaling)
        missing = rank - a.shape[0]
        rest = (0, 0) * (a.ndim - 2)
        made[layer] = (
            functional.pad(a, (*rest, 0, 0, 0, missing)).contiguous(),
            functional.pad(b, (*rest, 0, missing, 0, 0)).contiguous(),
        )
    return Read(made, scaling, dtype)


# What the file says beside its tensors ---------------------------------------------------------


def _settings(file: Path, metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """peft's settings by part of the pipeline: of diffusers' metadata, or of adapter_config.json beside a peft file."""
    found: dict[str, dict[str, Any]] = {}
    if METADATA in metadata:
        try:
            given = json.loads(metadata[METADATA])
        except (ValueError, RecursionError):
            given = None
        if not isinstance(given, dict):
            raise UserError(f"{file}: its {METADATA} is not a JSON mapping")
        for key, value in given.items():
            part, _, name = key.partition(".")
            if part in (UNET, *TEXT_ENCODERS):
                found.setdefault(part, {})[name] = value
    elif file.name == PEFT and (file.parent / PEFT_CONFIG).is_file():
        given = read_json(file.parent / PEFT_CONFIG)
        if not isinstance(given, dict):
            raise UserError(f"{file.parent / PEFT_CONFIG}: is not a JSON mapping")
        found[UNET] = given
    for part, settings in found.items():
        for name in _OTHER:
            if settings.get(name):
                raise UserError(
                    f"{file}: says {part}.{name} is {str(settings[name])[:40]}, which is not supported"
                )
    return found
