"""MoE-LoRA: trained experts side by side, weighed anew in every layer by a gate (SELMA, arXiv 2403.06952, appendix E).

    w = softmax(W_g x),   out = W_0 x + sum_k w_k s_k B_k A_k x

The experts are frozen and all K are active; only the gates W_g [K, in] learn, by the denoising objective, on the images
of all experts. They begin at zero, where the mixture is the merge operator delta_mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from selma.backbones.bank import add_bank, add_gates
from selma.experts import noisy
from selma.experts.loop import Save
from selma.lora.adapter import lora_parameters
from selma.lora.files import LoraWeights
from selma.lora.mixing import save_mixture, stacked
from selma.runtime.devices import torch_dtype
from selma.runtime.params import Training

MIXES = True
LINEAR = True  # convolutions have no gate
READS = ("min_snr",)  # of the settings that not every objective knows
OPTIONS = {"learning_rate": {"default": 1e-5, "gt": 0}}

draw_batch = noisy.draw_batch


def prepare(unet: torch.nn.Module, experts: Mapping[str, LoraWeights], settings: Training, seed: int) -> Save:
    """Put experts and zero gates beside the UNet's layers, and return what writes a checkpoint.

    Raises UserError for experts that adapt convolutions.
    """
    loras = list(experts.values())
    factors = stacked(experts, torch_dtype(settings.save_dtype))
    card = {
        "experts": list(experts),
        "ranks": [lora.rank for lora in loras],
        "scalings": [lora.scaling for lora in loras],
        "targets": loras[0].provenance["targets"],
    }
    add_bank(unet, factors, card["ranks"], card["scalings"])
    add_gates(unet)

    def save(folder: Path, provenance: dict, dtype: torch.dtype) -> None:
        gates = {name.removesuffix(".gate"): gate for name, gate in lora_parameters(unet).items()}
        save_mixture(folder, factors, gates, {**provenance, **card}, dtype)

    return save


def batch_loss(unet: torch.nn.Module, batch: noisy.Batch) -> torch.Tensor:
    """The denoising loss of the mixture."""
    return noisy.loss(unet, batch)
