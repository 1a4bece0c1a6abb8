"""LoRA adapters as files, read and written as diffusers does."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from selma.ground.adapters import CARD, METADATA, UNET, WEIGHTS, metadata_of, part_of, read_adapter
from selma.ground.errors import UserError
from selma.ground.files import atomic, write_json

_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}  # safetensors' names


@dataclass(frozen=True)
class LoraWeights:
    """One LoRA: module -> (A [rank, in], B [out, rank]), fp32; the layer's update is scaling * B @ A.

    Modules are named as in selma/ground/adapters.py.
    A convolution's are [rank, in, h, w] and [out, rank, 1, 1]: the same product, with in, h and w as one axis.
    """

    factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
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
        """Dense update of one layer, [out, in] or, of a convolution, [out, in, h, w]."""
        a, b = self.factors[module]
        return (self.scaling * b.flatten(1) @ a.flatten(1)).view(b.shape[0], *a.shape[1:])


def save_lora(
    folder: Path, state: dict[str, torch.Tensor], provenance: dict, dtype: torch.dtype = torch.float32
) -> None:
    """Write a LoRA folder: weights that `pipe.load_lora_weights` opens at weight 1, and lora.json.

    `provenance` holds at least rank, alpha, targets and backbone (its fingerprint). The file is the one that
    `StableDiffusionPipeline.save_lora_weights` writes, without importing a pipeline; the alpha travels in its
    adapter metadata, without which a loader takes alpha = rank. Same input, same bytes.
    Raises UserError for values that are not finite in `dtype`: nothing is written.
    """
    adapter = metadata_of(provenance, sorted({part_of(key)[0] for key in state}))
    tensors = {}
    for key, value in state.items():
        in_file = f"{UNET}.{key}" if part_of(key)[0] == UNET else key
        tensors[in_file] = value.detach().cpu()
        check_finite(folder, key, tensors[in_file], dtype, "LoRA")
    metadata = {"format": "pt", METADATA: json.dumps(adapter, indent=2, sort_keys=True)}
    with atomic(folder / WEIGHTS) as temporary:
        write_tensors(temporary, tensors, dtype, metadata)
    write_json(folder / CARD, provenance)


def check_finite(folder: Path, key: str, value: torch.Tensor, dtype: torch.dtype, what: str) -> None:
    """Raise UserError, naming folder and key, for values that are not finite in `dtype`."""
    if not value.to(dtype).isfinite().all():
        large = f"too large for {str(dtype).removeprefix('torch.')}"
        why = large if value.isfinite().all() else "not finite"
        raise UserError(f"{folder}: {key} holds values that are {why}; this {what} is not written")


def write_tensors(
    file: Path, tensors: dict[str, torch.Tensor], dtype: torch.dtype, metadata: dict[str, str]
) -> None:
    """`sort_header(safetensors.torch.save(tensors in dtype, metadata))`, one tensor in memory at a time.

    A merge of five SDXL experts of rank 128 is 3.7 GB, of which those two make three more copies.
    """
    names, header, end = sorted(tensors), {"__metadata__": metadata}, 0
    for name in names:
        start, end = end, end + tensors[name].numel() * dtype.itemsize
        shape = list(tensors[name].shape)
        header[name] = {"dtype": _DTYPES[dtype], "shape": shape, "data_offsets": [start, end]}
    with open(file, "wb") as opened:
        opened.write(_header(header))
        for name in names:
            opened.write(tensors[name].to(dtype).contiguous().view(-1).view(torch.uint8).numpy())


def load_lora(folder: Path) -> LoraWeights:
    """Read a LoRA folder written by `save_lora`; factors of half precision stay so in memory, and are fp32 when read.

    Raises UserError when a file is missing or corrupt, or the factors do not fit what lora.json says.
    """
    found = read_adapter(folder)
    return LoraWeights(_AsFloat32(found.factors), found.card["alpha"] / found.card["rank"], dict(found.card))


class _AsFloat32(Mapping):
    """Factors in fp32, kept in half precision where that holds them exactly: half of the memory."""

    def __init__(self, factors: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
        self._kept = {}
        for module in list(factors):
            self._kept[module] = tuple(_halved(factor) for factor in factors.pop(module))

    def __getitem__(self, module: str) -> tuple[torch.Tensor, torch.Tensor]:
        a, b = self._kept[module]
        return a.float(), b.float()

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)


def _halved(factor: torch.Tensor) -> torch.Tensor:
    """`factor` in the first half precision that holds it exactly, or as it is."""
    for dtype in (torch.float16, torch.bfloat16):
        if torch.equal((half := factor.to(dtype)).float(), factor):
            return half
    return factor


def sort_header(file: bytes) -> bytes:
    """A safetensors file with its header sorted: every write orders the metadata at random."""
    size = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + size])
    return _header(header) + file[8 + size :]


def _header(header: dict) -> bytes:
    """A safetensors header, its length before it."""
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // 8) * 8)  # the format aligns the tensors that follow to 8 bytes
    return len(text).to_bytes(8, "little") + text
