"""LoRA adapters of the UNet as files, read and written as diffusers does."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from selma.ground.errors import UserError
from selma.ground.files import atomic, read_json, write_json

WEIGHTS, CARD = "pytorch_lora_weights.safetensors", "lora.json"


@dataclass(frozen=True)
class LoraWeights:
    """One LoRA: module -> (A [rank, in], B [out, rank]), fp32; the layer's update is scaling * B @ A."""

    factors: dict[str, tuple[torch.Tensor, torch.Tensor]]
    scaling: float
    provenance: dict

    @property
    def rank(self) -> int:
        """Rank of the factors, the same for every module."""
        return next(iter(self.factors.values()))[0].shape[0]

    def state(self) -> dict[str, torch.Tensor]:
        """The factors under peft's key names, as `save_lora` expects them."""
        keys = {}
        for module, (a, b) in self.factors.items():
            keys[f"{module}.lora_A.weight"] = a
            keys[f"{module}.lora_B.weight"] = b
        return keys

    def delta(self, module: str) -> torch.Tensor:
        """Dense update of one layer, [out, in]."""
        a, b = self.factors[module]
        return self.scaling * b @ a


def save_lora(
    folder: Path, state: dict[str, torch.Tensor], provenance: dict, dtype: torch.dtype = torch.float32
) -> None:
    """Write a LoRA folder: weights that `pipe.load_lora_weights` opens at weight 1, and lora.json.

    `provenance` holds at least rank, alpha, targets and backbone (its fingerprint). The file is the one that
    `StableDiffusionPipeline.save_lora_weights` writes, without importing a pipeline; the alpha travels in its
    adapter metadata, without which a loader takes alpha = rank. Same input, same bytes.
    """
    from safetensors.torch import save

    adapter = {
        "unet.r": provenance["rank"],
        "unet.lora_alpha": provenance["alpha"],
        "unet.target_modules": sorted(provenance["targets"]),
    }
    tensors = {f"unet.{key}": value.detach().cpu().to(dtype).contiguous() for key, value in state.items()}
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(adapter, indent=2, sort_keys=True)}
    with atomic(folder / WEIGHTS) as temporary:
        temporary.write_bytes(sort_header(save(tensors, metadata)))
    write_json(folder / CARD, provenance)


def load_lora(folder: Path) -> LoraWeights:
    """Read a LoRA folder written by `save_lora`.

    Raises UserError when a file is missing or corrupt, or the factors do not fit what lora.json says.
    """
    from safetensors.torch import load_file

    weights, card = folder / WEIGHTS, folder / CARD
    for file in (weights, card):
        if not file.is_file():
            raise UserError(f"{file}: file not found; a LoRA folder holds {WEIGHTS} and {CARD}")
    provenance = read_json(card)
    if not isinstance(provenance, dict):
        raise UserError(f"{card}: must be a mapping of what the LoRA was trained on")
    try:
        state = load_file(weights)
        rank, alpha = int(provenance["rank"]), float(provenance["alpha"])
    except Exception as error:  # safetensors raises its own kind, with a message of one line
        raise UserError(f"{folder}: this LoRA cannot be read ({error})") from error
    factors = {}
    for module in sorted({key.removeprefix("unet.").rsplit(".lora_", 1)[0] for key in state}):
        a, b = (state.get(f"unet.{module}.lora_{letter}.weight") for letter in "AB")
        if a is None or b is None or a.shape[0] != rank or b.shape[1] != rank:
            raise UserError(f"{weights}: {module} does not hold two factors of rank {rank}, as {CARD} says")
        if not (a.isfinite().all() and b.isfinite().all()):
            raise UserError(f"{weights}: {module} holds values that are not finite; train this expert again")
        factors[module] = (a.float(), b.float())
    if not factors:
        raise UserError(f"{weights}: no LoRA factors in this file")
    return LoraWeights(factors, alpha / rank, provenance)


def sort_header(file: bytes) -> bytes:
    """A safetensors file with its header sorted: every write orders the metadata at random."""
    size = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + size])
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // 8) * 8)  # the format aligns the tensors that follow to 8 bytes
    return len(text).to_bytes(8, "little") + text + file[8 + size :]
