"""Image-text pairs: their ids, their seeds, and the image folders that stages exchange."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired

from typing_extensions import TypedDict  # pydantic takes typing's own from Python 3.12 on

from selma.ground.errors import UserError, first_line
from selma.ground.files import atomic, read_rows
from selma.ground.schema import FileName, Id, Index, Seed, Text, record

if TYPE_CHECKING:
    from PIL.Image import Image


METADATA = "metadata.jsonl"


def prompt_id(skill: str, text: str) -> str:
    """`<skill>-<sha256(text)[:12]>`: the same text has the same id in every run."""
    return f"{skill}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def image_seed(run_seed: int, id: str, k: int) -> int:
    """Seed of image `k` of prompt `id`, 0 <= seed < 2**31: a stable hash, so no order or batch changes it."""
    return int(hashlib.sha256(f"{run_seed}:{id}:{k}".encode()).hexdigest()[:8], 16) >> 1


def write_image(path: Path, image: Image) -> None:
    """Write a PIL image without loss or metadata, so that equal pixels give equal bytes: PNG, or WebP by its suffix.

    WebP takes a sixth less space for the embedded world's images, in about the same time.
    """
    with atomic(path) as temporary:
        if Path(path).suffix == ".webp":
            if max(image.size) > 16383:
                raise UserError(
                    f"{path}: {image.width} x {image.height} pixels; WebP allows 16383 per side, use .png"
                )
            image.save(temporary, format="WEBP", lossless=True, quality=75, method=4)
        else:
            image.save(temporary, format="PNG")


def read_image(path: Path) -> Image:
    """A PIL image in RGB as a viewer shows it, fully decoded.

    It is turned as its EXIF says, 16 bits are scaled to 8, and what is transparent lies on white.
    Raises UserError, naming it, if it is missing, truncated or not an image.
    """
    from PIL import Image as pil  # stages that touch no image do not pay for PIL

    try:
        with pil.open(path) as image:
            return _as_seen(image)
    except FileNotFoundError:
        raise UserError(f"{path}: image not found") from None
    except Exception as error:  # each of Pillow's decoders raises its own kinds
        raise UserError(f"{path}: is not a complete image ({first_line(error)})") from None


def _as_seen(image: Image) -> Image:
    import numpy as np
    from PIL import Image as pil
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits of grey: `convert` would cut them off at 255
        return pil.fromarray((np.asarray(image) / 257).round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range nothing states")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = pil.alpha_composite(pil.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


@record
class Prompt(TypedDict):
    """A row of prompts.jsonl or dev.jsonl."""

    id: Id
    text: Text


def read_prompts(path: Path) -> list[Prompt]:
    """The id and text of each row of a prompts.jsonl; raises UserError, naming the line, for a row without them,
    an id that cannot name an image file, and one that is there twice."""
    return [{"id": row["id"], "text": row["text"]} for row in read_rows(path, Prompt, once=["id"])]


@dataclass(frozen=True)
class Pair:
    """An image and the text it was drawn from; `k` counts the images of one text."""

    file: Path
    text: str
    id: str
    seed: int
    k: int = 0


@record
class _Row(TypedDict):
    """A row of metadata.jsonl; a person's own images may have further columns."""

    file_name: FileName
    text: Text
    id: Id
    seed: Seed
    k: NotRequired[Index]


def read_pairs(folder: Path, subfolders: Sequence[str] | None = None) -> list[Pair]:
    """The pairs of `folder/metadata.jsonl`, or those of each named subfolder one after another.

    Named, never globbed: what a folder holds beyond params.yaml must not slip into training. Raises
    UserError for a missing image, a row without one of the fields, an image outside the folder, an id's image or a file
    given twice, or no pairs.
    """
    folder = Path(folder)
    pairs: list[Pair] = []
    for part in [folder] if subfolders is None else [folder / name for name in subfolders]:
        pairs += [_pair(part, row) for row in read_rows(part / METADATA, _Row, once=["file_name"])]
    if not pairs:
        raise UserError(f"{folder}: holds no images; at least one is needed")
    seen: dict[tuple[str, int], Path] = {}
    for pair in pairs:
        if (first := seen.setdefault((pair.id, pair.k), pair.file)) != pair.file:
            raise UserError(
                f"{pair.file}: has id {pair.id!r} and k {pair.k}, as {first} has; give each its own"
            )
    return pairs


def _pair(folder: Path, row: _Row) -> Pair:
    file = folder / row["file_name"]
    if not file.is_file():
        raise UserError(f"{file}: image not found, though {folder / METADATA} names it")
    return Pair(file, row["text"], row["id"], row["seed"], row.get("k", 0))
