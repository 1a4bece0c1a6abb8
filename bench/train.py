"""Our training loop beside diffusers' example loop: how many images a second, and how far from the machine's peak?

    python -m bench.train                                  the embedded backbone on this CPU
    python -m bench.train --backbone models/backbones/sd14 --device cuda --dtype bfloat16 --batch 64
    python -m bench.train --size sd2-512 --device cuda --dtype bfloat16 --batch 64     random weights of that size

The example loop is diffusers' train_text_to_image_lora.py in what it does, written afresh: a DataLoader reads and
prepares images and tokens; every step encodes the images by the VAE and the captions by the text encoder, draws noise
and times, runs UNet and LoRA, clips, and steps AdamW. Ours encodes once, before its first step, and is charged for that
apart. Both train the same adapter on the same images, in the same batches and precision. They take turns, five steps
each, the first of which does not count. TFLOP/s are those of the UNet, forwards and backwards, as torch counts them in
the example's step; the peak is that of the fastest product or convolution on this machine, now.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from bench._arguments import at_least
from bench._machine import SIZES, peak_flops, quiet, random_backbone, seconds
from selma.backbones.conditioning import time_ids
from selma.backbones.loading import load_pipeline
from selma.backbones.schedulers import training_schedule
from selma.experts import examples
from selma.experts.gradients import gradients
from selma.ground.errors import UserError
from selma.ground.files import write_jsonl
from selma.ground.pairs import read_image, write_image
from selma.lora.adapter import add_lora, lora_parameters
from selma.runtime import command
from selma.runtime.devices import device_name, pick_device, torch_dtype
from selma.runtime.params import Training
from selma.variants.objectives import denoising

TARGETS = ("to_k", "to_q", "to_v", "to_out.0")
WORDS = tuple("a red blue green circle square star on the left right of two three small large".split())  # noqa: SIM905


def main() -> int:
    parser = command.Parser(prog="python -m bench.train", description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", type=Path, default=Path("models/backbones/shapes"))
    parser.add_argument("--size", choices=SIZES, help="random weights of this size, instead of a backbone")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--batch", type=at_least(1), default=32)
    parser.add_argument("--rank", type=at_least(1), default=8)
    parser.add_argument("--images", type=at_least(1), default=200)
    parser.add_argument("--steps", type=at_least(1), default=20, help="of each loop (default: 20)")
    return command.run(lambda: measure(parser.parse_args()))


def measure(given: argparse.Namespace) -> None:
    given.device = pick_device(given.device)
    if given.batch > given.images:
        raise UserError(f"--batch: {given.batch}; it must be at most --images ({given.images})")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        backbone = given.backbone
        if given.size:
            backbone = random_backbone(given.size, root / "backbone", given.device, given.dtype)
        data = make_images(root / "images", given.images, load_pipeline(backbone))
        quiet()
        theirs = Example(backbone, data, given)
        flops = operations(theirs)
        before = peak_flops(given.device, torch_dtype(given.dtype))
        times: dict[str, list[float]] = {"diffusers' example loop": [], "ours": []}
        cores = torch.get_num_threads()
        with ours_on(backbone, data, given) as (ours, encoding):
            own = torch.get_num_threads()  # ours leaves the cores to threads of its own
            for _ in range(math.ceil(given.steps / 4)):
                for name, threads, step in (
                    ("diffusers' example loop", cores, theirs.step),
                    ("ours", own, ours),
                ):
                    torch.set_num_threads(threads)
                    times[name] += [seconds(step, given.device) for _ in range(5)][1:]
        after = peak_flops(given.device, torch_dtype(given.dtype))
    peak = max(before, after)
    print(f"{given.size or given.backbone.name}, {given.dtype}, batch {given.batch}, rank {given.rank}")
    print(f"on {device_name(given.device)}; peak {peak / 1e12:.3f} TFLOP/s")
    found = {name: median(each) for name, each in times.items()}
    for name, each in found.items():
        rate = flops / each
        print(
            f"{name:24s} {each * 1e3:8.1f} ms a step  {given.batch / each:7.1f} images/s  "
            f"{rate / 1e12:7.3f} TFLOP/s  {rate / peak:4.0%} of peak"
        )
    ratio = found["diffusers' example loop"] / found["ours"]
    print(f"ratio {ratio:.2f}; ours encoded {given.images} images before, once, in {encoding:.1f} s")


def operations(example: Example) -> int:
    """The floating-point operations of the UNet in one training step, forwards and backwards."""
    example.step()  # for a batch
    with FlopCounterMode(display=False) as counted:
        example.unet_step()
    return counted.get_total_flops()


def make_images(folder: Path, count: int, pipe: object) -> list[tuple[Path, str]]:
    """Random images of the backbone's own size, with captions of random words."""
    rng, side = np.random.default_rng(0), pipe.unet.config.sample_size * pipe.vae_scale_factor
    words = random.Random(0)
    rows = []
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        write_image(folder / f"{i}.png", coarse.resize((side, side), Image.Resampling.BICUBIC))
        rows.append((folder / f"{i}.png", " ".join(words.choices(WORDS, k=10))))
    write_jsonl(folder / "metadata.jsonl", [{"file_name": file.name, "text": text} for file, text in rows])
    return rows


