"""LoRA folders, as the stages hand them on: a file of factors and lora.json, checked against each other.

A layer of the UNet goes by its own name, one of a text encoder by that name after its encoder's, as in the file:
`text_encoder.text_model.encoder.layers.0.self_attn.q_proj`; one of a multimodal backbone's language model likewise.

Everything in the file must be understood: a tensor that is skipped (DoRA's magnitudes, a bias) or a setting that
another loader would apply (use_rslora, alpha_pattern) would make another model of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict  # pydantic takes typing's own from Python 3.12 on

from selma.ground.errors import UserError, first_line
from selma.ground.files import read_record
from selma.ground.schema import Count, Id, Index, Texts, record

if TYPE_CHECKING:
    import torch

WEIGHTS, CARD = "pytorch_lora_weights.safetensors", "lora.json"
MIXED = "mixture.json"  # in a folder that is no LoRA but a mixture of several (mixtures.py)
PRECISIONS = ("float16", "bfloat16", "float32")
METADATA = "lora_adapter_metadata"  # in the file's header: what diffusers takes rank, alpha and targets from

UNET, TEXT_ENCODERS = "unet", ("text_encoder", "text_encoder_2")  # a pipeline's parts that a LoRA may adapt
LANGUAGE = "language_model"  # a multimodal backbone's

_KEY = re.compile(
    rf"(?P<of>{UNET}|{LANGUAGE}|{'|'.join(TEXT_ENCODERS)})\.(?P<layer>[A-Za-z0-9_.]+)\.lora_(?P<part>[AB])\.weight"
)


def layer_of(part: str, own: str) -> str:
    """The name here of a layer that goes by `own` in its part; in files, CLIPTextModel's stand under text_model."""
    if part == LANGUAGE:
        return f"{LANGUAGE}.{own}"
    return own if part == UNET else f"{part}.text_model.{own.removeprefix('text_model.')}"


def part_of(layer: str) -> tuple[str, str]:
    """The pipeline's part that a layer is of, unet, a text encoder or the language model, and its name in it."""
    part, _, own = layer.partition(".")
    return (part, own) if part in (*TEXT_ENCODERS, LANGUAGE) else (UNET, layer)


@record
class Card(TypedDict):
    """What lora.json must say, and what it may say that is read again; the rest (data, steps, seed) is for people."""

    rank: Count
    alpha: Annotated[float, Field(gt=0, le=1e30)]  # a kohya file keeps it in float32
    targets: Annotated[Texts, Field(min_length=1)]
    backbone: str
    text_targets: NotRequired[
        Annotated[Texts, Field(min_length=1)]
    ]  # where text encoders are adapted: theirs,
    text_backbone: NotRequired[str]  # and the fingerprint of these encoders
    name: NotRequired[str]
    operator: NotRequired[str]
    experts: NotRequired[list[Id]]
    images: NotRequired[Index]  # 0: a policy that never got better than what it started from


@dataclass(frozen=True)
class Adapter:
    """A folder's contents: layer -> (A, B) in fp32, and lora.json."""

    factors: dict[str, tuple[torch.Tensor, torch.Tensor]]
    card: Card


def read_adapter(folder: Path) -> Adapter:
    """Read a LoRA folder: factors A [rank, in] and B [out, rank], or [rank, in, h, w] and [out, rank, 1, 1].

    Raises UserError when a file is missing or corrupt, when it holds anything but finite factors of the UNet's and text
    encoders' layers in one of PRECISIONS, and when they do not fit what lora.json says.
    """
    weights, card = folder / WEIGHTS, folder / CARD
    if (folder / MIXED).is_file():
        raise UserError(
            f"{folder}: is a mixture of experts with gates, which is no LoRA and no LoRA file can hold"
        )
    for file in (weights, card):
        if not file.is_file():
            raise UserError(f"{file}: file not found; a LoRA folder holds {WEIGHTS} and {CARD}")
    said: Card = read_record(card, Card)
    state, metadata = open_weights(weights, "LoRA")
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in sorted(state.items()):
        match = _KEY.fullmatch(key)
        if match is None:
            raise UserError(
                f"{weights}: holds {key}; allowed: unet.<layer>.lora_A.weight and lora_B.weight, also of "
                f"{', '.join(TEXT_ENCODERS)} and {LANGUAGE} (no DoRA, LoHa, LoKr or biases)"
            )
        parts.setdefault(layer_of(match["of"], match["layer"]), {})[match["part"]] = tensor
    if not parts:
        raise UserError(f"{weights}: no LoRA factors in this file")
    adapted = sorted({part_of(layer)[0] for layer in parts})
    if "text_targets" in said and not set(adapted) & set(TEXT_ENCODERS):
        raise UserError(f"{card}: has text_targets, and {WEIGHTS} no layer of a text encoder")
    _check_metadata(metadata, said, adapted, weights)
    factors = {layer: _factors(layer, found, said, weights) for layer, found in parts.items()}
    return Adapter(factors, said)


