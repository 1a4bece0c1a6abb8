"""Draw the benchmarks' test prompts with one model, several images each, on the same noises for all models.

    python -m stages.sample merged

reads   models.<model>.weights   a backbone's folder, or a LoRA folder that goes on expert.backbone
        data/benchmarks/<name>/          for evaluate.benchmark and evaluate.others
writes  data/samples/<model>/            <id>-<k>.webp and metadata.jsonl {file_name, text, id, seed, k}
        data/samples/<model>/<other>/    the same for each of evaluate.others
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selma.backbones.loading import load_pipeline
from selma.ground.errors import UserError
from selma.ground.items import folders, load_split
from selma.ground.pairs import image_seed, read_image, write_image
from selma.images import sampler
from selma.runtime import stage, tracking, work
from selma.runtime.params import load_params

SHEET = 8  # images in the sample that MLflow shows


def main(model: str) -> None:
    params = load_params()
    if model not in params.models:
        raise UserError(f"models: no model {model!r} in params.yaml; allowed: {', '.join(params.models)}")
    names = (params.evaluate.benchmark, *params.evaluate.others)
    rows = {name: _rows(name, params.seed, params.evaluate.images_per_prompt) for name in names}
    weights = Path(params.models[model].weights)
    is_backbone = (weights / "model_index.json").is_file()
    pipe = load_pipeline(
        weights if is_backbone else Path("models/backbones") / params.expert.backbone,
        params.runtime.device,
        params.runtime.dtype,
        lora=None if is_backbone else weights,
    )

    with work.folder(stage.name()) as folder:
        out = folder / "images"
        for name, images in folders(out, params.evaluate.benchmark, params.evaluate.others).items():
            label = f"sample {model} {name}"
            sampler.draw_folder(
                pipe,
                rows[name],
                images,
                steps=params.evaluate.steps,
                guidance=params.evaluate.guidance,
                scheduler=params.evaluate.scheduler,
                batch=params.evaluate.batch,
                size=params.evaluate.resolution,
                progress=lambda images, total, label=label: stage.progress(images, total, label),
            )
        sheet = folder / "sheet.png"
        shown = rows[params.evaluate.benchmark][:SHEET]
        write_image(sheet, sampler.contact_sheet([read_image(out / row["file_name"]) for row in shown]))
        tracking.log_image(sheet, "sample.png")
        work.publish(out, Path("data/samples") / model)


def _rows(benchmark: str, seed: int, images_per_prompt: int) -> list[dict[str, Any]]:
    """The metadata of every picture of a benchmark's test prompts."""
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
