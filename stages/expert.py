"""Train one LoRA expert on one folder of images; every checkpoint is kept (SELMA, section 3.3).

    python -m stages.expert count

reads   experts.<name>.data            metadata.jsonl and images; in data/images those of each skill in its skills.json;
                                       the images that lost, if experts.<name>.objective learns from pairs
        models/backbones/<expert.backbone>/
writes  models/checkpoints/<name>/     step-000100/, step-000200/, ... each a LoRA folder in diffusers' format
        metrics/loss/<name>.csv        step, loss
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from selma.backbones.loading import fingerprint, load_pipeline
from selma.backbones.schedulers import training_schedule
from selma.experts import examples, loop
from selma.experts.draws import initial_seed
from selma.ground.errors import UserError
from selma.ground.files import write_csv
from selma.ground.pairs import read_training
from selma.lora.adapter import add_lora
from selma.runtime import stage, tracking, variants, work
from selma.runtime.params import load_params
from selma.runtime.places import BACKBONES


def main(name: str) -> None:
    params = load_params()
    if name not in params.experts:
        raise UserError(f"experts: no expert {name!r} in params.yaml; allowed: {', '.join(params.experts)}")
    expert = params.experts[name]
    options = variants.options("objectives", expert.objective, expert.options, f"experts.{name}.options")
    compares = variants.constants("objectives", expert.objective).get("PAIRS", False)
    pairs = read_training(Path(expert.data), expert.skills, expert.objective if compares else None)
    backbone = Path(BACKBONES) / params.expert.backbone
    settings = replace(params.expert, steps=expert.steps or params.expert.steps)
    provenance = {
        "name": name,
        "backbone": fingerprint(backbone),
        "rank": params.expert.rank,
        "alpha": params.expert.alpha,
        "targets": list(params.expert.targets),
        "data": expert.data,
        **({"skills": list(expert.skills)} if expert.skills else {}),
        "images": len(pairs),
        "seed": params.seed,
        **({"objective": expert.objective} if expert.objective != "denoising" else {}),
        **({"options": options} if options else {}),
    }

    pipe = load_pipeline(backbone, params.runtime.device, params.runtime.dtype)
    unet, schedule = pipe.unet, training_schedule(pipe)
    # What does not fit is said before anything is computed.
    loop.check_precision(unet)
    start = initial_seed(settings.init, params.seed, name)
    add_lora(unet, settings.rank, settings.alpha, list(settings.targets), start)

    with work.folder(stage.name()) as folder:
        # Encode every pair once; the VAE and the text encoders are not needed after that.
        encoded = examples.of_pairs(folder / "examples.safetensors", pipe, pairs, settings, compares)
        del pipe
        if params.expert.gradient_checkpointing:
            unet.enable_gradient_checkpointing()

        out = folder / "checkpoints"
        with work.called({out: f"models/checkpoints/{name}"}):
            curve = loop.train(
                variants.load("objectives", expert.objective, f"experts.{name}.objective"),
                unet,
                schedule,
                encoded,
                settings,
                seed=params.seed,
                folder=out,
                state=folder / "state.safetensors",
                provenance=provenance,
                options=options,
                on_loss=lambda step, loss: tracking.log_metric("loss", loss, step),
                progress=lambda steps: stage.progress(steps, len(steps), f"expert {name}", "steps"),
            )
        del encoded  # its file is mapped, and some file systems cannot remove it while it is
        rows = [{"step": step, "loss": loss} for step, loss in curve]
        write_csv(folder / "loss.csv", rows, ["step", "loss"])
        work.publish_all(
            {
                folder / "loss.csv": Path("metrics/loss") / f"{name}.csv",
                out: Path("models/checkpoints") / name,
            }
        )


if __name__ == "__main__":
    stage.run(main)
