"""What a run was made with: the models, who wrote its prompts, who judged, and the packages."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

from selma.ground.files import read_text
from selma.reporting.spent import Row
from selma.runtime.params import Params

PACKAGES = (
    "torch",
    "diffusers",
    "peft",
    "transformers",
)  # those that results depend on; requirements.txt pins them


def what_ran(params: Params, card: Path) -> list[Row]:
    """Rows (what, which, where from) for the page. Neither date nor host: the same run gives the same bytes.

    `card` is the dataset card of images that the base model drew (selma/images/card.py), which says where it came from.
    """
    llm, backbone = params.llm, params.expert.backbone
    rows = [("base model", backbone, _came(card))]
    if params.images.backbone != backbone:
        rows.append(("training images by", params.images.backbone, ""))
    rows += [
        ("LLM", llm.model or "the embedded stand-in", f"provider {llm.provider}"),
        ("judge", params.judge.name, f"kind {params.judge.kind}"),
        ("training seed", str(params.seed), ""),
        ("packages", ", ".join(f"{name} {_release(name)}" for name in PACKAGES), ""),
    ]
    return rows


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
