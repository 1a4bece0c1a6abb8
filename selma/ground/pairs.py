"""Image-text pairs: their ids, their seeds, and the image folders that stages exchange."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict  # pydantic takes typing's own from Python 3.12 on

from selma.ground.errors import UserError, first_line
from selma.ground.files import atomic, numbered_rows, read_csv, read_record, read_rows
from selma.ground.schema import FileName, Id, Index, Seed, Text, check, record

if TYPE_CHECKING:
    from PIL.Image import Image


METADATA = "metadata.jsonl"
POOL = "skills.json"  # in data/images: the skills whose images an expert trained on that folder reads
HELD_OUT = "held_out.jsonl"  # beside images: prompts {id, text} that none of them shows; "dev" is a split to `datasets`


def prompt_id(skill: str, text: str) -> str:
    """`<skill>-<sha256(text)[:12]>`: the same text has the same id in every run."""
    return f"{skill}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def image_seed(run_seed: int, id: str, k: int) -> int:
    """Seed of image `k` of prompt `id`, 0 <= seed < 2**31: a stable hash, so no order or batch changes it."""
    return int(hashlib.sha256(f"{run_seed}:{id}:{k}".encode()).hexdigest()[:8], 16) >> 1


def write_image(path: Path, image: Image) -> None:
    """Write a PIL image without loss or metadata, so that equal pixels give equal bytes: PNG, or WebP by its suffix.

    WebP is written by its fast method: five times as fast as the default one for 64 px, and an eighth larger.
    """
    with atomic(path) as temporary:
        if Path(path).suffix == ".webp":
            if max(image.size) > 16383:
                raise UserError(
                    f"{path}: {image.width} x {image.height} pixels; WebP allows 16383 per side, use .png"
                )
            image.save(temporary, format="WEBP", lossless=True, quality=0, method=1)
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
    """An image and the text it was drawn from; `k` counts the images of one text.

    `rejected` is the image that lost against it for the same text; None where nothing was compared; `rejected_seed`
    is what that one was drawn from. `tokens` are those that a multimodal backbone drew it by, `rejected_tokens` the
    other one's; None of other images.
    """

    file: Path
    text: str
    id: str
    seed: int
    k: int = 0
    rejected: Path | None = None
    rejected_seed: int | None = None
    tokens: tuple[int, ...] | None = None
    rejected_tokens: tuple[int, ...] | None = None


Tokens = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


@record
class _Row(TypedDict):
    """A row of metadata.jsonl; a person's own images may have further columns."""

    file_name: FileName
    text: Text
    id: Id
    seed: Seed
    k: NotRequired[Index]
    tokens: NotRequired[Tokens]


@record
class _Own(TypedDict):
    """A row of a person's own metadata: the columns that `datasets` gives an imagefolder of captions."""

    file_name: FileName
    text: Text
    id: NotRequired[Id]
    seed: NotRequired[Seed]
    k: NotRequired[Index]
    rejected: NotRequired[FileName]
    rejected_seed: NotRequired[Seed]
    tokens: NotRequired[Tokens]
    rejected_tokens: NotRequired[Tokens]


def read_pairs(folder: Path) -> list[Pair]:
    """The pairs of `folder/metadata.jsonl`, as a stage wrote it.

    Raises UserError for a missing image, a row without one of the fields, an image outside the folder, an id's image or
    a file given twice, or no pairs.
    """
    folder = Path(folder)
    return _checked(folder, [_pair(folder, *row) for row in _placed(folder / METADATA, _Row)])


def parts(folder: Path, skills: Sequence[str] | None = None) -> list[Path]:
    """The folders of an expert's images: those of the skills that `folder/skills.json` names, else `folder` itself.

    Named, never globbed: what a folder holds beyond params.yaml must not slip into training. `skills` keeps those of
    them alone, in the file's order. Raises UserError for one that the file lacks, and for no file.
    """
    folder = Path(folder)
    if not (folder / POOL).is_file():
        if skills is not None:
            raise UserError(
                f"{folder}: holds no {POOL}, so none of its images are a skill's; leave out skills"
            )
        return [folder]
    names = read_record(folder / POOL, list[FileName])
    for skill in skills or ():
        if skill not in names:
            raise UserError(f"{folder / POOL}: does not name {skill}; it names {', '.join(names)}")
    return [folder / name for name in names if skills is None or name in skills]


