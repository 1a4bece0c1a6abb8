"""Fetch a pinned base model from the hub: the parts that the pipeline loads, and where they came from.

    python -m stages.backbone sdxl

reads   the hub repository that backbones.<name> names; HF_TOKEN or a login where its owner requires one
writes  models/backbones/<name>/   a pipeline in diffusers' layout, and source.json: id, revision, commit, licence,
                                   the sha256 of every file

DVC keeps it, so a model that is withdrawn from the hub still runs. What a killed run downloaded is used again.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from selma.backbones.loading import load_backbone
from selma.ground.errors import UserError
from selma.net import hub
from selma.net.pipelines import take_pipeline
from selma.runtime import stage, work
from selma.runtime.params import load_params
from selma.runtime.places import BACKBONES


def main(name: str) -> None:
    params = load_params()
    if name not in params.backbones:
        raise UserError(
            f"backbones: no backbone {name!r} in params.yaml; allowed: {', '.join(params.backbones) or 'none'}"
        )
    wanted = params.backbones[name]
    with work.folder(stage.name()) as folder:
        repository = hub.open_hub(wanted.id, wanted.revision, folder / "download")
        check = partial(load_backbone, dtype="bfloat16")  # a backbone that does not open fails here
        out = take_pipeline(repository, wanted, folder, check)
        work.publish(out, Path(BACKBONES) / name)


if __name__ == "__main__":
    stage.run(main)
