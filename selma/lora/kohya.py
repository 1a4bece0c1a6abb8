"""A LoRA in kohya's layout, which ComfyUI and A1111 read: the names of its tensors and its metadata.

A file holds, for every adapted layer, `<name>.lora_down.weight` (A), `<name>.lora_up.weight` (B) and
`<name>.alpha`; a reader adds alpha / rank * up @ down to the layer. Names come in two styles, which
kohya's trainer writes and both tools read:

    SD 1.x, 2.x   diffusers' names:           lora_unet_down_blocks_1_attentions_0_..._attn1_to_q
    SDXL          the original UNet's (SGM):  lora_unet_input_blocks_4_1_..._attn1_to_q

The original UNet numbers a side's layers and resamplers in one sequence. With n layers per block, attention `a`
of block `b` is input_blocks.{1 + b(n+1) + a}.1 on the way down, where 0 is the first convolution and every
block ends in a downsampler, and output_blocks.{b(n+1) + a}.1 on the way up, where a block has n+1 layers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from selma.ground.errors import UserError
from selma.lora.files import LoraWeights

_ATTENTION = re.compile(r"(?:(down|up)_blocks\.(\d+)|mid_block)\.attentions\.(\d+)\.(.+)")


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
    key = (tuple(unet["block_out_channels"]), unet["cross_attention_dim"], prediction_type == "v_prediction")
    return FAMILIES.get(key)


def layer_name(module: str, unet: Mapping[str, Any]) -> str:
    """The name of a UNet layer, given diffusers' dotted name for it and the UNet's diffusers config.

    Raises UserError for a layer outside the attention blocks: the tools do not read all of those.
    """
    match = _ATTENTION.fullmatch(module)
    if match is None:
        raise UserError(
            f"{module}: is outside the UNet's attention blocks, and a kohya file holds only those; "
            "export it with --format diffusers"
        )
    side, block, layer, rest = match.groups()
    path = module
    if unet.get("addition_embed_type") == "text_time":  # SDXL
        in_row = int(block or 0) * (unet["layers_per_block"] + 1) + int(layer)
        sides = {"down": f"input_blocks.{1 + in_row}", "up": f"output_blocks.{in_row}", None: "middle_block"}
        path = f"{sides[side]}.1.{rest}"
    return "lora_unet_" + path.replace(".", "_")


def tensors(lora: LoraWeights, unet: Mapping[str, Any], dtype: str) -> dict[str, torch.Tensor]:
    """The file's tensors: down [rank, in] and up [out, rank] in `dtype` (float16 or float32), alpha a
    scalar in fp32.

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
    pixels = unet["sample_size"] * 8  # every family's VAE divides by 8
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
