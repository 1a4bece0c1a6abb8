"""Train one LoRA expert on one folder of images; every checkpoint is kept (SELMA, section 3.3).

    python -m stages.expert count

reads   experts.<name>.data            metadata.jsonl and images; in data/images those of each skill in its skills.json;
                                       the images that lost, if experts.<name>.objective learns from pairs
        models/backbones/<expert.backbone>/
writes  models/checkpoints/<name>/     step-000100/, step-000200/, ... each a LoRA folder in diffusers' format
        metrics/loss/<name>.csv        step, loss
"""

from __future__ import annotations

from pathlib import Path

from selma.backbones.loading import fingerprint
from selma.experts import loop
from selma.experts.beginning import begin
from selma.experts.card import card
from selma.experts.draws import initial_seed
from selma.ground.errors import UserError
from selma.ground.files import write_csv
from selma.ground.pairs import parts, read_training
from selma.runtime import stage, tracking, variants, work
from selma.runtime.params import load_params
from selma.runtime.places import BACKBONES
from selma.runtime.training import training_of


def main(name: str) -> None:
    params = load_params()
    if name not in params.experts:
        raise UserError(f"experts: no expert {name!r} in params.yaml; allowed: {', '.join(params.experts)}")
    expert = params.experts[name]
    options = variants.options("objectives", expert.objective, expert.options, f"experts.{name}.options")
    states = variants.constants("objectives", expert.objective)
    compares = states.get("PAIRS", False)
    pairs = read_training(Path(expert.data), expert.skills, expert.objective if compares else None)
    backbone = Path(BACKBONES) / params.expert.backbone
    settings = training_of(params.expert, expert)
    told = {"backbone": fingerprint(backbone), "images": len(pairs), "seed": params.seed}

    own = expert.rank is not None or expert.targets is not None
    begun = begin(
        backbone,
        params.runtime,
        settings,
        initial_seed(settings.init, params.seed, name),
        f"experts.{name}" if own else "expert",
        expert.objective,
        states,
        parts(Path(expert.data), expert.skills),
    )
    told |= begun.told

    with work.folder(stage.name()) as folder:
        # Encode every pair once; the VAE is needed after that for samples only, as are text encoders that do not learn.
        encoded = begun.examples(folder / "examples.safetensors", pairs, settings, compares)
        texts = [pair.text for pair in pairs]
        show = begun.show(texts, settings, params.seed, folder / "samples.png")
        begun.opened = None
        if settings.gradient_checkpointing:
            begun.model.enable_gradient_checkpointing()

        out = folder / "checkpoints"
        with work.called({out: f"models/checkpoints/{name}"}):
            curve = loop.train(
                variants.load("objectives", expert.objective, f"experts.{name}.objective"),
                begun.model,
                begun.schedule,
                encoded,
                settings,
                seed=params.seed,
                folder=out,
                state=folder / "state.safetensors",
                provenance=card(name, expert, settings, options, **told),
                options=options,
                save=begun.save,
                on_loss=lambda step, loss: tracking.log_metric("loss", loss, step),
                on_checkpoint=show,
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
