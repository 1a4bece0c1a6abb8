"""Let the text-to-image model draw its own training images of every kept prompt (SELMA, section 3.2).

    python -m stages.images count
    python -m stages.images count --shard 2/8    the second of eight parts, for `dvc repro` to find done

reads   data/filtered/<skill>/prompts.jsonl and, where filter.dev holds prompts out, dev.jsonl
        models/backbones/<images.backbone>/
writes  data/images/<skill>/   <id>.webp and metadata.jsonl: an HF imagefolder, and README.md, its dataset card; with
                               images.candidates above 1 <id>-<k>.webp, k from 0, for a row of `picks` to choose from;
                               held_out.jsonl {id, text}: dev.jsonl, to choose the checkpoints of its expert by
"""

from __future__ import annotations

from pathlib import Path

from selma.backbones.loading import fingerprint, load_backbone
from selma.ground.backbones import is_multimodal
from selma.ground.drawer import write_drawer
from selma.ground.errors import UserError
from selma.ground.files import write_jsonl, write_text
from selma.ground.pairs import HELD_OUT, read_image, read_prompts, write_image
from selma.images import sampler
from selma.images.candidates import candidate_rows
from selma.images.card import card
from selma.images.folder import draw_folder
from selma.runtime import stage, tracking, work
from selma.runtime.params import load_params
from selma.runtime.places import BACKBONES, IMAGES

SHEET = 8  # images in the sample that MLflow shows


def main(skill: str, shard: str = "1/1") -> None:
    part = stage.parse_shard(shard)
    params = load_params()
    filtered = Path("data/filtered") / skill
    prompts = read_prompts(filtered / "prompts.jsonl")
    held_out = read_prompts(dev) if (dev := filtered / "dev.jsonl").exists() else []
    if not prompts:
        raise UserError(f"{filtered}/prompts.jsonl: no prompts; raise prompts.candidates")
    texts = [(prompt["id"], prompt["text"]) for prompt in prompts]
    each = params.images.candidates
    rows = candidate_rows(texts, each, params.seed, numbered=each > 1)
    backbone, drawing = Path(BACKBONES) / params.images.backbone, params.images.drawing
    pipe = load_backbone(backbone, params.runtime.device, params.runtime.dtype)

    with work.folder(stage.name(), shared=part != (1, 1)) as folder:
        out = folder / "images"
        label = f"images {skill}"
        draw_folder(
            pipe, rows, out, drawing, shard=part, bar=lambda total, done: stage.bar(total, done, label)
        )
        if part != (1, 1):
            return
        about = (
            f"Training images for the skill `{skill}`, {'one' if each == 1 else each} for each prompt that an LLM "
            "wrote and the filter kept."
        )
        told = {
            "title": f"Training images, {skill}",
            "split": "train",
            "images": len(rows),
            "seed": params.seed,
            **({"columns": ", `k`"} if each > 1 else {}),
        }
        if is_multimodal(backbone):  # whose images come with tokens, which are another backbone's noise
            write_drawer(out, fingerprint(backbone))
        if held_out:
            write_jsonl(out / HELD_OUT, held_out)
        write_text(out / "README.md", card(backbone, drawing, about=about, **told))
        sheet = folder / "sheet.png"
        write_image(
            sheet, sampler.contact_sheet([read_image(out / row["file_name"]) for row in rows[:SHEET]])
        )
        tracking.log_image(sheet, "sample.png")
        work.publish(out, Path(IMAGES) / skill)


if __name__ == "__main__":
    stage.run(main)