def open_weights(file: Path, what: str) -> tuple[dict[str, torch.Tensor], Mapping[str, str]]:
    """A safetensors file's tensors by name, and its metadata; raises UserError, saying `what` cannot be read."""
    from safetensors import safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
    except Exception as error:  # safetensors raises its own kind
        raise UserError(f"{file}: this {what} cannot be read ({first_line(error)})") from error


def targets_of(said: Mapping[str, Any], part: str) -> list[str]:
    """The targets that a card names for one part of the pipeline."""
    return list(said["targets"] if part in (UNET, LANGUAGE) else said.get("text_targets", []))


def metadata_of(said: Mapping[str, Any], parts: Sequence[str]) -> dict[str, Any]:
    """What diffusers takes the adapters of a pipeline's parts from, as a LoRA's card says."""
    found: dict[str, Any] = {}
    for part in parts:
        found |= {f"{part}.r": said["rank"], f"{part}.lora_alpha": said["alpha"]}
        found[f"{part}.target_modules"] = sorted(targets_of(said, part))
    return found


def _check_metadata(metadata: Mapping[str, str], said: Card, parts: Sequence[str], file: Path) -> None:
    """Raise UserError where diffusers, which reads the file's own metadata, would open another LoRA than we do."""
    if METADATA not in metadata:
        if said["alpha"] != said["rank"]:
            raise UserError(
                f"{file}: has no {METADATA}, so its alpha is its rank ({said['rank']}) for other loaders, "
                f"and {said['alpha']} in {CARD}; they must be the same"
            )
        return
    try:
        found = json.loads(metadata[METADATA])
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{file}: its {METADATA} is not a JSON mapping")
    wanted = metadata_of(said, parts)
    for key, value in found.items():
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            value = sorted(value)
        if (key in wanted and value != wanted[key]) or (key not in wanted and value):
            allowed = f"{CARD} says {wanted[key]}" if key in wanted else "no such setting is supported"
            raise UserError(f"{file}: its {METADATA} says {key} is {repr(value)[:80]}; {allowed}")
    if missing := wanted.keys() - found.keys():
        raise UserError(f"{file}: its {METADATA} lacks {', '.join(sorted(missing))}")


def _factors(
    layer: str, found: Mapping[str, torch.Tensor], said: Card, file: Path
) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B of one layer in fp32; raises UserError unless both are there, of one kind, of the card's rank, finite."""
    for part in "AB":
        if part not in found:
            raise UserError(f"{file}: {layer} has no lora_{part}; both factors are needed")
        precision = str(found[part].dtype).removeprefix("torch.")
        if precision not in PRECISIONS:
            raise UserError(f"{file}: {layer} is in {precision}; allowed: {', '.join(PRECISIONS)}")
    a, b = found["A"], found["B"]
    linear = a.ndim == b.ndim == 2
    convolution = a.ndim == b.ndim == 4 and b.shape[2:] == (1, 1)
    if not (linear or convolution) or not (a.numel() and b.numel()):
        raise UserError(
            f"{file}: {layer} has factors of the shapes {tuple(a.shape)} and {tuple(b.shape)}; allowed: "
            "(rank, in) and (out, rank), or (rank, in, h, w) and (out, rank, 1, 1)"
        )
    if a.shape[0] != said["rank"] or b.shape[1] != said["rank"]:
        raise UserError(f"{file}: {layer} does not hold two factors of rank {said['rank']}, as {CARD} says")
    if not (a.isfinite().all() and b.isfinite().all()):
        raise UserError(f"{file}: {layer} holds values that are not finite; train this expert again")
    part, own = part_of(layer)
    if not any(f".{own}".endswith(f".{target}") for target in targets_of(said, part)):
        raise UserError(f"{file}: {layer} is named by none of the targets in {CARD}")
    return a.float(), b.float()
