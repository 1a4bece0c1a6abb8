"""Pretrain the stronger embedded backbone, of SDXL's class, from the first one: a second text encoder, then the UNet.

    python -m stages.pretrain_xl         (frozen in dvc.yaml: `make pretrain-xl` runs it)

reads   params `pretrain_xl`, models/backbones/shapes
writes  models/backbones/shapes_xl/    a StableDiffusionXLPipeline folder, float16
        metrics/pretrain_xl.csv        part, step, loss

Takes the better part of an hour on two cores; a killed run resumes when started again.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from selma.runtime import stage, tracking, work
from selma.runtime.params import load_params
from selma.shapes.pretraining.losses import Losses
from selma.shapes.pretraining.xl import XlRecipe, pretrain_xl

START = Path("models/backbones/shapes")


def main() -> None:
    params = load_params()
    recipe = XlRecipe.of(asdict(params.pretrain_xl))
    start = StableDiffusionPipeline.from_pretrained(START, dtype=torch.float32, safety_checker=None)
    with work.folder(stage.name()) as folder:
        losses = Losses(folder / "losses.jsonl", tracking.log_metric)
        pipeline = pretrain_xl(recipe, start, folder, losses.log)
        pipeline.to(torch.float16).save_pretrained(folder / "backbone", safe_serialization=True)
        losses.write(folder / "pretrain.csv")
        work.publish_all(
            {
                folder / "pretrain.csv": Path("metrics/pretrain_xl.csv"),
                folder / "backbone": Path("models/backbones/shapes_xl"),
            }
        )


if __name__ == "__main__":
    stage.run(main)
