"""A folder that leaves the house: written as a whole, marked as ours, never over anything else."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selma.ground.errors import UserError
from selma.ground.files import read_json, sha256_file, write_json
from selma.runtime import work

MARK, README = "export.json", "README.md"
MANY = 10  # files of a folder that are listed one by one


def check_target(out: Path) -> None:
    """Raise UserError unless `out` does not exist, is empty, or holds an export and nothing else."""
    if out.is_dir():
        held = set(files_of(out))
        known = {MARK, *marked(read_json(out / MARK))} if MARK in held else set()
        if strays := sorted(held - known):
            raise UserError(
                f"{out}: holds {strays[0]}, which no export wrote; choose another folder with --out"
            )
    elif out.exists() or out.is_symlink():
        raise UserError(f"{out}: exists and is not a folder; choose another path with --out")


@contextmanager
def replaced(out: Path) -> Iterator[Path]:
    """Yield an empty folder next to `out` that replaces it if the body succeeds, and is removed otherwise."""
    out = Path(os.path.abspath(out))
    temporary = out.with_name(f".new-{out.name}")
    shutil.rmtree(temporary, ignore_errors=True)  # of an export that was killed
    temporary.mkdir(parents=True)
    try:
        yield temporary
        work.publish(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_mark(folder: Path, about: Mapping[str, Any], more: Mapping[str, Any] = {}) -> None:
    """Write export.json: what the folder holds, in words and with the sha256 of every file in it."""
    digests = {name: sha256_file(folder / name) for name in files_of(folder)}
    write_json(folder / MARK, {**about, "files": digests, **more})


def marked(mark: Any) -> list[str]:
    """The files that the contents of an export.json list; none where it is not one."""
    files = mark.get("files") if isinstance(mark, dict) else None
    return list(files) if isinstance(files, dict) else []


def files_of(folder: Path) -> list[str]:
    """Every file and link under a folder, and every folder without any, by its path in it, sorted."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir() or not any(path.iterdir())
    )


def listing(folder: Path, *, whole: bool = False) -> str:
    """A line for each file with its size in bytes, and their sum.

    A folder of more than MANY files is one line, with their number and sum, unless `whole`.
    """
    sizes = {name: (folder / name).stat().st_size for name in files_of(folder)}
    inside = Counter(name.rpartition("/")[0] for name in sizes)
    parts: dict[str, int] = {}
    for name, size in sizes.items():
        within = name.rpartition("/")[0]
        if within and inside[within] > MANY and not whole:
            name = f"{within}/  {inside[within]:,} files"
        parts[name] = parts.get(name, 0) + size
    lines = [f"{size:>13,}  {name}" for name, size in parts.items()]
    return "\n".join([*lines, f"{sum(sizes.values()):>13,}  bytes in {len(sizes):,} files"])
