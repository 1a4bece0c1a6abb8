"""dvc.lock as text: one block for each stage.

Of a file of thousands of lines only what is asked for is parsed: each stage is a block that its name opens, indented by
two.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path


def block(stage: str) -> str:
    """What dvc.lock here says of a stage, as it is written; '' where it says nothing."""
    return _blocks([stage]).get(stage, "")


def checksums(stages: Collection[str]) -> dict[str, str | None]:
    """DVC's checksum of every out of those stages, by path; of what DVC wrote none of, None."""
    import yaml  # thirty times ruamel's speed, and enough for a file that a machine wrote

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    sums: dict[str, str | None] = {}
    for text in _blocks(stages).values():
        (ran,) = yaml.load(text, Loader=loader).values()
        sums |= {out["path"]: out.get("md5") for out in ran.get("outs", ())}
    return sums


def _blocks(stages: Collection[str]) -> dict[str, str]:
    lock = Path("dvc.lock")
    text = lock.read_text(encoding="utf-8") if lock.is_file() else ""
    found = re.split(r"^(?=  \S)", text, flags=re.MULTILINE)
    named = ((block.partition(":")[0].strip(" '\""), block) for block in found)
    return {name: block for name, block in named if name in stages}
