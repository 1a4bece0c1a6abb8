"""The backbone's text side: a BPE tokenizer and a CLIP, trained by contrast on image-caption pairs.

Its text encoder conditions the UNet, as in Stable Diffusion; the whole CLIP is saved alongside.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from selma.shapes.pretraining.autoencoder import to_pixels
from selma.shapes.pretraining.optimise import optimise
from selma.shapes.world.render import CANVAS

POSITIONS = 77
WIDTH = 128
PAIRS = 64  # pairs of neighbours per batch, hence 128 images
_START, _END = "<|startoftext|>", "<|endoftext|>"


def make_tokenizer(texts: Iterable[str]) -> CLIPTokenizer:
    """A byte-level BPE of CLIP's form, trained on the captions; unknown words fall back to bytes."""
    form = CLIPTokenizer(vocab={_START: 0, _END: 1}, merges=[])
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    bpe.normalizer = form.backend_tokenizer.normalizer
    bpe.pre_tokenizer = form.backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        min_frequency=2,
        end_of_word_suffix="</w>",
        continuing_subword_prefix="",
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    merges = [tuple(merge) for merge in json.loads(bpe.to_str())["model"]["merges"]]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = alphabet + [letter + "</w>" for letter in alphabet] + ["".join(merge) for merge in merges]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys([*tokens, _START, _END]))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=POSITIONS)


def make_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """An untrained CLIP: a text tower of 3 layers and a ViT of 3 layers on 8x8 patches, both 128 wide."""
    tower = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
    }
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = (
        tower
        | special
        | {
            "vocab_size": len(tokenizer),
            "max_position_embeddings": POSITIONS,
            "pad_token_id": tokenizer.pad_token_id,
            "projection_dim": WIDTH,
        }
    )
    vision = tower | {"image_size": CANVAS, "patch_size": 8, "projection_dim": WIDTH}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))


def tokenize(tokenizer: CLIPTokenizer, captions: list[list[str]]) -> torch.Tensor:
    """Token ids, int64 [n, captions each, 77], padded with the end token as Stable Diffusion does."""
    flat = [text for texts in captions for text in texts]
    out = np.empty((len(flat), POSITIONS), np.int16)
    for start in range(0, len(flat), 10_000):
        chunk = flat[start : start + 10_000]
        ids = tokenizer(chunk, padding="max_length", max_length=POSITIONS, truncation=True)["input_ids"]
        out[start : start + 10_000] = ids
    return torch.from_numpy(out.reshape(len(captions), -1, POSITIONS))


def pretrain_clip(
    images: np.ndarray,
    ids: torch.Tensor,
    tokenizer: CLIPTokenizer,
    *,
    steps: int,
    seed: int,
    folder: Path,
    log: Callable[[int, float], None],
) -> CLIPModel:
    """Symmetric InfoNCE over batches of neighbouring pairs (images 2i and 2i+1 differ in one or two facts)."""
    torch.manual_seed(seed)
    clip = make_clip(tokenizer)
    data = torch.from_numpy(images)

    def loss(generator: torch.Generator, step: int) -> torch.Tensor:
        first = 2 * torch.randint(len(data) // 2, (PAIRS,), generator=generator)
        index = torch.cat([first, first + 1])
        text = ids[index, torch.randint(ids.shape[1], (len(index),), generator=generator)].long()
        # Causal attention: what follows the end token cannot change the pooled embedding, so drop it.
        text = text[:, : int((text != tokenizer.pad_token_id).sum(1).max()) + 1]
        with torch.autocast("cpu", torch.bfloat16):
            output = clip(input_ids=text, pixel_values=to_pixels(data[index]))
        return clip_loss(output.logits_per_text.float())

    optimise({"clip": clip}, loss, steps=steps, learning_rate=1e-3, seed=seed, folder=folder, log=log)
    return clip.eval()


def write_inputs(folder: Path, tokenizer: Path) -> None:
    """Put beside a CLIP's weights what reads texts and images for it: with these the folder is a judge of kind clip.

    The tokenizer's files are those of the pipeline's folder `tokenizer`, because they are one; images are scaled as
    `to_pixels` does. Writes no weights.
    """
    for file in sorted(tokenizer.iterdir()):
        shutil.copyfile(file, folder / file.name)
    CLIPImageProcessorPil(
        size={"shortest_edge": CANVAS},
        crop_size={"height": CANVAS, "width": CANVAS},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    ).save_pretrained(folder)


def clip_loss(logits: torch.Tensor) -> torch.Tensor:
    """Mean of the cross entropies over rows and columns; logits [n, n], the pairs on the diagonal."""
    target = torch.arange(len(logits))
    cross_entropy = torch.nn.functional.cross_entropy
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