@contextmanager
def ours_on(
    backbone: Path,
    data: list[tuple[Path, str]],
    given: argparse.Namespace,
    accumulate: int = 1,
    checkpointing: bool = False,
) -> Iterator[tuple[Callable[[], None], float]]:
    """A function that trains a step, and the seconds that encoding took before.

    `accumulate` is the number of parts of a batch; with `checkpointing` no activations are kept.
    """
    pipe = load_pipeline(backbone, given.device, given.dtype)
    schedule, unet = training_schedule(pipe), pipe.unet
    add_lora(unet, given.rank, given.rank, list(TARGETS), seed=0)
    if checkpointing:
        unet.enable_gradient_checkpointing()
    encoded: list = []
    images = (read_image(file) for file, _ in data)
    took = seconds(
        lambda: encoded.append(examples.encode(pipe, images, [text for _, text in data])), given.device
    )
    pipe = None  # as in the stage: VAE and text encoders are not needed any more
    settings = Training(
        backbone="measured", rank=given.rank, alpha=given.rank, targets=TARGETS, learning_rate=1e-4, weight_decay=1e-2,
        max_grad_norm=1.0, caption_dropout=0.0, batch=given.batch, steps=10**6, checkpoint_every=10**6,
    )  # fmt: skip
    parameters = list(lora_parameters(unet).values())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    steps = iter(range(10**6))
    with gradients(
        lambda part: denoising.batch_loss(unet, part),
        parameters,
        batch=given.batch,
        accumulate=accumulate,
        pixels=encoded[0].mean[0, 0].numel(),
    ) as found:

        def step() -> None:
            found.of(denoising.draw_batch(schedule, encoded[0], settings, 0, next(steps)))
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()

        yield step, took


class Example:
    """The example loop of diffusers on a backbone as diffusers itself loads it."""

    def __init__(self, backbone: Path, data: list[tuple[Path, str]], given: argparse.Namespace) -> None:
        from diffusers import DDPMScheduler, DiffusionPipeline
        from peft import LoraConfig

        self.dtype, self.device = torch_dtype(given.dtype), given.device
        pipe = DiffusionPipeline.from_pretrained(backbone, dtype=self.dtype, local_files_only=True)
        self.pipe = pipe.to(given.device)
        self.unet, self.vae = pipe.unet, pipe.vae
        for part in (pipe.unet, pipe.vae, *self._encoders()):
            part.requires_grad_(False)
        self.unet.add_adapter(
            LoraConfig(
                r=given.rank,
                lora_alpha=given.rank,
                init_lora_weights="gaussian",
                target_modules=list(TARGETS),
            )
        )
        self.parameters = [each for each in self.unet.parameters() if each.requires_grad]
        for each in self.parameters:
            each.data = each.data.float()
        self.schedule = DDPMScheduler.from_config(pipe.scheduler.config)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4)
        self.loader = DataLoader(
            Prepared(data, self._tokenizers()), batch_size=given.batch, shuffle=True, drop_last=True
        )
        self.batches = iter(self.loader)
        self.last: tuple = ()

    def _encoders(self) -> list:
        return [
            part for name, part in self.pipe.components.items() if name.startswith("text_encoder") and part
        ]

    def _tokenizers(self) -> list:
        return [part for name, part in self.pipe.components.items() if name.startswith("tokenizer") and part]

    def step(self) -> None:
        batch = next(self.batches, None)
        if batch is None:
            self.batches = iter(self.loader)
            batch = next(self.batches)
        with torch.no_grad():
            pixels = batch["pixels"].to(self.device, self.vae.dtype)
            latents = self.vae.encode(pixels).latent_dist.sample() * self.vae.config.scaling_factor
            latents = latents.to(self.dtype)
            conditioning = self._texts([ids.to(self.device) for ids in batch["ids"]])
        noise = torch.randn_like(latents)
        times = torch.randint(
            0, self.schedule.config.num_train_timesteps, (len(latents),), device=self.device
        )
        noisy = self.schedule.add_noise(latents, noise, times)
        target = noise
        if self.schedule.config.prediction_type == "v_prediction":
            target = self.schedule.get_velocity(latents, noise, times)
        self.last = (noisy, times, conditioning, target)
        self.unet_step()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def unet_step(self) -> None:
        """UNet, loss and their gradient alone, of the last batch."""
        noisy, times, conditioning, target = self.last
        enabled = self.dtype != torch.float32
        with torch.autocast(torch.device(self.device).type, self.dtype, enabled=enabled):
            predicted = self.unet(noisy, times, **conditioning, return_dict=False)[0]
        functional.mse_loss(predicted.float(), target.float()).backward()

    def _texts(self, ids: list[torch.Tensor]) -> dict:
        if len(ids) == 1:
            return {"encoder_hidden_states": self._encoders()[0](ids[0])[0]}
        found = [
            encoder(each, output_hidden_states=True)
            for encoder, each in zip(self._encoders(), ids, strict=True)
        ]
        side = self.unet.config.sample_size * self.pipe.vae_scale_factor
        sizes = torch.tensor([time_ids((side, side), (0, 0), (side, side))] * len(ids[0]), device=self.device)
        return {
            "encoder_hidden_states": torch.cat([each.hidden_states[-2] for each in found], dim=-1),
            "added_cond_kwargs": {"text_embeds": found[1][0], "time_ids": sizes},
        }


class Prepared(Dataset):
    """Images in -1..1 and token ids, prepared whenever they are asked for."""

    def __init__(self, data: list[tuple[Path, str]], tokenizers: list) -> None:
        self.data, self.tokenizers = data, tokenizers

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> dict:
        file, text = self.data[i]
        pixels = torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1).float()
        ids = [
            tokenizer(
                text,
                max_length=tokenizer.model_max_length,
                padding="max_length",
                truncation=True,
                return_tensors="pt",
            ).input_ids[0]
            for tokenizer in self.tokenizers
        ]
        return {"pixels": pixels / 127.5 - 1, "ids": ids}


if __name__ == "__main__":
    sys.exit(main())
