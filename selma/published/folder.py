"""A judge's folder: which files of it are loaded, and where they lie.

Weights and settings lie in the folder itself, a tokenizer beside them or in tokenizer/, the sentence embedding that
maps free answers to choices in matcher/.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection
from pathlib import Path

from selma.ground.errors import UserError, first_line
from selma.ground.files import atomic, sha256_file

PARTS = {"weights": ".", "tokenizer": "tokenizer", "matcher": "matcher"}  # and where each lies in the folder

SETTINGS = (".json", ".txt", ".model", ".jinja")  # what configurations, tokenizers and processors are made of
PICKLED = (".pt", ".pth", ".bin")
WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt")  # CLIP's and BERT's; one of them is enough


def copy_judge(path: Path, out: Path, parts: Collection[str]) -> dict[str, str]:
    """Copy what is loaded of a judge's folder, of `parts` (keys of PARTS), to `out`; never a link to a user's file.

    Returns the sha256 of each file by its path in `out`. Raises UserError for what is not a folder, and for weights
    that are missing or pickled.
    """
    if not path.is_dir():
        raise UserError(f"judge path {path}: is not a folder; the folder of a judge's files is needed")
    hashes = {}
    try:
        for part in parts:
            inside = path / PARTS[part]
            for file in sorted(inside.iterdir()) if inside.is_dir() else ():
                if file.is_file() and (file.suffix in SETTINGS or WEIGHTS.fullmatch(file.name)):
                    name = file.relative_to(path).as_posix()
                    with atomic(out / name) as temporary:
                        shutil.copyfile(file, temporary)
                    hashes[name] = sha256_file(out / name)
        pickled = any(file.suffix in PICKLED for file in path.iterdir())
    except PermissionError as error:
        raise UserError(f"judge path {path}: cannot be read ({first_line(error)})") from None
    if not any(WEIGHTS.fullmatch(name) for name in hashes):
        why = "only pickled weights, which are never loaded" if pickled else "no weights"
        raise UserError(f"judge path {path}: holds {why}; model.safetensors is needed")
    return dict(sorted(hashes.items()))


def check_tokenizer(folder: Path) -> None:
    """Raise UserError for a folder without a tokenizer: transformers would make an empty one, and scores be noise."""
    if not any((folder / place / name).is_file() for place in (".", "tokenizer") for name in TOKENIZERS):
        raise UserError(
            f"{folder}: holds no tokenizer; one of {', '.join(TOKENIZERS)} is needed, in it or in tokenizer/"
        )
