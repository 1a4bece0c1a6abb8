"""A tiny random Janus with its processor: how a multimodal backbone's folder looks.

draw     <bos><|User|>a red circle<|Assistant|><begin_of_image>                          then image tokens
answer   <bos><|User|><begin_of_image>(16 x image)<end_of_image>Is it red?<|Assistant|>  then yes or no
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    GenerationConfig,
    JanusConfig,
    JanusForConditionalGeneration,
    JanusProcessor,
    JanusVisionConfig,
    JanusVQVAEConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
BEGIN, IMAGE, END = "<begin_of_image>", "<image_placeholder>", "<end_of_image>"
USER, ASSISTANT = "<|User|>", "<|Assistant|>"
ANSWERS = ("yes", "no")

CHAT = (
    "{% for message in messages %}{{ '<|User|>' if message.role == 'user' else '<|Assistant|>' }}"
    "{% for part in message.content %}{{ '<image_placeholder>' if part.type == 'image' else part.text }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|Assistant|>' }}{% endif %}"
)


def make_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of lower-case text, trained on `texts`; unknown words fall back to bytes."""
    special = [PAD, BOS, EOS, BEGIN, IMAGE, END, USER, ASSISTANT]
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        min_frequency=2,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator([*texts, *(word for word in ANSWERS for _ in range(9))], trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, special.index(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        padding_side="left",
        model_max_length=512,
        extra_special_tokens={
            "image_token": IMAGE,
            "boi_token": BEGIN,
            "eoi_token": END,
            "user": USER,
            "bot": ASSISTANT,
        },
    )


def make_processor(tokenizer: PreTrainedTokenizerFast, config: JanusConfig) -> JanusProcessor:
    """What reads texts and images for the model: how it is spoken to is written into its folder by it."""
    vision = config.vision_config
    images = JanusImageProcessorPil(
        size={"height": vision.image_size, "width": vision.image_size},
        min_size=1,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return JanusProcessor(images, tokenizer, chat_template=CHAT, num_image_tokens=vision.num_image_tokens)


def generation(tokenizer: PreTrainedTokenizerFast) -> GenerationConfig:
    """What transformers' own `generate` needs to know of the tokenizer to draw."""
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        generation_kwargs={"boi_token_id": tokenizer.convert_tokens_to_ids(tokenizer.boi_token)},
    )


def make_janus(folder: Path, seed: int = 4) -> Path:
    """Write a random Janus that draws 32 px images by 16 tokens, with 50 codes."""
    tokenizer = make_tokenizer(
        ["a red circle", "two blue squares", "Is there a circle?", "Is the square blue?"]
    )
    width = {"projection_dim": 32}
    config = JanusConfig(
        text_config=LlamaConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            vocab_size=len(tokenizer),
            pad_token_id=tokenizer.pad_token_id,
        ),
        vision_config=JanusVisionConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
            num_image_tokens=16,
            **width,
        ),
        vq_config=JanusVQVAEConfig(
            num_embeddings=50,
            latent_channels=32,
            base_channels=32,
            channel_multiplier=[1, 1, 1, 1],
            num_res_blocks=1,
            image_token_embed_dim=32,
            **width,
        ),
        image_token_id=tokenizer.convert_tokens_to_ids(tokenizer.image_token),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = JanusForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():  # the default init hardly tells two texts apart
            parameter.mul_(5 if parameter.dim() == 2 else 1)
    model.generation_config = generation(tokenizer)
    model.save_pretrained(folder)
    make_processor(tokenizer, config).save_pretrained(folder)
    return folder
