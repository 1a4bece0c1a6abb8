"""Draw a benchmark's test prompts with one model, several images each, from the same initial noise for all models.

    python -m stages.sample merged shapes
    python -m stages.sample merged shapes --shard 2/8   the second of eight parts, for `dvc repro` to find done

reads   models/rows/<model>/                 its LoRA, if it has one, and its method of guidance with its settings
        models/backbones/<expert.backbone>/
        data/benchmarks/<benchmark>/         the test split
writes  data/samples/<model>/<benchmark>/    <id>-<k>.webp and metadata.jsonl {file_name, text, id, seed, k},
                                             and README.md, the dataset card
"""

from __future__ import annotations

from pathlib import Path

from selma.backbones.loading import load_backbone
from selma.ground.files import write_text
from selma.ground.items import load_split
from selma.ground.models import read_model
from selma.ground.pairs import read_image, write_image
from selma.images import sampler
from selma.images.candidates import candidate_rows
from selma.images.card import card
from selma.images.folder import draw_folder
from selma.runtime import stage, tracking, work
from selma.runtime.examined import check_examined
from selma.runtime.params import load_params
from selma.runtime.places import BACKBONES, ROWS

SHEET = 8  # images in the sample that MLflow shows


def main(model: str, benchmark: str, shard: str = "1/1") -> None:
    part = stage.parse_shard(shard)
    params = load_params()
    check_examined(params, model, benchmark)
    row = read_model(Path(ROWS) / model)
    items = load_split(Path("data/benchmarks") / benchmark, "test")
    prompts = [(item.id, item.prompt) for item in items]
    rows = candidate_rows(prompts, params.evaluate.images_per_prompt, params.seed)
    backbone = Path(BACKBONES) / params.expert.backbone
    pipe = load_backbone(backbone, params.runtime.device, params.runtime.dtype, lora=row.lora)

    with work.folder(stage.name(), shared=part != (1, 1)) as folder:
        out = folder / "images"
        draw_folder(
            pipe,
            rows,
            out,
            params.evaluate.drawing,
            method=row.guidance,
            options=row.options,
            shard=part,
            bar=lambda total, done: stage.bar(total, done, f"sample {model} {benchmark}"),
        )
        if part != (1, 1):
            return
        about = f"What the model `{model}` draws for the test prompts of the benchmark `{benchmark}`."
        told = {
            "title": f"{model} on {benchmark}",
            "split": "test",
            "images": len(rows),
            "seed": params.seed,
            "method": " ".join([row.guidance, *(f"{key}={value}" for key, value in row.options.items())]),
            "columns": ", `k` (which image of its prompt)",
            "weights": row.weights if row.lora else "",
        }
        write_text(out / "README.md", card(backbone, params.evaluate.drawing, about=about, **told))
        sheet = folder / "sheet.png"
        shown = [out / row["file_name"] for row in rows[:SHEET]]
        write_image(sheet, sampler.contact_sheet([read_image(file) for file in shown]))
        tracking.log_image(sheet, "sample.png")
        work.publish(out, Path("data/samples") / model / benchmark)


if __name__ == "__main__":
    stage.run(main)
