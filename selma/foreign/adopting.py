"""What lora.json says of a LoRA that another tool made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selma.backbones.loading import fingerprint, text_fingerprint
from selma.foreign.backbone import Backbone
from selma.foreign.names import targets
from selma.foreign.reading import Read
from selma.ground.adapters import TEXT_ENCODERS, UNET, part_of
from selma.ground.files import sha256_file


def card_of(name: str, file: Path, lora: Read, backbone: Backbone) -> dict[str, Any]:
    """The card of a LoRA that was read from a file, which fits the backbone.

    That it was trained on this very backbone is the user's word: its file does not say.
    """
    rank = next(iter(lora.factors.values()))[0].shape[0]
    adapted = {part: [] for part in (UNET, *TEXT_ENCODERS)}
    for layer in lora.factors:
        part, own = part_of(layer)
        adapted[part].append(own)
    ends: dict[str, list[str]] = {}
    for part, names in adapted.items():
        ends[part] = targets(names, [own for of, own in map(part_of, backbone.shapes) if of == part])
    texts = sorted({end for part in TEXT_ENCODERS for end in ends[part]})
    return {
        "name": name,
        "backbone": fingerprint(backbone.folder),
        "rank": rank,
        "alpha": lora.scaling * rank,
        "targets": ends[UNET],
        **({"text_targets": texts, "text_backbone": text_fingerprint(backbone.folder)} if texts else {}),
        "file": file.name,
        "sha256": sha256_file(file),
    }
