"""Several LoRA experts as one bank, and mixtures of them as files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from selma.backbones.bank import Factors
from selma.ground.errors import UserError
from selma.ground.files import atomic, write_json
from selma.ground.mixtures import CARD, FACTORS, GATES
from selma.lora.files import LoraWeights, check_finite, load_lora, write_tensors


def load_experts(folders: Mapping[str, Path], backbone: str) -> dict[str, LoraWeights]:
    """The experts in these folders, by name; each must be of the backbone with this fingerprint.

    Raises UserError, naming the folder, for one of another backbone, and for experts that adapt different layers.
    """
    found = {name: load_lora(folder) for name, folder in folders.items()}
    for name, lora in found.items():
        if (theirs := lora.provenance["backbone"]) != backbone:
            raise UserError(
                f"{folders[name]}: was trained on a backbone of another fingerprint ({theirs[:12]}) than the mixture's "
                f"({backbone[:12]}); train it again"
            )
    shapes = {
        name: {module: (a.shape[1:], b.shape[0]) for module, (a, b) in lora.factors.items()}
        for name, lora in found.items()
    }
    first = next(iter(shapes))
    for name in shapes:
        if shapes[name] != shapes[first]:
            raise UserError(
                f"{folders[name]}: adapts other layers than {folders[first]}; all must be the same"
            )
    return found


def stacked(experts: Mapping[str, LoraWeights], dtype: torch.dtype) -> Factors:
    """The factors of all experts one after another: layer -> (down [R, in], up [out, R]), R the sum of their ranks."""
    factors = {}
    for module in next(iter(experts.values())).factors:
        pairs = [lora.factors[module] for lora in experts.values()]
        down, up = torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs], dim=1)
        factors[module] = (down.to(dtype), up.to(dtype))
    return factors


def save_mixture(
    folder: Path, factors: Factors, gates: Mapping[str, torch.Tensor], provenance: dict, dtype: torch.dtype
) -> None:
    """Write a mixture's folder (selma/ground/mixtures.py): factors in `dtype`, gates in fp32. Same input, same bytes.

    Checkpoints of one training lie side by side and hold the same factors: those of a neighbour are linked.
    Raises UserError for values that are not finite: nothing is written.
    """
    parts = {f"{layer}.down": down for layer, (down, _) in factors.items()}
    parts |= {f"{layer}.up": up for layer, (_, up) in factors.items()}
    own = {f"{layer}.gate": gate.detach().cpu() for layer, gate in gates.items()}
    for key, value in own.items():
        check_finite(folder, key, value, torch.float32, "mixture")
    neighbour = next(folder.parent.glob(f"step-*/{FACTORS}"), None)
    with atomic(folder / FACTORS) as temporary:
        if neighbour is None:
            write_tensors(temporary, parts, dtype, {"format": "pt"})
        else:
            _link(neighbour, temporary)
    with atomic(folder / GATES) as temporary:
        write_tensors(temporary, own, torch.float32, {"format": "pt"})
    write_json(folder / CARD, provenance)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
