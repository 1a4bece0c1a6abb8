"""Draw further training images with a model of this run, several of each prompt: the next round's (DreamSync).

    python -m stages.draw round2

reads   draws.<name>.weights       a backbone's folder, an expert's or a policy's
        draws.<name>.prompts       prompts with questions (data/questions), or an imagefolder, whose captions are drawn
writes  data/drawn/<name>/         <id>-<k>.webp and metadata.jsonl {file_name, text, id, seed, k}: an HF imagefolder,
                                   and README.md, its dataset card; prompts.jsonl, the prompts with their questions
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from selma.backbones.loading import fingerprint, load_backbone
from selma.ground.drawer import write_drawer
from selma.ground.errors import UserError
from selma.ground.files import write_text
from selma.ground.items import write_items
from selma.images.candidates import candidate_rows
from selma.images.card import card
from selma.images.folder import draw_folder
from selma.prompts.training import FILE, training_items
from selma.runtime import stage, work
from selma.runtime.params import load_params
from selma.runtime.places import BACKBONES, DRAWN


def main(name: str, shard: str = "1/1") -> None:
    part = stage.parse_shard(shard)
    params = load_params()
    if name not in params.draws:
        raise UserError(
            f"draws: no row {name!r} in params.yaml; allowed: {', '.join(params.draws) or 'none'}"
        )
    row, weights = params.draws[name], Path(params.draws[name].weights)
    items = training_items(Path(row.prompts), params.skills)
    rows = candidate_rows(
        [(item.id, item.prompt) for item in items], row.images, params.seed, first=row.first
    )
    drawing = params.images.drawing
    if row.guidance is not None:
        drawing = replace(drawing, guidance=row.guidance)
    lora = None if weights.parent == Path(BACKBONES) else weights
    backbone = Path(BACKBONES) / params.expert.backbone if lora else weights
    pipe = load_backbone(backbone, params.runtime.device, params.runtime.dtype, lora=lora)

    with work.folder(stage.name(), shared=part != (1, 1)) as folder:
        out = folder / "images"
        draw_folder(
            pipe,
            rows,
            out,
            drawing,
            diversity=row.diversity,
            shard=part,
            bar=lambda total, done: stage.bar(total, done, f"draw {name}"),
        )
        if part != (1, 1):
            return
        about = f"Training images, {row.images} for each of {len(items)} prompts."
        told = {
            "title": f"Training images, {name}",
            "split": "train",
            "images": len(rows),
            "seed": params.seed,
            "columns": ", `k`",
            "weights": row.weights if lora else "",
        }
        write_items(out / FILE, items)
        write_drawer(out, fingerprint(backbone), lora, row.diversity and asdict(row.diversity))
        write_text(out / "README.md", card(backbone, drawing, about=about, **told))
        work.publish(out, Path(DRAWN) / name)


if __name__ == "__main__":
    stage.run(main)
