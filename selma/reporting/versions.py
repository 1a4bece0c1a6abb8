"""What a run was made with: the models, who wrote its prompts, who judged, and the packages."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from selma.ground.files import read_json
from selma.reporting.spent import Row
from selma.runtime.params import Params
from selma.runtime.places import BACKBONES

PACKAGES = (
    "torch",
    "diffusers",
    "peft",
    "transformers",
)  # those that results depend on; requirements.txt pins them


def what_ran(params: Params) -> list[Row]:
    """Rows (what, which, where from) for the page. Neither date nor host: the same run gives the same bytes."""
    llm, backbone = params.llm, params.expert.backbone
    rows = [("base model", backbone, _came(Path(BACKBONES) / backbone))]
    if params.images.backbone != backbone:
        rows.append(("training images by", params.images.backbone, ""))
    rows += [
        ("LLM", llm.model or "the embedded stand-in", f"provider {llm.provider}"),
        ("judge", params.judge.name, f"kind {params.judge.kind}"),
        ("training seed", str(params.seed), ""),
        ("packages", ", ".join(f"{name} {version(name)}" for name in PACKAGES), ""),
    ]
    return rows


def _came(folder: Path) -> str:
    """The hub's repository, commit and licence, from source.json; the embedded ones are pretrained here."""
    file = folder / "source.json"
    if not file.is_file():
        return "pretrained by this repository"
    came = read_json(file)
    named = (("", "id"), ("commit ", "commit"), ("licence ", "licence"))
    return ", ".join(f"{name}{came[key]}" for name, key in named if came.get(key))
