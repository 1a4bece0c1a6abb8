"""Tiny random judges of the real classes, made in place: what a hub repository of each kind holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

WORDS = (
    "yes",
    "no",
    "Yes",
    "No",
    "red",
    "blue",
    "two",
    "Is",
    "it",
    "there",
    "a",
    "circle",
    "?",
    "Answer",
    ":",
)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[BOS]", "<image>")
ID = {token: i for i, token in enumerate((*SPECIAL, *WORDS))}
SIZE = 8  # pixels of a side
TOWER = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def tokenizer() -> Any:
    """A tokenizer with one token a word; words that it does not know are one and the same."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel(ID, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    made = PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        bos_token="[BOS]",
        eos_token="[SEP]",
        model_max_length=64,
    )
    made.add_tokens(["<image>"], special_tokens=True)
    return made


def _images() -> Any:
    from transformers import BlipImageProcessorPil

    return BlipImageProcessorPil(size={"height": SIZE, "width": SIZE})


def make_blip_vqa(folder: Path) -> Path:
    from transformers import BlipConfig, BlipForQuestionAnswering, BlipProcessor

    config = BlipConfig(
        text_config=TOWER
        | {
            "vocab_size": len(ID),
            "bos_token_id": ID["[BOS]"],
            "sep_token_id": ID["[SEP]"],
            "pad_token_id": ID["[PAD]"],
            "max_position_embeddings": 64,
        },
        vision_config=TOWER | {"image_size": SIZE, "patch_size": 4, "initializer_range": 0.5},
    )
    _save(BlipForQuestionAnswering(config), folder)
    BlipProcessor(_images(), tokenizer()).save_pretrained(folder)
    return folder


def _qformer_config(kind: Any) -> Any:
    from transformers import T5Config

    return kind(
        vision_config=TOWER | {"image_size": SIZE, "patch_size": 4},
        qformer_config=TOWER | {"vocab_size": len(ID), "cross_attention_frequency": 1},
        text_config=T5Config(
            vocab_size=len(ID),
            d_model=8,
            d_kv=4,
            d_ff=16,
            num_layers=1,
            num_heads=2,
            pad_token_id=ID["[PAD]"],
            eos_token_id=ID["[SEP]"],
            decoder_start_token_id=ID["[PAD]"],
        ).to_dict(),
        num_query_tokens=2,
        image_token_index=ID["<image>"],
    )


def make_blip2(folder: Path) -> Path:
    from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2Processor

    _save(Blip2ForConditionalGeneration(_qformer_config(Blip2Config)), folder)
    Blip2Processor(_images(), tokenizer(), num_query_tokens=2).save_pretrained(folder)
    return folder


def make_blip2_opt(folder: Path) -> Path:
    from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2Processor, OPTConfig

    config = _qformer_config(Blip2Config)
    text = OPTConfig(
        vocab_size=len(ID),
        hidden_size=8,
        ffn_dim=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        word_embed_proj_dim=8,
        pad_token_id=ID["[PAD]"],
        bos_token_id=ID["[BOS]"],
        eos_token_id=ID["[SEP]"],
    )
    config = Blip2Config(
        vision_config=config.vision_config,
        qformer_config=config.qformer_config,
        text_config=text.to_dict(),
        num_query_tokens=2,
        image_token_index=ID["<image>"],
    )
    _save(Blip2ForConditionalGeneration(config), folder)
    Blip2Processor(_images(), tokenizer(), num_query_tokens=2).save_pretrained(folder)
    return folder


def make_instructblip(folder: Path) -> Path:
    from transformers import InstructBlipConfig, InstructBlipForConditionalGeneration, InstructBlipProcessor

    _save(InstructBlipForConditionalGeneration(_qformer_config(InstructBlipConfig)), folder)
    InstructBlipProcessor(_images(), tokenizer(), tokenizer(), num_query_tokens=2).save_pretrained(folder)
    return folder


CHAT = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %} Answer :{% endif %}"
)


def make_chat_vlm(folder: Path) -> Path:
    """LLaVA: CLIP's vision tower and LLaMA."""
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    text = TOWER | {"vocab_size": len(ID), "max_position_embeddings": 64, "num_key_value_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**TOWER, image_size=SIZE, patch_size=4, projection_dim=8),
        text_config=LlamaConfig(
            **text, pad_token_id=ID["[PAD]"], eos_token_id=ID["[SEP]"], bos_token_id=ID["[BOS]"]
        ),
        image_token_index=ID["<image>"],
        vision_feature_layer=-1,
    )
    _save(LlavaForConditionalGeneration(config), folder)
    images = CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    LlavaProcessor(
        images,
        tokenizer(),
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    ).save_pretrained(folder)
    return folder


def make_llava_next(folder: Path) -> Path:
    """LLaVA-NeXT, which cuts an image into tiles: its tokens are as many as the image's shape needs."""
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessorPil,
        LlavaNextProcessor,
    )

    text = TOWER | {"vocab_size": len(ID), "max_position_embeddings": 128, "num_key_value_heads": 2}
    shapes = [[SIZE, 2 * SIZE], [2 * SIZE, SIZE]]
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**TOWER, image_size=SIZE, patch_size=4, projection_dim=8),
        text_config=LlamaConfig(
            **text, pad_token_id=ID["[PAD]"], eos_token_id=ID["[SEP]"], bos_token_id=ID["[BOS]"]
        ),
        image_token_index=ID["<image>"],
        vision_feature_layer=-1,
        image_grid_pinpoints=shapes,
    )
    _save(LlavaNextForConditionalGeneration(config), folder)
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        image_grid_pinpoints=shapes,
    )
    LlavaNextProcessor(
        images,
        tokenizer(),
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    ).save_pretrained(folder)
    return folder


MAKERS: dict[str, Callable[[Path], Path]] = {
    "blip_vqa": make_blip_vqa,
    "blip2": make_blip2,
    "blip2 on OPT": make_blip2_opt,
    "instructblip": make_instructblip,
    "chat_vlm": make_chat_vlm,
    "chat_vlm in tiles": make_llava_next,
}


def _save(model: torch.nn.Module, folder: Path) -> None:
    """With weights large enough that a question and an image make a difference."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5
    model.save_pretrained(folder, safe_serialization=True)


def clip_config(**extra: Any) -> Any:
    from transformers import CLIPConfig

    return CLIPConfig(
        projection_dim=8,
        text_config=TOWER
        | {"vocab_size": 514, "max_position_embeddings": 16, "projection_dim": 8, "hidden_act": "gelu"}
        | {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1},
        vision_config=TOWER
        | {"image_size": SIZE, "patch_size": 4, "projection_dim": 8, "hidden_act": "gelu"},
        **extra,
    )


def clip_tokenizer() -> Any:
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    return CLIPTokenizer({token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=16)


def bert_tokenizer() -> Any:
    from transformers import BertTokenizer

    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "circle", "two"]
    return BertTokenizer(vocab={token: i for i, token in enumerate(tokens)})
