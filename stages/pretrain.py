"""Pretrain the embedded backbone the way web models are: VAE, CLIP by contrast, then the UNet on noisy captions.

    python -m stages.pretrain            (frozen in dvc.yaml: `make pretrain` runs it)

reads   params `pretrain`
writes  models/backbones/shapes/       a StableDiffusionPipeline folder, float16
        models/clip/shapes/            the whole CLIP, whose text encoder the pipeline uses, float16, with its tokenizer
                                       and preprocessor_config.json: a judge of kind clip (own.judges)
        metrics/pretrain.csv           part, step, loss

Takes hours on two cores; a killed run resumes when started again.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from selma.runtime import stage, tracking, work
from selma.runtime.params import load_params
from selma.shapes.pretraining.clip import write_inputs
from selma.shapes.pretraining.losses import Losses
from selma.shapes.pretraining.pretrain import Recipe, pretrain


def main() -> None:
    params = load_params()
    recipe = Recipe.of(asdict(params.pretrain))
    with work.folder(stage.name()) as folder:
        losses = Losses(folder / "losses.jsonl", tracking.log_metric)
        pipeline, clip = pretrain(recipe, folder, losses.log)
        pipeline.to(torch.float16).save_pretrained(folder / "backbone", safe_serialization=True)
        clip.half().save_pretrained(folder / "clip_model")
        write_inputs(folder / "clip_model", folder / "backbone/tokenizer")
        losses.write(folder / "pretrain.csv")
        work.publish_all(
            {
                folder / "pretrain.csv": Path("metrics/pretrain.csv"),
                folder / "backbone": Path("models/backbones/shapes"),
                folder / "clip_model": Path("models/clip/shapes"),
            }
        )


if __name__ == "__main__":
    stage.run(main)
