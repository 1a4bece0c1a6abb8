"""Pretrain the multimodal embedded backbone, of Janus's class: image tokens, then one model that draws and answers.

    python -m stages.pretrain_mm         (frozen in dvc.yaml: `make pretrain-mm` runs it)

reads   params `pretrain_mm`
writes  models/backbones/shapes_mm/    a JanusForConditionalGeneration folder, float8, with its processor
        metrics/pretrain_mm.csv        part, step, loss

Takes about an hour on two cores where there is a C++ compiler, else some ten minutes more; a killed run resumes when
started again.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from shutil import which

from selma.runtime import stage, tracking, work
from selma.runtime.params import load_params
from selma.shapes.pretraining.dialogue import make_processor
from selma.shapes.pretraining.janus import generation, save
from selma.shapes.pretraining.losses import Losses
from selma.shapes.pretraining.multimodal import MultimodalRecipe, pretrain_multimodal


def main() -> None:
    params = load_params()
    recipe = MultimodalRecipe.of(asdict(params.pretrain_mm))
    with work.folder(stage.name()) as folder:
        losses = Losses(folder / "losses.jsonl", tracking.log_metric)
        model, tokenizer = pretrain_multimodal(recipe, folder, losses.log, compiled=which("c++") is not None)
        model.generation_config = generation(tokenizer)
        save(model, folder / "backbone")
        make_processor(tokenizer, model.config).save_pretrained(folder / "backbone")
        losses.write(folder / "pretrain.csv")
        work.publish_all(
            {
                folder / "pretrain.csv": Path("metrics/pretrain_mm.csv"),
                folder / "backbone": Path("models/backbones/shapes_mm"),
            }
        )


if __name__ == "__main__":
    stage.run(main)
