"""The multimodal embedded backbone's model: a small Janus (arXiv 2410.13848), how it begins and how it is stored."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import (
    GenerationConfig,
    JanusConfig,
    JanusForConditionalGeneration,
    JanusVisionConfig,
    JanusVQVAEConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from selma.shapes.world.render import CANVAS

# Image tokens: bits of each (1,024 codes), and how many there are along a side of an image.
BITS, SIDE = 10, 8
WIDTH = 160  # of the language model
_ADDS = (
    "o_proj",
    "down_proj",
    "projection_layer",
    "fc2",
)  # layers whose output is added to the residual stream


def make_model(tokenizer: PreTrainedTokenizerFast) -> JanusForConditionalGeneration:
    """An untrained Janus of about 3.6 M parameters."""
    vision = JanusVisionConfig(
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=3,
        image_size=CANVAS,
        patch_size=CANVAS // SIDE,
        projection_dim=WIDTH,
        num_image_tokens=SIDE**2,
    )
    vq = JanusVQVAEConfig(
        embed_dim=BITS,
        num_embeddings=2**BITS,
        latent_channels=64,
        base_channels=32,  # the least that Janus's group norms allow
        channel_multiplier=[1, 1, 2, 2],
        num_res_blocks=1,
        projection_dim=WIDTH,
        image_token_embed_dim=WIDTH,
    )
    text = LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=432,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=len(tokenizer),
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = JanusConfig(
        text_config=text,
        vision_config=vision,
        vq_config=vq,
        image_token_id=tokenizer.convert_tokens_to_ids(tokenizer.image_token),
    )
    model = JanusForConditionalGeneration(config)
    # On a CPU the fused attention's backward pass is several times slower than plain matrix products.
    model.set_attn_implementation("eager")
    begin(model)
    return model.train()


@torch.no_grad()
def begin(model: JanusForConditionalGeneration) -> None:
    """Set the weights to begin with: of a deviation of one over the root of what they sum over.

    transformers fills them with 0.02, which fits a model 2,500 wide. From there texts did not look at images within
    1,500 steps; from these values 400 suffice for most answers. What adds to the residual stream is smaller, by the
    number of additions (GPT-2).
    """
    parts = {"language_model": model.config.text_config, "vision_model": model.config.vision_config}
    for name, module in model.named_modules():
        if "vqmodel" in name or module is model.lm_head:  # of its own; tied to the words' embeddings
            continue
        if isinstance(module, nn.Linear):
            depth = next((part.num_hidden_layers for key, part in parts.items() if key in name), 0)
            adds = name.endswith(_ADDS) and depth
            nn.init.normal_(module.weight, std=(module.in_features * (2 * depth if adds else 1)) ** -0.5)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
        elif isinstance(module, nn.Conv2d):
            module.reset_parameters()


def generation(tokenizer: PreTrainedTokenizerFast) -> GenerationConfig:
    """What transformers' own `generate` needs to know of the tokenizer to draw."""
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        generation_kwargs={"boi_token_id": tokenizer.convert_tokens_to_ids(tokenizer.boi_token)},
    )


def save(model: JanusForConditionalGeneration, folder: Path) -> None:
    """Write the model's folder, a byte a weight: matrices and kernels as float8 (e4m3), all else as float16.

    Half the size of float16 for 3% of noise on a weight; `from_pretrained` opens it in the dtype that it is asked for.
    """
    model.to(torch.float16)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data = parameter.data.to(torch.float8_e4m3fn)
    model.save_pretrained(folder)
