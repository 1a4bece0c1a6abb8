"""Take a LoRA of your own, as other tools wrote it, in the layout of the experts: a row of models, or to merge.

    python -m stages.own_lora mine

reads   own.loras.<name>.path     a .safetensors file by kohya's, diffusers' or peft's names, or a folder with one
        models/backbones/<expert.backbone>/   whose layers it must fit
writes  models/experts/<name>/    pytorch_lora_weights.safetensors (diffusers format) and lora.json

The path is a dependency: an edit of the file runs this again.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from selma.backbones.loading import check_trained_on
from selma.backbones.parts import check_files, read_kind
from selma.foreign.adopting import card_of
from selma.foreign.backbone import open_backbone
from selma.foreign.reading import find, read
from selma.ground.adapters import CARD
from selma.ground.errors import UserError
from selma.ground.files import read_record
from selma.lora.files import LoraWeights, load_lora, save_lora
from selma.runtime import stage, work
from selma.runtime.params import load_params
from selma.runtime.places import BACKBONES, EXPERTS


def main(name: str) -> None:
    params = load_params()
    if name not in params.own.loras:
        raise UserError(
            f"own.loras: no LoRA {name!r} in params.yaml; allowed: {', '.join(params.own.loras) or 'none'}"
        )
    path = Path(params.own.loras[name].path)
    base = Path(BACKBONES) / params.expert.backbone
    check_files(base, read_kind(base))
    file = find(path)
    known = read_record(path / CARD, dict) if (path / CARD).is_file() else {}
    if "backbone" in known:  # one of another run of this repository
        check_trained_on(path, known, base)
    backbone = open_backbone(base)
    found = read(file, backbone)
    card = card_of(name, file, found, backbone)
    state = LoraWeights(found.factors, found.scaling, card).state()
    with work.folder(stage.name()) as folder:
        out = folder / "lora"
        shutil.rmtree(out, ignore_errors=True)  # incomplete, if a run was stopped here
        with work.called({out: str(file)}):
            save_lora(out, state, card, found.dtype)
            load_lora(out)  # what does not open fails here
        work.publish(out, Path(EXPERTS) / name)


if __name__ == "__main__":
    stage.run(main)
