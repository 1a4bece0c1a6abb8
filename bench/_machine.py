"""What measurements of models share: the processor's peak, random models of real sizes, seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch

from selma.backbones.ahead import pool_of
from selma.runtime.devices import torch_dtype


def peak_flops(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest work that this machine does now: what could be had.

    On a GPU that is a large matrix product; on a CPU the better of a product and a convolution that fit the cache, on
    each core side by side.
    """
    if device.startswith("cuda"):
        a, b = (torch.randn(8192, 8192, device=device, dtype=dtype) for _ in range(2))
        return 2 * 8192**3 / min(seconds(lambda: a @ b, device) for _ in range(8))
    cores = torch.get_num_threads()
    return max(_convolving(cores, dtype, *shape) for shape in ((64, 256, 8, 1), (50, 128, 4, 3)))


def _convolving(cores: int, dtype: torch.dtype, n: int, channels: int, side: int, kernel: int) -> float:
    """FLOP/s of convolutions of n images on each core."""
    layout = {"memory_format": torch.channels_last}
    images = torch.randn(n, channels, side, side, dtype=dtype).to(**layout)
    weight = torch.randn(channels, channels, kernel, kernel, dtype=dtype).to(**layout)

    def convolve(_: int) -> None:
        with torch.inference_mode():
            for _ in range(50):
                torch.conv2d(images, weight, padding=kernel // 2)

    with pool_of(cores, 1) as pool:
        best = min(seconds(lambda: list(pool.map(convolve, range(cores))), "cpu") for _ in range(8))
    return cores * 50 * 2 * n * side**2 * channels**2 * kernel**2 / best


def seconds(work: Callable[[], object], device: str) -> float:
    """Seconds that `work` takes on a device."""
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def quiet() -> None:
    """Keep the libraries' own messages out of a measurement's few lines."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    import diffusers

    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def memory_peak(device: str) -> float:
    """GiB that PyTorch held at most on a GPU since the last call, or NaN on a CPU, where it keeps no account."""
    if not device.startswith("cuda"):
        return math.nan
    found = torch.cuda.max_memory_allocated(device) / 2**30
    torch.cuda.reset_peak_memory_stats(device)
    return found


def random_backbone(size: str, folder: Path, device: str = "cpu", dtype: str = "float32") -> Path:
    """A backbone folder with random weights: `tiny`, or the published UNet, VAE and text encoder sizes of `sd2-512` and
    `sdxl-1024`, with a tokenizer of single letters.

    The weights are made on `device` and stored in `dtype`: of SDXL's 3.5 G a GPU makes them in seconds.
    """
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    quiet()
    unet, vae, texts = SIZES[size]
    torch.manual_seed(0)
    tokenizer = _letters()
    with torch.device(device):
        encoders = [
            (CLIPTextModelWithProjection if number else CLIPTextModel)(
                CLIPTextConfig(
                    vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=1, pad_token_id=1, **text
                )
            ).to(torch_dtype(dtype))
            for number, text in enumerate(texts)
        ]
        models = {"unet": UNet2DConditionModel(**unet), "vae": AutoencoderKL(**vae)}
    parts = {
        **{name: model.to(torch_dtype(dtype)) for name, model in models.items()},
        "scheduler": DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            steps_offset=1,
        ),
        "text_encoder": encoders[0],
        "tokenizer": tokenizer,
    }
    if len(encoders) == 2:
        pipe = StableDiffusionXLPipeline(**parts, text_encoder_2=encoders[1], tokenizer_2=tokenizer)
    else:
        pipe = StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    pipe.save_pretrained(folder)
    return folder


def _letters() -> object:
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    return CLIPTokenizer({token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=77)


_VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
}
# UNet, VAE and text encoders as their config.json state them (stable-diffusion-2-base, stable-diffusion-xl-base-1.0).
SIZES: dict[str, tuple[dict, dict, list[dict]]] = {
    "tiny": (
        {
            "sample_size": 8,
            "layers_per_block": 1,
            "block_out_channels": (16, 32),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "cross_attention_dim": 16,
            "attention_head_dim": 4,
            "norm_num_groups": 8,
        },
        {
            "down_block_types": ("DownEncoderBlock2D",) * 3,
            "up_block_types": ("UpDecoderBlock2D",) * 3,
            "block_out_channels": (8, 16, 16),
            "norm_num_groups": 8,
            "sample_size": 32,
        },
        [
            {
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
            }
        ],
    ),
    "sd2-512": (
        {
            "sample_size": 64,
            "cross_attention_dim": 1024,
            "attention_head_dim": (5, 10, 20, 20),
            "use_linear_projection": True,
        },
        {**_VAE, "sample_size": 768},
        [
            {
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_hidden_layers": 23,
                "num_attention_heads": 16,
                "hidden_act": "gelu",
            }
        ],
    ),
    "sdxl-1024": (
        {
            "sample_size": 128,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20),
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        {**_VAE, "sample_size": 1024, "scaling_factor": 0.13025},
        [
            {
                "hidden_size": 768,
                "intermediate_size": 3072,
                "num_hidden_layers": 12,
                "num_attention_heads": 12,
            },
            {
                "hidden_size": 1280,
                "intermediate_size": 5120,
                "num_hidden_layers": 32,
                "num_attention_heads": 20,
                "projection_dim": 1280,
                "hidden_act": "gelu",
            },
        ],
    ),
}