def read_training(
    folder: Path, skills: Sequence[str] | None = None, needed_by: str | None = None
) -> list[Pair]:
    """The pairs to train an expert on, those of its `parts` one after another.

    A person's own folder will do: an HF imagefolder, whose metadata.jsonl or metadata.csv has file_name and text; `id`
    is the file's name where there is none, `seed` 0. A column `rejected` names, in the same folder, the image that lost
    against file_name for its text; an objective that learns from both is named in `needed_by`, and then every row must
    have one. Raises UserError as `read_pairs` does.
    """
    rows = [(part, *row) for part in parts(folder, skills) for row in _own_rows(part)]
    for part, place, row in rows if needed_by else ():
        _check_rejected(part, place, row, needed_by)
    return _checked(Path(folder), [_pair(*row) for row in rows])


def _check_rejected(folder: Path, place: str, row: _Own, needed_by: str | None) -> None:
    if "rejected" not in row:
        raise UserError(
            f"{place}: has no column rejected for {row['file_name'][:80]!r}; objective {needed_by} needs the image "
            "that lost against it, by its file name"
        )
    if row["rejected"] == row["file_name"]:
        raise UserError(f"{place}: {row['file_name'][:80]!r} is rejected against itself; name two images")
    if not (folder / row["rejected"]).is_file():
        raise UserError(f"{folder / row['rejected']}: image not found; {place}, rejects it")


def _placed(path: Path, schema: Any) -> list[tuple[str, Any]]:
    """The rows of a metadata.jsonl, each with its place as messages name it."""
    return [
        (f"{path}, line {number}", row) for number, row in numbered_rows(path, schema, once=["file_name"])
    ]


def _own_rows(folder: Path) -> list[tuple[str, _Own]]:
    """A person's own rows, each with its place."""
    if (folder / METADATA).is_file():
        return _placed(folder / METADATA, _Own)
    if (table := folder / "metadata.csv").is_file():
        columns = ("file_name", "text")
        known = (*columns, "rejected")
        found = []
        seen: dict[str, int] = {}
        for row in read_csv(table, columns):
            place = f"{table}, line {row.line}"
            cells = {name: row.cells[name] for name in known if name in row.cells}
            found.append((place, check(_Own, cells, place, "the row")))
            if (first := seen.setdefault(cells["file_name"], row.line)) != row.line:
                raise UserError(
                    f"{place}: file_name {cells['file_name'][:80]!r} is in line {first} already; it must be there once"
                )
        return found
    raise UserError(
        f"{folder}: holds no {METADATA} (or metadata.csv), which names each image's file_name and text"
    )


def _checked(folder: Path, pairs: list[Pair]) -> list[Pair]:
    if not pairs:
        raise UserError(f"{folder}: holds no images; at least one is needed")
    seen: dict[tuple[str, int], Path] = {}
    for pair in pairs:
        if (pair.id, pair.k) in seen:
            first = seen[pair.id, pair.k]
            raise UserError(
                f"{pair.file}: has id {pair.id!r} and k {pair.k}, as {first} has; give each its own"
            )
        seen[pair.id, pair.k] = pair.file
    return pairs


def _pair(folder: Path, place: str, row: _Row | _Own) -> Pair:
    file = folder / row["file_name"]
    if not file.is_file():
        raise UserError(f"{file}: image not found; {place}, names it")
    rejected = folder / row["rejected"] if "rejected" in row else None
    tokens = (tuple(row[key]) if key in row else None for key in ("tokens", "rejected_tokens"))
    return Pair(
        file,
        row["text"],
        row.get("id", row["file_name"]),
        row.get("seed", 0),
        row.get("k", 0),
        rejected,
        row.get("rejected_seed"),
        *tokens,
    )
