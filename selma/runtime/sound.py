"""Files of a work folder that are damaged, by a disk and not by a kill: they go, and the stage makes them again.

A stage renames what it writes into place when it is whole and flushed, so a kill leaves no half a file. Disks and
network file systems do. What a file says of its own length is checked, and its hash where the file system keeps it
(extended attributes; ext4, XFS and Btrfs do); elsewhere one whose bytes were changed in place is not found out. Files
of lines (.jsonl) are left alone: they grow line by line, and their readers know a torn one.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

from selma.ground.files import TEMPORARY, hash_beside, sha256_file

_PNG_END = b"IEND\xaeB`\x82"


def drop_damaged(folder: Path) -> list[Path]:
    """Remove every file under `folder` that is shorter or longer than it says, no JSON by its name, or not as it was
    written; returns them."""
    damaged = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix in _CHECKS
        and not path.name.startswith(TEMPORARY)
        and path.is_file()
        and not _whole(path)
    ]
    for path in damaged:
        path.unlink()
    return damaged


def _whole(path: Path) -> bool:
    try:
        return hash_beside(path) in (None, sha256_file(path)) and _CHECKS[path.suffix](path)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, struct.error):
        return False


def _safetensors(path: Path) -> bool:
    """Its first eight bytes are its header's length; the header has each tensor's place after it."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        size = path.stat().st_size
        if length > size:
            return False
        header = json.loads(file.read(length))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return size == 8 + length + max(ends, default=0)


def _webp(path: Path) -> bool:
    """RIFF: bytes 4 to 8 are the length of what follows."""
    with open(path, "rb") as file:
        kind, length = struct.unpack("<4sI", file.read(8))
    return kind == b"RIFF" and path.stat().st_size == 8 + length + length % 2


def _png(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-len(_PNG_END), 2)
        return file.read() == _PNG_END


def _json(path: Path) -> bool:
    json.loads(path.read_text(encoding="utf-8"))
    return True


_CHECKS: dict[str, Callable[[Path], bool]] = {
    ".safetensors": _safetensors,
    ".webp": _webp,
    ".png": _png,
    ".json": _json,
}
