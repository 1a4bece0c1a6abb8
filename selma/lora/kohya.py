"""A LoRA in kohya's layout, which ComfyUI and A1111 read: the names of its tensors and its metadata.

A file holds, for every adapted layer, `<name>.lora_down.weight` (A), `<name>.lora_up.weight` (B) and
`<name>.alpha`; a reader adds alpha / rank * up @ down to the layer. Names come in two styles, which
kohya's trainer writes and both tools read:

    SD 1.x, 2.x   diffusers' names:           lora_unet_down_blocks_1_attentions_0_..._attn1_to_q
    SDXL          the original UNet's (SGM):  lora_unet_input_blocks_4_1_..._attn1_to_q

A text encoder's layers are lora_te_text_model_encoder_layers_0_self_attn_q_proj and so on, SDXL's lora_te1_...
and lora_te2_...

The original UNet numbers a side's layers and resamplers in one sequence. With n layers per block, layer `i` of
block `b` is input_blocks.{1 + b(n+1) + i} on the way down, where 0 is the first convolution and every block ends in
a downsampler, and output_blocks.{b(n+1) + i} on the way up, where a block has n+1 layers. In a layer, .0 is the
ResNet and .1 the attention; an upsampler stands last in the last one of its block. The middle is ResNet, attention,
ResNet: middle_block.{0, 1, 2}.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from selma.ground.adapters import TEXT_ENCODERS, part_of
from selma.ground.errors import UserError
from selma.lora.files import LoraWeights

_LAYER = re.compile(
    r"(?:(down|up)_blocks\.(\d+)|mid_block)\.(attentions|resnets|downsamplers|upsamplers)\.(\d+)\.(.+)"
)
# The original names of a ResNet's layers and of a downsampler's.
_ORIGINAL = {
    "resnets": {
        "conv1": "in_layers.2",
        "conv2": "out_layers.3",
        "time_emb_proj": "emb_layers.1",
        "conv_shortcut": "skip_connection",
    },
    "downsamplers": {"conv": "op"},
}


@dataclass(frozen=True)
class Family:
    """A family of base models, as the metadata of its LoRAs names it."""

    base_version: str  # ss_base_model_version, by which A1111 and others offer a LoRA for a base model
    architecture: str  # modelspec.architecture (Stability AI's ModelSpec 1.0), without its "/lora"
    implementation: str  # modelspec.implementation: the code base whose names the tensors have


_SD = (320, 640, 1280, 1280)
_SGM = "https://github.com/Stability-AI/generative-models"
# By the UNet's channels and the width of its text states, and whether it predicts v.
FAMILIES = {
    (_SD, 768, False): Family("sd_v1", "stable-diffusion-v1", "diffusers"),
    (_SD, 1024, False): Family("sd_v2", "stable-diffusion-v2-512", "diffusers"),
    (_SD, 1024, True): Family("sd_v2_v", "stable-diffusion-v2-768-v", "diffusers"),
    (_SD[:3], 2048, False): Family("sdxl_base_v1-0", "stable-diffusion-xl-v1-base", _SGM),
}


def family(unet: Mapping[str, Any], prediction_type: str) -> Family | None:
    """The family of a UNet by its diffusers config, or None: then ComfyUI and A1111 cannot open the base."""
    channels = unet.get("block_out_channels")
    channels = tuple(channels) if isinstance(channels, list | tuple) else None
    own = (channels, unet.get("cross_attention_dim"), prediction_type == "v_prediction")
    return next((found for known, found in FAMILIES.items() if known == own), None)


def layer_name(module: str, unet: Mapping[str, Any]) -> str:
    """The name of a layer (selma/ground/adapters.py says how layers are named), given the UNet's diffusers config.

    Raises UserError for a layer outside the UNet's blocks: the tools do not read all of those.
    """
    part, own = part_of(module)
    if part in TEXT_ENCODERS:
        number = TEXT_ENCODERS.index(part) + 1
        name = f"lora_te{number}_" if unet.get("addition_embed_type") == "text_time" else "lora_te_"
        return name + own.replace(".", "_")
    match = _LAYER.fullmatch(module)
    if match is None:
        raise UserError(
            f"{module}: is outside the UNet's blocks, and a kohya file holds only what is in them; "
            "export it with --format diffusers"
        )
    if unet.get("addition_embed_type") == "text_time":  # SDXL
        module = _original(*match.groups(), unet=unet)
    return "lora_unet_" + module.replace(".", "_")


def _original(
    side: str | None, block: str | None, kind: str, layer: str, rest: str, unet: Mapping[str, Any]
) -> str:
    """The original UNet's name of a layer, from the parts of diffusers' name for it."""
    number, in_block = int(layer), unet["layers_per_block"]
    row, place = int(block or 0) * (in_block + 1), 0 if kind == "resnets" else 1
    if kind == "downsamplers":
        number, place = in_block, 0
    elif kind == "upsamplers":
        number, place = in_block, 2 if "CrossAttn" in unet["up_block_types"][int(block or 0)] else 1
    first = {
        "down": f"input_blocks.{1 + row + number}.{place}",
        "up": f"output_blocks.{row + number}.{place}",
        None: f"middle_block.{2 * number if kind == 'resnets' else 1}",
    }[side]
    return f"{first}.{_ORIGINAL.get(kind, {}).get(rest, rest)}"


def tensors(lora: LoraWeights, unet: Mapping[str, Any], dtype: str) -> dict[str, torch.Tensor]:
    """The file's tensors: down [rank, in] and up [out, rank] in `dtype` (float16 or float32), alpha a
    scalar in fp32. A convolution's are [rank, in, h, w] and [out, rank, 1, 1].

    Raises UserError for a layer that has no name, and for a factor that `dtype` cannot hold.
    """
    found = {}
    for module, (a, b) in lora.factors.items():
        name = layer_name(module, unet)
        for part, factor in (("lora_down", a), ("lora_up", b)):
            found[f"{name}.{part}.weight"] = factor.to(getattr(torch, dtype)).contiguous()
            if not found[f"{name}.{part}.weight"].isfinite().all():
                raise UserError(
                    f"{module}: holds values too large for {dtype}; export it with --dtype float32"
                )
        found[f"{name}.alpha"] = torch.tensor(lora.scaling * lora.rank)
    return found


def metadata(
    lora: LoraWeights,
    unet: Mapping[str, Any],
    *,
    name: str,
    title: str,
    prediction_type: str,
    licence: str | None,
) -> dict[str, str]:
    """What the file says about itself: kohya's `ss_` keys and, for a base of a known family, ModelSpec's.

    `name` is what A1111 lists the LoRA as. Nothing in it depends on when or where the file is written.
    """
    found = {
        "format": "pt",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(lora.rank),
        "ss_network_alpha": str(float(lora.scaling * lora.rank)),
        "ss_output_name": name,
    }
    known = family(unet, prediction_type)
    if known is None:
        return found
    pixels = unet.get("sample_size", 64) * 8  # every family's VAE divides by 8
    found |= {
        "ss_base_model_version": known.base_version,
        "ss_v2": str(known.base_version.startswith("sd_v2")),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{known.architecture}/lora",
        "modelspec.implementation": known.implementation,
        "modelspec.title": title,
        "modelspec.resolution": f"{pixels}x{pixels}",
        "modelspec.prediction_type": "v" if prediction_type == "v_prediction" else "epsilon",
    }
    return found | ({"modelspec.license": licence} if licence else {})
