"""Who drew a folder of images, and how their prompts' images were made to differ.

drawer.json beside the images names the LoRA's folder and its sha256, so that what depends on the images depends on the
LoRA, too: it is the model itself, to a judge that asks itself and to pairs that it learns from. `backbone` is the
backbone's fingerprint, `diversity` how features were changed by each image's seed (selma/backbones/diversity.py). A
person's own images have no such file, nor do those of data/images that a diffusion backbone drew.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict  # pydantic takes typing's own from Python 3.12 on

from selma.ground.adapters import WEIGHTS
from selma.ground.errors import UserError
from selma.ground.files import read_record, sha256_file, write_json
from selma.ground.schema import Text, record

FILE = "drawer.json"


@record
class _Drawer(TypedDict):
    backbone: Text
    weights: Text | None
    sha256: Text | None
    diversity: dict[str, Any] | None


@dataclass(frozen=True)
class Drawer:
    """The backbone's fingerprint, None where nobody says; the LoRA's folder, None for the backbone itself; the method
    and strength of diversity, None for noise."""

    backbone: str | None = None
    lora: Path | None = None
    diversity: Mapping[str, Any] | None = None


def write_drawer(
    folder: Path, backbone: str, lora: Path | None = None, diversity: Mapping[str, Any] | None = None
) -> None:
    """Say in a folder of images what drew them; `backbone` is a fingerprint."""
    said = {
        "backbone": backbone,
        "weights": lora and lora.as_posix(),
        "sha256": lora and sha256_file(lora / WEIGHTS),
        "diversity": diversity and dict(diversity),
    }
    write_json(folder / FILE, said)


def read_drawer(folder: Path) -> Drawer:
    """What drew a folder's images.

    Raises UserError for a LoRA that is not there any more, or is another one now.
    """
    file = Path(folder) / FILE
    if not file.is_file():
        return Drawer()
    said = read_record(file, _Drawer)
    if said["weights"] is None:
        return Drawer(said["backbone"], None, said["diversity"])
    weights = Path(said["weights"]) / WEIGHTS
    if not weights.is_file() or sha256_file(weights) != said["sha256"]:
        raise UserError(f"{weights}: is not the LoRA that drew the images of {folder}; draw them again")
    return Drawer(said["backbone"], Path(said["weights"]), said["diversity"])


def copy_drawer(sources: Iterable[Path], folder: Path) -> None:
    """Say of images chosen from these folders what they say; raises UserError where they differ."""
    found = [(read_drawer(source), source) for source in sources]
    first, source = found[0]
    if any(other != first for other, _ in found):
        raise UserError(f"{folder}: its images are of several models; choose from those of one")
    if (source / FILE).is_file():
        shutil.copyfile(source / FILE, folder / FILE)
