"""Let the text-to-image model draw its own training images, one per kept prompt (SELMA, section 3.2).

    python -m stages.images count

reads   data/filtered/<skill>/prompts.jsonl, models/backbones/<images.backbone>/
writes  data/images/<skill>/   <id>.webp and metadata.jsonl: an HF imagefolder, and README.md, its dataset card
"""

from __future__ import annotations

from pathlib import Path

from selma.backbones.loading import load_pipeline
from selma.ground.errors import UserError
from selma.ground.files import write_text
from selma.ground.pairs import image_seed, read_image, read_prompts, write_image
from selma.images import sampler
from selma.images.card import card
from selma.runtime import stage, tracking, work
from selma.runtime.params import load_params
from selma.runtime.places import BACKBONES, IMAGES

SHEET = 8  # images in the sample that MLflow shows


def main(skill: str) -> None:
    params = load_params()
    prompts = read_prompts(Path("data/filtered") / skill / "prompts.jsonl")
    if not prompts:
        raise UserError(f"data/filtered/{skill}/prompts.jsonl: no prompts; raise prompts.candidates")
    rows = [
        {
            "file_name": f"{prompt['id']}.webp",
            "text": prompt["text"],
            "id": prompt["id"],
            "seed": image_seed(params.seed, prompt["id"], 0),
        }
        for prompt in prompts
    ]
    backbone, drawing = Path(BACKBONES) / params.images.backbone, params.images.drawing
    pipe = load_pipeline(backbone, params.runtime.device, params.runtime.dtype)

    with work.folder(stage.name()) as folder:
        out = folder / "images"
        sampler.draw_folder(
            pipe,
            rows,
            out,
            drawing,
            progress=lambda images, total: stage.progress(images, total, f"images {skill}", "images"),
        )
        about = f"Training images for the skill `{skill}`, one for each prompt that an LLM wrote and the filter kept."
        told = {
            "title": f"Training images, {skill}",
            "split": "train",
            "images": len(rows),
            "seed": params.seed,
        }
        write_text(out / "README.md", card(backbone, drawing, about=about, **told))
        sheet = folder / "sheet.png"
        write_image(
            sheet, sampler.contact_sheet([read_image(out / row["file_name"]) for row in rows[:SHEET]])
        )
        tracking.log_image(sheet, "sample.png")
        work.publish(out, Path(IMAGES) / skill)


if __name__ == "__main__":
    stage.run(main)
