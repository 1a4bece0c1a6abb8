"""Folders of mixtures, as the stages hand them on: several experts' factors, the gates that weigh them, and a card.

    experts.safetensors    <layer>.down [R, in] and <layer>.up [out, R], the experts' A and B one after another
    gates.safetensors      <layer>.gate [K, in]: the experts' weights are softmax(gate x)
    mixture.json           the experts' names, ranks (of the sum R) and scalings, the backbone's fingerprint

No LoRA file can hold one: its weights depend on what each layer reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NotRequired

from pydantic import Field
from typing_extensions import TypedDict  # pydantic takes typing's own from Python 3.12 on

from selma.ground.adapters import MIXED as CARD
from selma.ground.adapters import PRECISIONS, open_weights
from selma.ground.errors import UserError
from selma.ground.files import read_record
from selma.ground.schema import Count, Id, Texts, record

if TYPE_CHECKING:
    import torch

FACTORS, GATES = "experts.safetensors", "gates.safetensors"


@record
class MixtureCard(TypedDict):
    """What mixture.json must say; the rest (data, steps, seed) is for people."""

    backbone: str
    experts: Annotated[list[Id], Field(min_length=1)]
    ranks: list[Count]
    scalings: list[Annotated[float, Field(gt=0, le=1e30)]]
    targets: Annotated[Texts, Field(min_length=1)]
    name: NotRequired[str]


@dataclass(frozen=True)
class Mixture:
    """A folder's contents: layer -> (down [R, in], up [out, R]) as they are kept, layer -> gate [K, in] in fp32."""

    factors: dict[str, tuple[torch.Tensor, torch.Tensor]]
    gates: dict[str, torch.Tensor]
    card: MixtureCard


def is_mixture(folder: Path) -> bool:
    """Whether a folder holds a mixture, or what is left of one, and no LoRA."""
    return any((folder / name).is_file() for name in (FACTORS, GATES, CARD))


def read_mixture(folder: Path) -> Mixture:
    """Read a mixture's folder.

    Raises UserError when a file is missing or corrupt, when it holds anything but finite factors and gates of the same
    layers, and when they do not fit what mixture.json says.
    """
    for name in (CARD, FACTORS, GATES):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: file not found; a mixture holds {FACTORS}, {GATES} and {CARD}")
    said: MixtureCard = read_record(folder / CARD, MixtureCard)
    count = len(said["experts"])
    if len(said["ranks"]) != count or len(said["scalings"]) != count:
        raise UserError(
            f"{folder / CARD}: names {count} experts, {len(said['ranks'])} ranks and {len(said['scalings'])} scalings; "
            "each expert has one of both"
        )
    downs, ups = _parts(folder / FACTORS, ("down", "up"))
    (gates,) = _parts(folder / GATES, ("gate",))
    if not downs or not downs.keys() == ups.keys() == gates.keys():
        raise UserError(
            f"{folder}: {FACTORS} and {GATES} must hold the same layers, each with down, up and a gate"
        )
    for layer, down in downs.items():
        wide, rank = down.shape[-1], sum(said["ranks"])
        sound = down.shape == (rank, wide) and ups[layer].shape == (len(ups[layer]), rank)
        if not sound or gates[layer].shape != (count, wide) or not (wide and len(ups[layer])):
            shapes = ", ".join(str(tuple(part[layer].shape)) for part in (downs, ups, gates))
            raise UserError(
                f"{folder}: {layer} has down, up and gate of the shapes {shapes}; {CARD} says {count} experts of "
                f"ranks that sum up to {rank}"
            )
    factors = {layer: (down, ups[layer]) for layer, down in downs.items()}
    return Mixture(factors, {layer: gate.float() for layer, gate in gates.items()}, said)


def _parts(file: Path, names: tuple[str, ...]) -> list[dict[str, torch.Tensor]]:
    """A file's tensors, finite and in one of PRECISIONS, by layer for each of the `names` that their keys end in."""
    found: dict[str, dict[str, torch.Tensor]] = {name: {} for name in names}
    for key, tensor in sorted(open_weights(file, "mixture")[0].items()):
        layer, _, name = key.rpartition(".")
        if name not in found or not layer:
            raise UserError(f"{file}: holds {key[:80]}; allowed: <layer>.{' and <layer>.'.join(names)}")
        if str(tensor.dtype).removeprefix("torch.") not in PRECISIONS or not tensor.isfinite().all():
            raise UserError(f"{file}: {key} must hold finite numbers in one of: {', '.join(PRECISIONS)}")
        found[name][layer] = tensor
    return list(found.values())
