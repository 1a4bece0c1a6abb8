"""What LoRA files call a layer and its factors: kohya's names, diffusers' of today and before, peft's.

lora_unet_down_blocks_1_attentions_0_..._to_q.lora_down.weight      kohya; of SDXL lora_unet_input_blocks_4_1_...
unet.down_blocks.1.attentions.0.....to_q.lora_A.weight              diffusers
unet.down_blocks.1.attentions.0.....processor.to_q_lora.down.weight diffusers until 0.20
base_model.model.down_blocks.1.attentions.0.....to_q.lora_A.weight  peft, of a UNet alone
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from selma.ground.adapters import TEXT_ENCODERS, part_of
from selma.ground.errors import UserError
from selma.lora import kohya

# How the keys end, and which part of the LoRA it is: A is the factor that reads the layer's input.
_ENDS = (
    (
        re.compile(
            r"\.lora_A(\.default)?\.weight|[._]lora(_linear_layer)?\.down\.weight|\.lora_down\.weight"
        ),
        "A",
    ),
    (re.compile(r"\.lora_B(\.default)?\.weight|[._]lora(_linear_layer)?\.up\.weight|\.lora_up\.weight"), "B"),
    (re.compile(r"\.alpha"), "alpha"),
)
_OLD = re.compile(r"\.processor\.(to_q|to_k|to_v|to_out)")


def split(key: str) -> tuple[str, str] | None:
    """The name of a layer in a tensor's key, and "A", "B" or "alpha"; None for a tensor that is no part of a LoRA."""
    for pattern, part in _ENDS:
        for match in pattern.finditer(key):
            if match.end() == len(key) and match.start():
                return key[: match.start()], part
    return None


def by_name(layers: Iterable[str], unet: Mapping[str, Any]) -> dict[str, str]:
    """Whatever name a file may have for one of `layers` (selma/ground/adapters.py) -> the layer.

    `unet` is the UNet's diffusers config.
    """
    return {name: layer for layer in layers for name in _names(layer, unet)}


def _names(layer: str, unet: Mapping[str, Any]) -> Iterator[str]:
    part, own = part_of(layer)
    if part in TEXT_ENCODERS:
        yield layer
        yield layer.replace(".text_model.", ".", 1)
        yield kohya.layer_name(layer, unet)
        return
    yield from (layer, f"{part}.{layer}", f"base_model.model.{layer}")
    yield "lora_unet_" + own.replace(".", "_")  # which ComfyUI and diffusers read for SDXL, too
    with suppress(UserError):  # a layer outside the blocks has no name of the original UNet's
        yield kohya.layer_name(layer, unet)


def plain(name: str) -> str:
    """A layer's name as diffusers has it today: to_q for processor.to_q, to_out.0 for processor.to_out."""
    return _OLD.sub(lambda match: f".{match[1]}" + (".0" if match[1] == "to_out" else ""), name)


def targets(adapted: Iterable[str], layers: Iterable[str]) -> list[str]:
    """The shortest ends of names, as `targets` of lora.json has them, that name the adapted ones of `layers` alone.

    All are names in one part of a pipeline: to_q where every to_q is adapted, else the whole name.
    """
    adapted = list(adapted)
    others = set(layers) - set(adapted)
    found = {}
    for name in adapted:
        steps = name.split(".")
        ends = [
            ".".join(steps[-length:]) for length in range(1, len(steps) + 1) if not steps[-length].isdigit()
        ]
        found[
            next((end for end in ends if not any(f".{other}".endswith(f".{end}") for other in others)), name)
        ] = None
    return sorted(found)
