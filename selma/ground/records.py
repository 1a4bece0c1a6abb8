"""Files as the stages exchange them: atomic writes, JSON lines, images, and the ids and seeds of pairs.

Every writer goes through `atomic`, so a file either is whole or is not there. Reading something missing,
truncated or malformed raises a UserError naming the file. Ground floor: imports nothing of selma but errors.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selma.ground.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

METADATA = "metadata.jsonl"


# Ids and seeds ---------------------------------------------------------------------------------


def prompt_id(skill: str, text: str) -> str:
    """`<skill>-<sha256(text)[:12]>`: the same text has the same id in every run."""
    return f"{skill}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def image_seed(run_seed: int, id: str, k: int) -> int:
    """Seed of image `k` of prompt `id`, 0 <= seed < 2**31: a stable hash, so no order or batch changes it."""
    return int(hashlib.sha256(f"{run_seed}:{id}:{k}".encode()).hexdigest()[:8], 16) >> 1


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(path: Path) -> str:
    """Hex sha256 over the relative paths and contents of every file under `path`, or of `path` if a file.

    Temporary files of `atomic` and Python's caches are no contents. Missing -> UserError.
    """
    path = Path(path)
    if path.is_file():
        return sha256_file(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder")
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_file() and not _is_temporary(file) and "__pycache__" not in file.parts:
            digest.update(f"{file.relative_to(path).as_posix()}\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()


# Writing ---------------------------------------------------------------------------------------


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed to disk and renamed to `path`.

    On an error the temporary file is removed and `path` is as it was. Parent folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: writers such as PIL choose the format by it.
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _is_temporary(file: Path) -> bool:
    return file.name.startswith(".tmp-")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with `\\n` line ends on every system."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, obj: Any) -> None:
    """Write indented JSON; NaN and infinity, which JSON has not, raise ValueError."""
    write_text(path, json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]], fields: Sequence[str]) -> None:
    """Write a header and the `fields` of each row; a row with other fields raises ValueError."""
    with atomic(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(fields), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_image(path: Path, image: Image) -> None:
    """Write a PIL image without loss or metadata, so that equal pixels give equal bytes: PNG, or WebP by its suffix.

    WebP takes a sixth less of the embedded world's pictures, in about the same time.
    """
    with atomic(path) as temporary:
        if Path(path).suffix == ".webp":
            if max(image.size) > 16383:
                raise UserError(f"{path}: {image.width} x {image.height} pixels; WebP holds 16383, take .png")
            image.save(temporary, format="WEBP", lossless=True, quality=75, method=4)
        else:
            image.save(temporary, format="PNG")


# Reading ---------------------------------------------------------------------------------------


def read_json(path: Path) -> Any:
    """The contents of a JSON file; missing or malformed -> UserError naming the line."""
    try:
        return json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: is not valid JSON ({error.msg})") from None


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """One dict per non-blank line; missing, malformed or not an object -> UserError naming the line."""
    rows = []
    # Not splitlines: it also splits at U+2028 and friends, which JSON strings may hold.
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number}: is not valid JSON ({error.msg})") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: is not a JSON object")
        rows.append(row)
    return rows


def read_image(path: Path) -> Image:
    """A PIL image in RGB, fully decoded; missing, truncated or no image -> UserError naming it."""
    from PIL import Image as pil  # stages that touch no image do not pay for PIL

    try:
        with pil.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise UserError(f"{path}: no such image") from None
    except (OSError, SyntaxError, ValueError, EOFError, pil.DecompressionBombError) as error:
        raise UserError(f"{path}: is not a whole image ({' '.join(str(error).split())})") from None


def _read_text(path: Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text") from None


@dataclass(frozen=True)
class Pair:
    """An image and the text it was drawn from; `k` counts the images of one text."""

    file: Path
    text: str
    id: str
    seed: int
    k: int = 0


def read_pairs(folder: Path, subfolders: Sequence[str] | None = None) -> list[Pair]:
    """The pairs of `folder/metadata.jsonl`, or those of each named subfolder one after another.

    Named, never globbed: what a folder holds beyond params.yaml must not slip into training. Raises
    UserError for a missing image, a row without one of the fields, an id's image given twice, or no pairs.
    """
    folder = Path(folder)
    pairs: list[Pair] = []
    for part in [folder] if subfolders is None else [folder / name for name in subfolders]:
        pairs += [_pair(part, number, row) for number, row in enumerate(read_jsonl(part / METADATA), start=1)]
    if not pairs:
        raise UserError(f"{folder}: holds no images; at least one is needed")
    files = [pair.file for pair in pairs]
    if len(set(files)) < len(files):
        twice = next(file for file in files if files.count(file) > 1)
        raise UserError(f"{twice}: is named twice in {METADATA}")
    return pairs


def _pair(folder: Path, number: int, row: Mapping[str, Any]) -> Pair:
    where = f"{folder / METADATA}, row {number}"
    wanted = {"file_name": str, "text": str, "id": str, "seed": int}
    for field, kind in wanted.items():
        if not isinstance(row.get(field), kind):
            raise UserError(f"{where}: needs {field}, a {kind.__name__}; it has {row.get(field)!r}")
    file = folder / row["file_name"]
    if not file.is_file():
        raise UserError(f"{file}: no such image, though {where} names it")
    return Pair(file, row["text"], row["id"], row["seed"], int(row.get("k", 0)))
