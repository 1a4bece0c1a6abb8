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

from selma.ground.files import read_jsonl, write_csv, write_jsonl
from selma.runtime import stage, tracking, work
from selma.runtime.params import load_params
from selma.shapes.pretraining.clip import write_inputs
from selma.shapes.pretraining.pretrain import CorpusSpec, Recipe, UnetRun, pretrain

FIELDS = ["part", "step", "loss"]


def main() -> None:
    params = load_params()
    recipe = Recipe(
        seed=params.pretrain.seed,
        rare=params.pretrain.rare,
        corpora={name: CorpusSpec(**asdict(spec)) for name, spec in params.pretrain.corpora.items()},
        vae_steps=params.pretrain.vae_steps,
        clip_steps=params.pretrain.clip_steps,
        unet=[UnetRun(**asdict(run)) for run in params.pretrain.unet],
    )
    with work.folder(stage.name()) as folder:
        # A resumed run logs some steps again, with the same values: the key keeps one of each.
        kept = read_jsonl(folder / "losses.jsonl") if (folder / "losses.jsonl").exists() else []
        losses = {(row["part"], row["step"]): row for row in kept}

        def log(part: str, step: int, loss: float) -> None:
            losses[part, step] = {"part": part, "step": step, "loss": round(loss, 5)}
            write_jsonl(folder / "losses.jsonl", losses.values())
            tracking.log_metric(f"loss.{part}", loss, step)

        pipeline, clip = pretrain(recipe, folder, log)
        pipeline.to(torch.float16).save_pretrained(folder / "backbone", safe_serialization=True)
        clip.half().save_pretrained(folder / "clip_model")
        write_inputs(folder / "clip_model", folder / "backbone/tokenizer")
        write_csv(folder / "pretrain.csv", list(losses.values()), FIELDS)
        work.publish_all(
            {
                folder / "pretrain.csv": Path("metrics/pretrain.csv"),
                folder / "backbone": Path("models/backbones/shapes"),
                folder / "clip_model": Path("models/clip/shapes"),
            }
        )


if __name__ == "__main__":
    stage.run(main)
