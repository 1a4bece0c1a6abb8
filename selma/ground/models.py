"""A row of `models` as stages hand it on: a folder with its LoRA, if it has one, and model.json.

Every benchmark's images depend on this folder and on no row of params.yaml: a stage for a model and a benchmark cannot
name what the model's row names. model.json holds the sha256 of the guidance method's file, so that an edit of that
file draws again what is drawn by it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict  # pydantic takes typing's own from Python 3.12 on

from selma.ground.backbones import is_backbone
from selma.ground.files import read_record, sha256_file, write_json
from selma.ground.schema import Text, record

CARD, LORA = "model.json", "lora"


@record
class _Card(TypedDict):
    weights: Text
    guidance: Text
    options: NotRequired[dict[str, Any]]
    code: Text


@dataclass(frozen=True)
class Model:
    """`weights` as params.yaml names them, the LoRA's folder (None for the backbone itself), the method of guidance and
    its settings."""

    weights: str
    lora: Path | None
    guidance: str
    options: dict[str, Any] = field(default_factory=dict)


def write_model(folder: Path, weights: str, guidance: str, options: Mapping[str, Any], code: Path) -> None:
    """Write a row's folder: a copy of the LoRA in `weights`, a backbone's folder excepted, and model.json.

    `code` is the file of the guidance method, `options` its settings, all of them; model.json names none of a method
    that has none.
    """
    if not is_backbone(Path(weights)):
        shutil.copytree(weights, folder / LORA)
    settings = {"options": dict(options)} if options else {}
    write_json(
        folder / CARD, {"weights": weights, "guidance": guidance, **settings, "code": sha256_file(code)}
    )


def read_model(folder: Path) -> Model:
    """The row that `write_model` wrote; raises UserError if model.json is missing or broken."""
    card = read_record(folder / CARD, _Card)
    lora = folder / LORA
    return Model(card["weights"], lora if lora.is_dir() else None, card["guidance"], card.get("options", {}))
