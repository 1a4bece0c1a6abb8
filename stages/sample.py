"""Draw the benchmarks' test prompts with one model, several images each, from the same initial noise for all models.

    python -m stages.sample merged

reads   models.<model>.weights               a backbone's folder, or a LoRA folder applied to expert.backbone
        data/benchmarks/<benchmark>/         for each of evaluate.benchmarks
writes  data/samples/<model>/<benchmark>/    <id>-<k>.webp and metadata.jsonl {file_name, text, id, seed, k},
                                             and README.md, the dataset card
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selma.backbones.loading import open_model
from selma.ground.errors import UserError
from selma.ground.files import write_text
from selma.ground.items import load_split
from selma.ground.pairs import image_seed, read_image, write_image
from selma.images import sampler
from selma.images.card import card
from selma.runtime import stage, tracking, work
from selma.runtime.params import load_params
from selma.runtime.places import BACKBONES

SHEET = 8  # images in the sample that MLflow shows


def main(model: str) -> None:
    params = load_params()
    if model not in params.models:
        raise UserError(f"models: no model {model!r} in params.yaml; allowed: {', '.join(params.models)}")
    row = params.models[model]
    names = params.evaluate.benchmarks
    rows = {name: _rows(name, params.seed, params.evaluate.images_per_prompt) for name in names}
    backbone = Path(BACKBONES) / params.expert.backbone
    pipe = open_model(Path(row.weights), backbone, params.runtime.device, params.runtime.dtype)

    with work.folder(stage.name()) as folder:
        out = folder / "images"
        for name in names:
            label = f"sample {model} {name}"
            sampler.draw_folder(
                pipe,
                rows[name],
                out / name,
                params.evaluate.drawing,
                method=row.guidance,
                progress=lambda images, total, label=label: stage.progress(images, total, label, "images"),
            )
            about = f"What the model `{model}` draws for the test prompts of the benchmark `{name}`."
            told = {
                "title": f"{model} on {name}",
                "split": "test",
                "images": len(rows[name]),
                "seed": params.seed,
            }
            told |= {"method": row.guidance, "columns": ", `k` (which image of its prompt)"}
            told |= {"weights": "" if row.weights.startswith(BACKBONES) else row.weights}
            write_text(out / name / "README.md", card(backbone, params.evaluate.drawing, about=about, **told))
        sheet = folder / "sheet.png"
        shown = [out / names[0] / row["file_name"] for row in rows[names[0]][:SHEET]]
        write_image(sheet, sampler.contact_sheet([read_image(file) for file in shown]))
        tracking.log_image(sheet, "sample.png")
        work.publish(out, Path("data/samples") / model)


def _rows(benchmark: str, seed: int, images_per_prompt: int) -> list[dict[str, Any]]:
    """The metadata of every image of a benchmark's test prompts."""
    return [
        {
            "file_name": f"{item.id}-{k}.webp",
            "text": item.prompt,
            "id": item.id,
            "seed": image_seed(seed, item.id, k),
            "k": k,
        }
        for item in load_split(Path("data/benchmarks") / benchmark, "test")
        for k in range(images_per_prompt)
    ]


if __name__ == "__main__":
    stage.run(main)
