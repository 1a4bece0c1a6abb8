"""Draw the benchmark's test prompts with one model, several images each, on the same noises for all models.

    python -m stages.sample merged

reads   models.<model>.weights   a backbone's folder, or a LoRA folder that goes on expert.backbone
        data/benchmarks/<evaluate.benchmark>/
writes  data/samples/<model>/    <id>-<k>.png and metadata.jsonl {file_name, text, id, seed, k}
"""

from __future__ import annotations

from pathlib import Path

from selma import backbones, benchmarks, records, sampler, stage, tracking, work
from selma.errors import UserError
from selma.params import load_params

SHEET = 8  # images in the sample that MLflow shows


def main(model: str) -> None:
    params = load_params()
    if model not in params.models:
        raise UserError(f"models: no model {model!r} in params.yaml; allowed: {', '.join(params.models)}")
    items = benchmarks.load_split(Path("data/benchmarks") / params.evaluate.benchmark, "test")
    rows = [
        {
            "file_name": f"{item.id}-{k}.png",
            "text": item.prompt,
            "id": item.id,
            "seed": records.image_seed(params.seed, item.id, k),
            "k": k,
        }
        for item in items
        for k in range(params.evaluate.images_per_prompt)
    ]
    weights = Path(params.models[model].weights)
    is_backbone = (weights / "model_index.json").is_file()
    pipe = backbones.load_pipeline(
        weights if is_backbone else Path("models/backbones") / params.expert.backbone,
        backbones.pick_device(params.runtime.device),
        params.runtime.dtype,
        lora=None if is_backbone else weights,
    )

    with work.folder(stage.name()) as folder:
        out = folder / "images"
        sampler.draw_folder(
            pipe,
            rows,
            out,
            steps=params.evaluate.steps,
            guidance=params.evaluate.guidance,
            scheduler=params.evaluate.scheduler,
            batch=params.evaluate.batch,
            progress=lambda images, total: stage.progress(images, total, f"sample {model}"),
        )
        sheet = folder / "sheet.png"
        records.write_png(
            sheet, sampler.contact_sheet([records.read_image(out / row["file_name"]) for row in rows[:SHEET]])
        )
        tracking.log_image(sheet, "sample.png")
        work.publish(out, Path("data/samples") / model)


if __name__ == "__main__":
    stage.run(main)
