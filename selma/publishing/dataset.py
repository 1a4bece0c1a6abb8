"""The training images of skills as a dataset: an imagefolder for each skill, and one card for all.

The folder of a skill's images has a short card of its own, written when they were drawn. This one has what the hub
wants of a dataset (`configs`, `dataset_info`) and how the prompts came to be. Prompts that were held out are left out.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selma.ground.errors import UserError
from selma.ground.files import read_record, write_jsonl, write_text
from selma.ground.pairs import METADATA, Pair, image_seed, read_image, read_pairs
from selma.net.pipelines import SOURCE
from selma.publishing import licences, trained
from selma.publishing.folder import README, check_target, replaced, write_mark
from selma.publishing.lora import base_of
from selma.reporting.metrics import Filter
from selma.runtime.params import Params
from selma.runtime.places import BACKBONES, IMAGES

TEMPLATE = Path(__file__).with_name("dataset_card.md.j2")
SPLIT, ALL = "train", "all"
MOST = 10_000  # files that the hub takes in one folder


def write(params: Params, skills: Sequence[str], out: Path, *, repo: str | None = None) -> Path:
    """Write the dataset's folder `out`; an earlier one that lies there is replaced as a whole.

    Raises UserError for an unknown skill or one given twice, images that are missing, unreadable or not those that
    params.yaml describes, and an `out` that holds anything but an export.
    """
    for skill in skills:
        if skill not in params.skills:
            raise UserError(f"{skill}: unknown skill; allowed: {', '.join(params.skills)}")
        if skills.count(skill) > 1:
            raise UserError(f"{skill}: is named twice; its images would be published twice")
    check_target(out)
    pairs = {skill: _pairs(params, skill) for skill in skills}
    title = f"SELMA training images ({params.profile})"
    with replaced(out) as temporary:
        for skill, own in pairs.items():
            folder = temporary / skill
            folder.mkdir()
            for pair in own:
                shutil.copyfile(pair.file, folder / pair.file.name)
            write_jsonl(folder / METADATA, [_row(pair, params.images.candidates) for pair in own])
        write_text(temporary / README, _card(params, title, pairs, repo))
        about = {"name": "images", "profile": params.profile, "skills": list(skills)}
        write_mark(temporary, about)
    return out


def _pairs(params: Params, skill: str) -> list[Pair]:
    """A skill's images, checked: each can be read, and is of the seed that params.yaml gives it."""
    folder = Path(IMAGES) / skill
    pairs = read_pairs(folder)
    if len(pairs) >= MOST:
        raise UserError(
            f"{folder}: holds {len(pairs):,} images; the hub takes fewer than {MOST:,} files in a folder"
        )
    for pair in pairs:
        if pair.seed != image_seed(params.seed, pair.id, pair.k):
            raise UserError(
                f"{folder}: {pair.file.name} was drawn with another seed than params.yaml's; run `dvc repro` first"
            )
    size = params.images.drawing.resolution
    found = read_image(pairs[0].file).size
    if size and found != (size, size):
        raise UserError(
            f"{folder}: holds images of {found[0]} x {found[1]} pixels, params.yaml says {size}; run `dvc repro` first"
        )
    drawn = _drawn_with(folder)
    drawing = params.images.drawing
    said = f"{drawing.scheduler}, {drawing.steps} steps, guidance {drawing.guidance:g} "
    if drawn is not None and not drawn.startswith(said):
        raise UserError(
            f"{folder}: was drawn with {drawn}, params.yaml says {said.strip()}; run `dvc repro` first"
        )
    return pairs


def _drawn_with(folder: Path) -> str | None:
    """The sampler by the card that the folder was drawn with; None where it has none."""
    card = folder / README
    found = re.search(r"^\| sampler \| (.*) \|$", card.read_text("utf-8"), re.M) if card.is_file() else None
    return found and found[1]


def _row(pair: Pair, each: int) -> dict[str, Any]:
    row = {"file_name": pair.file.name, "text": pair.text, "id": pair.id, "seed": pair.seed}
    return row | ({"k": pair.k} if each > 1 else {})


