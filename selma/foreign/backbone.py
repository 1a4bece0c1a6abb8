"""What a LoRA file is checked against: the layers of a backbone and their shapes, without its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from selma.foreign.names import plain, split
from selma.ground.adapters import TEXT_ENCODERS, layer_of
from selma.ground.files import read_record

# The width of the texts that a UNet reads tells its family.
_FAMILIES = {768: "SD 1.x", 1024: "SD 2.x", 2048: "SDXL"}
_READS_TEXT = ("attn2.to_k", "attn2_to_k", "attn2.to_v", "attn2_to_v")
_XL_ALONE = ("lora_te2_", "text_encoder_2.", "lora_unet_input_blocks_", "lora_unet_output_blocks_")


@dataclass(frozen=True)
class Backbone:
    """`shapes` are those of the weights of the layers that a LoRA may adapt, by name (selma/ground/adapters.py):
    [out, in] or, of a convolution, [out, in, h, w]. `unet` is the UNet's diffusers config."""

    folder: Path
    shapes: Mapping[str, tuple[int, ...]]
    unet: Mapping[str, Any]

    def other(self, tensors: Mapping[str, torch.Tensor]) -> str:
        """What a file that does not fit seems to be made for, as the end of a message; empty if that is not known."""
        ours, theirs = self.unet.get("cross_attention_dim"), _text_width(tensors)
        if theirs is None and any(key.startswith(_XL_ALONE) for key in tensors):
            theirs = 2048
        if theirs is None or theirs == ours:
            return ""
        return f"; it is a LoRA for {_family(theirs)}, and the backbone is {_family(ours)}"


def _family(width: Any) -> str:
    return _FAMILIES.get(width, f"a model that reads texts of width {width}")


def _text_width(tensors: Mapping[str, torch.Tensor]) -> int | None:
    """The width of the texts that the file's cross-attention reads."""
    for key, tensor in tensors.items():
        found = split(key)
        if found and found[1] == "A" and plain(found[0]).endswith(_READS_TEXT) and tensor.ndim > 1:
            return tensor.shape[1]
    return None


def open_backbone(folder: Path) -> Backbone:
    """The layers of the backbone in a folder, by its configs."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    config = read_record(folder / "unet/config.json", dict)
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
        shapes = _shapes(unet)
        for part in TEXT_ENCODERS:
            if (folder / part).is_dir():  # a projection, which the second one has, is not adapted
                encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(folder / part))
                shapes |= {layer_of(part, name): shape for name, shape in _shapes(encoder).items()}
    return Backbone(folder, shapes, dict(unet.config))


def _shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(layer.weight.shape)
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d) and getattr(layer, "groups", 1) == 1
    }
