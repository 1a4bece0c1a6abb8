"""The dataset card of a folder of drawn images: README.md, as the hub shows it and `datasets` reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from selma.ground.files import read_json

if TYPE_CHECKING:
    from selma.runtime.params import Drawing

# `configs` names the files, so that `load_dataset(folder)` finds every image in one split with its prompt: by itself
# `datasets` takes words such as "test" in file names for splits.
CARD = """---
pretty_name: {title}
task_categories: [text-to-image]
tags: [synthetic, selma]
license: {licence}
configs:
- config_name: default
  drop_labels: true
  data_files:
  - {{split: {split}, path: "*"}}
---

# {title}

{about} Every image was drawn by `{model}`, none is a photograph or a person's work.

| | |
|---|---|
| images | {images} |
| drawn by | {model}{lora} |
| sampler | {scheduler}, {steps} steps, guidance {guidance:g} ({method}){size} |
| run seed | {seed}; an image's own is `seed` of metadata.jsonl, from which its noise is drawn in float32 on the CPU |
| columns | `image`, `text` (the prompt), `id`, `seed`{columns} |

The licence is what the base model's own says of its outputs, where one is declared; nobody has looked at every image.
"""


def card(
    backbone: Path,
    drawing: Drawing,
    *,
    title: str,
    about: str,
    split: str,
    images: int,
    seed: int,
    method: str = "cfg",
    weights: str = "",
    columns: str = "",
) -> str:
    """The text of README.md for `images` images drawn by a backbone's folder, with the LoRA `weights` if given."""
    source = backbone / "source.json"
    came = read_json(source) if source.is_file() else {}
    id, commit = came.get("id"), str(came.get("commit") or "")[:12]
    return CARD.format(
        title=json.dumps(title)[1:-1],
        about=about,
        split=split,
        licence=json.dumps(came.get("licence") or ("unknown" if came else "apache-2.0")),
        model=f"{id}@{commit}" if id else backbone.name,
        lora=f" with the LoRA `{weights}`" if weights else "",
        images=images,
        scheduler=drawing.scheduler,
        steps=drawing.steps,
        guidance=drawing.guidance,
        method=method,
        size=f", {drawing.resolution} px" if drawing.resolution else "",
        seed=seed,
        columns=columns,
    )
