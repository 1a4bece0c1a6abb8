"""ImageReward's network (Xu et al. 2023, arXiv 2304.05977) and the layout of its published weights.

BLIP's ViT-L/16 gives the image's states, its text encoder reads the prompt with cross-attention on them, and
the first token's state goes through five linear layers without activations.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import nn
from transformers import BlipConfig
from transformers.models.blip.modeling_blip import BlipVisionModel
from transformers.models.blip.modeling_blip_text import BlipTextModel

from selma.published.layout import check_layout

# BLIP-large at 224 pixels with BERT-base; layer norms as in the original code.
BLIP_LARGE = {
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 16,
        "layer_norm_eps": 1e-6,
    },
    "text_config": {
        "vocab_size": 30524,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "encoder_hidden_size": 1024,
    },
}


class Reward(nn.Module):
    """The network: prompt tokens and pixels to one raw score per image."""

    def __init__(self, config: BlipConfig) -> None:
        super().__init__()
        self.vision = BlipVisionModel(config.vision_config)
        self.text = BlipTextModel(config.text_config, add_pooling_layer=False)
        widths = (config.text_config.hidden_size, 1024, 128, 64, 16, 1)
        self.mlp = nn.Sequential(*(nn.Linear(width, after) for width, after in pairwise(widths)))

    def forward(
        self, pixels: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> torch.Tensor:
        """[n, 1] raw scores of pixels [n, 3, side, side] for tokens [n, length]."""
        seen = self.vision(pixel_values=pixels).last_hidden_state
        read = self.text(
            input_ids=input_ids,
            attention_mask=attention_mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device),
        ).last_hidden_state
        return self.mlp(read[:, 0])


# The published layout -------------------------------------------------------------------------

# Kept in the published file, but the reward does not run through them.
_UNUSED = re.compile(r"blip\.(vision_proj|text_proj)\..+|blip\.text_encoder\.embeddings\.position_ids")
_LAYERS = {"0": 0, "2": 1, "4": 2, "6": 3, "7": 4}  # dropouts stand between the first four
_RULES = (
    (r"mlp\.layers\.(\d+)\.(.+)", lambda m: f"mlp.{_LAYERS.get(m[1], m[1])}.{m[2]}"),
    (r"blip\.text_encoder\.(.+)", r"text.\1"),
    (r"blip\.visual_encoder\.cls_token", "vision.embeddings.class_embedding"),
    (r"blip\.visual_encoder\.pos_embed", "vision.embeddings.position_embedding"),
    (r"blip\.visual_encoder\.patch_embed\.proj\.(.+)", r"vision.embeddings.patch_embedding.\1"),
    (r"blip\.visual_encoder\.norm\.(.+)", r"vision.post_layernorm.\1"),
    (r"blip\.visual_encoder\.blocks\.(\d+)\.norm([12])\.(.+)", r"vision.encoder.layers.\1.layer_norm\2.\3"),
    (r"blip\.visual_encoder\.blocks\.(\d+)\.attn\.qkv\.(.+)", r"vision.encoder.layers.\1.self_attn.qkv.\2"),
    (
        r"blip\.visual_encoder\.blocks\.(\d+)\.attn\.proj\.(.+)",
        r"vision.encoder.layers.\1.self_attn.projection.\2",
    ),
    (r"blip\.visual_encoder\.blocks\.(\d+)\.mlp\.(.+)", r"vision.encoder.layers.\1.mlp.\2"),
)


def to_reward(state: Mapping[str, torch.Tensor], config: BlipConfig, where: str) -> dict[str, torch.Tensor]:
    """`Reward`'s weights from the published file's; raises UserError, naming `where`, unless all fit."""
    tensors = {_rename(key): tensor for key, tensor in state.items() if not _UNUSED.fullmatch(key)}
    with torch.device("meta"):
        check_layout(tensors, Reward(config).state_dict(), where)
    return tensors


def _rename(key: str) -> str:
    for pattern, name in _RULES:
        if re.fullmatch(pattern, key):
            return re.sub(pattern, name, key)
    return key
