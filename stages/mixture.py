"""Train what is made of several trained experts, gates over them or one LoRA that they teach; keep every checkpoint.

    python -m stages.mixture moe

reads   models/experts/<name>/          the experts that mixtures.<name> names, by default one for each skill
        data/images/                    the images that they were trained on
        models/backbones/<expert.backbone>/
writes  models/checkpoints/<name>/      step-000100/, step-000200/, ... each a mixture's folder, or a LoRA's
        metrics/loss/<name>.csv         step, loss

docs/objectives.md explains the objectives.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from selma.backbones.loading import fingerprint, load_pipeline
from selma.backbones.schedulers import training_schedule
from selma.experts import examples, loop
from selma.experts.draws import initial_seed
from selma.ground.errors import UserError
from selma.ground.files import write_csv
from selma.ground.pairs import read_training
from selma.lora.mixing import load_experts
from selma.runtime import stage, tracking, variants, work
from selma.runtime.params import load_params
from selma.runtime.places import BACKBONES, EXPERTS


def main(name: str) -> None:
    params = load_params()
    if name not in params.mixtures:
        raise UserError(
            f"mixtures: no mixture {name!r} in params.yaml; allowed: {', '.join(params.mixtures)}"
        )
    row, rows = params.mixtures[name], params.experts
    key, names = f"mixtures.{name}", row.experts or params.skills
    objective = variants.load("objectives", row.objective, f"{key}.objective")
    options = variants.options("objectives", row.objective, row.options, f"{key}.options")
    settings = replace(params.expert, steps=row.steps or params.expert.steps)
    if "learning_rate" in options:
        settings = replace(settings, learning_rate=options["learning_rate"])
    pairs = {expert: read_training(Path(rows[expert].data), rows[expert].skills) for expert in names}
    backbone = Path(BACKBONES) / params.expert.backbone
    provenance = {
        "name": name,
        "objective": row.objective,
        **({"options": options} if options else {}),
        "backbone": fingerprint(backbone),
        "images": sum(map(len, pairs.values())),
        "seed": params.seed,
    }
    experts = load_experts({expert: Path(EXPERTS) / expert for expert in names}, provenance["backbone"])

    pipe = load_pipeline(backbone, params.runtime.device, params.runtime.dtype)
    unet, schedule = pipe.unet, training_schedule(pipe)
    loop.check_precision(unet)
    save = objective.prepare(unet, experts, settings, initial_seed(settings.init, params.seed, name))

    with work.folder(stage.name()) as folder:
        together = [pair for own in pairs.values() for pair in own]
        encoded = examples.of_pairs(folder / "examples.safetensors", pipe, together, settings, losers=False)
        counts = torch.tensor([len(own) for own in pairs.values()])
        teacher = torch.eye(len(pairs)).repeat_interleave(counts, dim=0)
        encoded = replace(encoded, teacher=teacher.to(pipe.device))
        del pipe
        if params.expert.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        out = folder / "checkpoints"
        with work.called({out: f"models/checkpoints/{name}"}):
            curve = loop.train(
                objective,
                unet,
                schedule,
                encoded,
                settings,
                seed=params.seed,
                folder=out,
                state=folder / "state.safetensors",
                provenance=provenance,
                options={key: value for key, value in options.items() if key != "learning_rate"},
                save=save,
                on_loss=lambda step, loss: tracking.log_metric("loss", loss, step),
                progress=lambda steps: stage.progress(steps, len(steps), f"mixture {name}", "steps"),
            )
        del encoded  # its file is mapped, and some file systems cannot remove it while it is
        losses = [{"step": step, "loss": loss} for step, loss in curve]
        write_csv(folder / "loss.csv", losses, ["step", "loss"])
        loss, checkpoints = Path("metrics/loss") / f"{name}.csv", Path("models/checkpoints") / name
        work.publish_all({folder / "loss.csv": loss, out: checkpoints})


if __name__ == "__main__":
    stage.run(main)
