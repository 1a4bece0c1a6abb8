"""What a run was made with: the models, who wrote its prompts, who judged, and the packages."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from selma.ground.files import read_text
from selma.reporting.spent import Row
from selma.runtime.params import Judge

PACKAGES = (
    "torch",
    "diffusers",
    "peft",
    "transformers",
)  # those that results depend on; requirements.txt pins them


def what_ran(
    llm: tuple[str, str | None], judge: Judge, backbones: Iterable[str], seed: int, card: Path
) -> list[Row]:
    """Rows (what, which, where from) for the page. Neither date nor host: the same run gives the same bytes.

    `llm` is its provider and model, `backbones` are the base model's name and, where another one drew the training
    images, that one's. `card` is the dataset card of images that the base model drew (selma/images/card.py), which says
    where it came from.
    """
    base, *others = backbones
    return [
        ("base model", base, _came(card)),
        *(("training images by", other, "") for other in others),
        ("LLM", llm[1] or "the embedded stand-in", f"provider {llm[0]}"),
        ("judge", judge.name, f"kind {judge.kind}"),
        ("training seed", str(seed), ""),
        ("packages", ", ".join(f"{name} {_release(name)}" for name in PACKAGES), ""),
    ]


def _release(package: str) -> str:
    """A package's version without what it was built for: 2.13.0, not 2.13.0+cpu."""
    return version(package).partition("+")[0]


def _came(card: Path) -> str:
    """The model's name or hub repository with its commit, and the licence of its images; "" where no card says."""
    if not card.is_file():
        return ""
    text = read_text(card)
    found = [
        re.search(pattern, text, re.MULTILINE)
        for pattern in (r"^\| drawn by \| (.+) \|$", r'^license: "?([^"\n]+)')
    ]
    return ", ".join(
        prefix + match[1] for prefix, match in zip(("", "licence "), found, strict=True) if match
    )
