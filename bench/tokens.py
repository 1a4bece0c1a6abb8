"""A multimodal backbone on this machine: drawing by tokens beside transformers' own, and a step of DPO on pairs.

    python -m bench.tokens                        the embedded shapes_mm on this CPU
    python -m bench.tokens --size janus-pro-1b --device cuda --dtype bfloat16 --batch 16    random weights

transformers' `generate` and our sampler draw the same prompts with the same guidance, a token at a time; both decode
the images. A step of `token_dpo` is one of --pairs pairs of images by LoRA of --rank, two sequences each. GiB are what
PyTorch held at most on a GPU.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median

import torch
from tabulate import tabulate

from bench._arguments import at_least, not_negative
from bench._machine import memory_peak, quiet, seconds
from selma.backbones.loading import load_backbone
from selma.backbones.multimodal import Multimodal
from selma.experts.codes import Codes, Writer
from selma.experts.gradients import gradients
from selma.ground.errors import UserError
from selma.images.tokens import draw_tokens, fitted
from selma.lora.adapter import add_lora, lora_parameters
from selma.runtime import command
from selma.runtime.devices import device_name, pick_device, torch_dtype
from selma.runtime.params import Drawing
from selma.shapes.pretraining import dialogue, janus
from selma.variants.objectives import token_dpo

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]
TEXT = "a small red circle on the left of a large blue square"
SIZES: dict[
    str, tuple[dict, dict, dict]
] = {  # language model, vision tower, VQ model: Janus-Pro's are the defaults
    "tiny": (
        {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
        {
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 64,
            "projection_dim": 32,
            "num_image_tokens": 16,
        },
        {
            "base_channels": 32,
            "latent_channels": 32,
            "num_res_blocks": 1,
            "num_embeddings": 64,
            "projection_dim": 32,
            "image_token_embed_dim": 32,
            "num_patches": 4,
        },
    ),
    "janus-pro-1b": (
        {
            "hidden_size": 2048,
            "intermediate_size": 5632,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
        },
        {},
        {},
    ),
}


def main() -> int:
    parser = command.Parser(prog="python -m bench.tokens", description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", type=Path, default=Path("models/backbones/shapes_mm"))
    parser.add_argument("--size", choices=SIZES, help="random weights of this size, instead of a backbone")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--batch", type=at_least(1), default=64, help="images that are drawn at once")
    parser.add_argument("--guidance", type=guiding, default=5.0)
    parser.add_argument("--pairs", type=at_least(1), default=16, help="of a training step (default: 16)")
    parser.add_argument("--rank", type=at_least(1), default=32)
    parser.add_argument("--steps", type=at_least(1), default=3, help="training steps (default: 3)")
    return command.run(lambda: measure(parser.parse_args()))


def guiding(text: str) -> float:
    """A guidance above 1: transformers' `generate` draws with guidance alone."""
    value = not_negative(text)
    if value <= 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not above 1, and transformers draws with guidance alone"
        )
    return value


def measure(given: argparse.Namespace) -> None:
    given.device = pick_device(given.device)
    quiet()
    with tempfile.TemporaryDirectory() as folder:
        backbone = Path(folder) if given.size else given.backbone
        if given.size:
            random_janus(given.size, backbone, given.device, given.dtype)
        opened = load_backbone(backbone, given.device, given.dtype)
    if not isinstance(opened, Multimodal):
        raise UserError(f"--backbone: {backbone} draws no tokens; name a multimodal backbone")
    rows = [*drawing(opened, given), training(opened, given)]
    print(
        f"{given.size or given.backbone.name}, {given.dtype}, {opened.image_tokens} tokens an image, guidance "
        f"{given.guidance:g}, on {device_name(given.device)}"
    )
    print(tabulate(rows, ["", "at once", "ms each", "GiB", "ratio"], floatfmt=("", "", ".1f", ".1f", ".2f")))


def drawing(opened: Multimodal, given: argparse.Namespace) -> list[list]:
    """Rows of the milliseconds that an image takes, by transformers and by us."""
    texts, seeds = [TEXT] * given.batch, list(range(given.batch))
    settings = fitted(opened, Drawing("ddim", 1, given.guidance, given.batch))
    ids, mask = (each.to(opened.device) for each in opened.prompts(texts))

    def theirs() -> None:
        tokens = opened.model.generate(
            ids,
            attention_mask=mask.long(),
            generation_mode="image",
            do_sample=True,
            guidance_scale=given.guidance,
        )
        opened.decode(tokens)

    def ours() -> None:
        list(draw_tokens(opened, texts, seeds, settings))

    found = []
    for draw in (theirs, ours):
        draw()
        memory_peak(given.device)
        found.append((seconds(draw, given.device) / given.batch, memory_peak(given.device)))
    names = ("an image by transformers", "an image by us")
    return [
        [name, given.batch, took * 1e3, peak, found[0][0] / took]
        for name, (took, peak) in zip(names, found, strict=True)
    ]


def training(opened: Multimodal, given: argparse.Namespace) -> list:
    """The row of a step of DPO on random tokens."""
    writer = Writer(opened)
    add_lora(writer.language_model, given.rank, given.rank, TARGETS, seed=0)
    random = torch.Generator().manual_seed(0)
    ids, mask = opened.prompts([TEXT] * given.pairs)
    size = opened.model.model.vqmodel.config.num_embeddings
    first, second = (
        torch.randint(size, (given.pairs, opened.image_tokens), generator=random) for _ in range(2)
    )
    none = torch.zeros(given.pairs)
    parts = [
        each.to(opened.device) for each in (ids, mask, opened.without_words(ids), first, second, none, none)
    ]
    batch, parameters = Codes(*parts), list(lora_parameters(writer.language_model).values())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    with gradients(
        lambda part: token_dpo.batch_loss(writer, part, beta=0.1),
        parameters,
        batch=given.pairs,
        accumulate=1,
        pixels=batch.pixels,
    ) as found:

        def step() -> None:
            found.of(batch)
            optimizer.step()
            optimizer.zero_grad()

        step()
        memory_peak(given.device)
        took = median(seconds(step, given.device) for _ in range(given.steps))
    return ["a pair in a step of DPO", given.pairs, took / given.pairs * 1e3, memory_peak(given.device)]


def random_janus(size: str, folder: Path, device: str, dtype: str) -> None:
    """A backbone folder of Janus-Pro's configuration with random weights, and the embedded backbone's own tokenizer."""
    from transformers import (
        JanusConfig,
        JanusForConditionalGeneration,
        JanusVisionConfig,
        JanusVQVAEConfig,
        LlamaConfig,
    )

    tokenizer = dialogue.make_tokenizer([TEXT])
    text, vision, vq = SIZES[size]
    config = JanusConfig(
        text_config=LlamaConfig(**text, vocab_size=102400, max_position_embeddings=16384),
        vision_config=JanusVisionConfig(**vision),
        vq_config=JanusVQVAEConfig(**vq),
        tie_word_embeddings=False,
        image_token_id=tokenizer.convert_tokens_to_ids(tokenizer.image_token),
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = JanusForConditionalGeneration(config).to(torch_dtype(dtype))
    model.generation_config = janus.generation(tokenizer)
    model.save_pretrained(folder)
    dialogue.make_processor(tokenizer, config).save_pretrained(folder)


if __name__ == "__main__":
    sys.exit(main())
