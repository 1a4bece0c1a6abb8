"""open_clip's ViT-H/14, whose layout HPS v2's published weights have, as transformers' CLIPModel.

The two differ in names, in the two projections (transposed) and in attention: open_clip keeps query, key and
value in one `in_proj`, rows in that order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from transformers import CLIPConfig, CLIPModel

from selma.ground.errors import UserError
from selma.published.layout import check_layout

# open_clip's ViT-H-14: GELU, not CLIP's own quick GELU; head width 80 in the vision tower, 64 in the text's.
VIT_H_14 = {
    "projection_dim": 1024,
    "text_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "hidden_act": "gelu",
        "projection_dim": 1024,
    },
    "vision_config": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
        "hidden_act": "gelu",
        "projection_dim": 1024,
    },
}

_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(ln_1|ln_2|attn|mlp)\.?(.+)")
_WHOLE = {
    "logit_scale": "logit_scale",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
_TRANSPOSED = {"text_projection": "text_projection.weight", "visual.proj": "visual_projection.weight"}
_IN_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def to_transformers(
    state: Mapping[str, torch.Tensor], config: CLIPConfig, where: str
) -> dict[str, torch.Tensor]:
    """The weights of transformers' CLIPModel of `config`; raises UserError, naming `where`, unless all fit."""
    tensors: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        try:
            tensors |= _rename(key, tensor)
        except (IndexError, RuntimeError, ValueError):  # of too few dimensions to be cut or turned
            raise UserError(
                f"{where}: {key} has the shape {tuple(tensor.shape)}; is it the published file?"
            ) from None
    with torch.device("meta"):
        check_layout(tensors, CLIPModel(config).state_dict(), where)
    return tensors


def _rename(key: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """What one of open_clip's tensors becomes; an unknown one keeps its name, which the check then reports."""
    if key in _WHOLE:
        return {_WHOLE[key]: tensor}
    if key in _TRANSPOSED:
        return {_TRANSPOSED[key]: tensor.transpose(0, 1)}
    if match := _BLOCK.fullmatch(key):
        tower = "vision_model" if match[1] else "text_model"
        layer = f"{tower}.encoder.layers.{match[2]}"
        part = f"{match[3]}.{match[4]}"
        if part.startswith("attn.in_proj_"):
            kind = part.removeprefix("attn.in_proj_")
            thirds = zip("qkv", tensor.chunk(3), strict=True)
            return {f"{layer}.self_attn.{name}_proj.{kind}": third for name, third in thirds}
        module, _, kind = part.rpartition(".")
        if module in _IN_BLOCK:
            return {f"{layer}.{_IN_BLOCK[module]}.{kind}": tensor}
    return {key: tensor}