def _card(params: Params, title: str, pairs: Mapping[str, list[Pair]], repo: str | None) -> str:
    import jinja2

    folder = Path(BACKBONES) / params.images.backbone
    base = base_of(folder)
    commit = read_record(folder / SOURCE, dict).get("commit") if base.id else None
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=title,
        model=base.id or base.name,
        drawn_by=f"[{base.id}](https://huggingface.co/{base.id}), revision `{commit}`"
        if base.id
        else base.name,
        each=params.images.candidates,
        images=sum(map(len, pairs.values())),
        drawing=params.images.drawing,
        size=params.images.drawing.resolution,
        seed=params.seed,
        author=trained.author(params),
        prompts=params.prompts,
        filter=params.filter,
        licence=base.licence,
        skills=[_skill(name, own) for name, own in pairs.items()],
        repo=repo,
    )
    front = _front_matter(title, base.licence, base.id, pairs, params.images.candidates)
    return f"---\n{front}\n---\n\n{text.strip()}\n"


def _skill(name: str, pairs: Sequence[Pair]) -> dict[str, Any]:
    """A row of the card's table: what the filter's metrics say of the prompts, where they are here."""
    metrics = Path("metrics/filter") / f"{name}.json"
    found: dict[str, Any] = read_record(metrics, Filter) if metrics.is_file() else {}
    dropped = {reason.replace("_", " "): count for reason, count in found.get("dropped", {}).items() if count}
    said = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())
    none = "none" if found else "unknown"
    return {
        "name": name,
        "images": len(pairs),
        "candidates": found.get("candidates"),
        "dropped": said or none,
    }


def _front_matter(
    title: str, licence: str | None, id: str | None, pairs: Mapping[str, list[Pair]], each: int
) -> str:
    """The card's YAML: how `datasets` finds each skill's images, and the columns that they have."""
    from huggingface_hub import DatasetCardData

    total = sum(map(len, pairs.values()))
    parts = {skill: (f"{skill}/*", own) for skill, own in pairs.items()}
    if len(parts) > 1 and ALL not in parts:
        parts = {ALL: ("*/*", [pair for own in pairs.values() for pair in own]), **parts}
    columns = {"image": "image", "text": "string", "id": "string", "seed": "int64"}
    columns |= {"k": "int64"} if each > 1 else {}
    card = DatasetCardData(
        pretty_name=title,
        **licences.front_matter(licence, id),
        task_categories=["text-to-image"],
        size_categories=[_size(total)],
        source_datasets=["original"],
        annotations_creators=["machine-generated"],
        tags=["synthetic", "selma"],
        configs=[
            {
                "config_name": name,
                **({"default": True} if place == 0 else {}),
                "drop_labels": True,
                "data_files": [{"split": SPLIT, "path": path}],
            }
            for place, (name, (path, _)) in enumerate(parts.items())
        ],
        dataset_info=[_info(name, own, columns) for name, (_, own) in parts.items()],
    )
    return card.to_yaml(line_break="\n")


def _info(name: str, pairs: Sequence[Pair], columns: Mapping[str, str]) -> dict[str, Any]:
    """What `datasets` says of a configuration; it wants sizes, too: those of the image files."""
    size = sum(pair.file.stat().st_size for pair in pairs)
    return {
        "config_name": name,
        "features": [{"name": column, "dtype": dtype} for column, dtype in columns.items()],
        "splits": [{"name": SPLIT, "num_bytes": size, "num_examples": len(pairs)}],
        "download_size": size,
        "dataset_size": size,
    }


def _size(images: int) -> str:
    """The hub's category of a dataset by its size."""
    bounds = (("1K", 1_000), ("10K", 10_000), ("100K", 100_000), ("1M", 1_000_000))
    lower = "n"
    for name, bound in bounds:
        if images < bound:
            return f"{lower}<{name}" if lower == "n" else f"{lower}<n<{name}"
        lower = name
    return "n>1M"
