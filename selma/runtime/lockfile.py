"""dvc.lock as text: one block for each stage; and a copy of it, as DVC writes it in place.

Of a file of thousands of lines only what is asked for is parsed: each stage is a block that its name opens, indented by
two. DVC empties the file and writes it anew after every stage. Killed in between it leaves the beginning of one, by
which the rest of the pipeline has never run. `python -m selma.dvc` writes it at one stroke; for plain `dvc` each stage
keeps a copy as it begins, which our commands put back.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

from selma.ground.files import write_text

LOCK = Path("dvc.lock")
KEPT = Path(".work/dvc.lock")
HELP = "`git restore -SW dvc.lock` brings the committed one"


def block(stage: str) -> str:
    """What dvc.lock here says of a stage, as it is written; '' where it says nothing."""
    return _blocks(_read(LOCK)).get(stage, "")


def checksums(stages: Collection[str]) -> dict[str, str | None]:
    """DVC's checksum of every out of those stages, by path; of what DVC wrote none of, None."""
    sums: dict[str, str | None] = {}
    for name, text in _blocks(_read(LOCK)).items():
        if name in stages:
            (ran,) = _parsed(text).values()
            sums |= {out["path"]: out.get("md5") for out in ran.get("outs", ())}
    return sums


def keep() -> None:
    """Copy dvc.lock, if it is whole; a stage that DVC runs calls this, as DVC then writes nothing."""
    text = _read(LOCK)
    if text and not _cut(text) and text != _read(KEPT):
        write_text(KEPT, text)


def restore() -> None:
    """Where dvc.lock was cut off, put the copy back, and say so; without a copy, say what does it."""
    if not is_cut():
        return
    if kept := _read(KEPT):
        write_text(LOCK, kept)
    done = "it is put back as it was when the last stage began" if kept else HELP
    print(f"warning: dvc.lock was cut off while DVC wrote it; {done}", file=sys.stderr, flush=True)


def is_cut() -> bool:
    """Whether dvc.lock was cut off."""
    return LOCK.is_file() and _cut(_read(LOCK), _read(KEPT))


def _cut(text: str, before: str = "") -> bool:
    """Whether `text` is the beginning of a dvc.lock: it ends within a line or a block, or has the first stages alone of
    what was there `before` and is no commit's."""
    found = _blocks(text)
    if not text.endswith("\n"):
        return True
    try:
        if found and "cmd" not in next(iter(_parsed(list(found.values())[-1]).values())):
            return True
    except (ValueError, AttributeError, TypeError):
        return True
    names, earlier = list(found), list(_blocks(before))
    return len(names) < len(earlier) and names == earlier[: len(names)] and not _is_committed(text)


def _is_committed(text: str) -> bool:
    done = subprocess.run(
        ["git", "show", "HEAD:./dvc.lock"], capture_output=True, text=True, encoding="utf-8", check=False
    )
    return done.returncode == 0 and done.stdout == text


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _blocks(text: str) -> dict[str, str]:
    """The stages' blocks by name, in their order."""
    found = (part for part in re.split(r"^(?=  \S)", text, flags=re.MULTILINE) if part.startswith("  "))
    return {part.partition(":")[0].strip(" '\""): part for part in found}


def _parsed(text: str) -> dict:
    """Plain YAML; raises ValueError for what is none."""
    import yaml  # thirty times ruamel's speed, and enough for a file that a machine wrote

    try:
        found = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    return found
