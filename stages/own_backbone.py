"""Take the base model in a folder of your own, as it is now: the parts that the pipeline loads.

    python -m stages.own_backbone mine

reads   own.backbones.<name>.path, a folder in diffusers' layout; the hub, if `vae` names a repository
writes  models/backbones/<name>/   as the backbone stage does

The folder is a dependency: an edit in it runs this again.
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
    if name not in params.own.backbones:
        raise UserError(
            f"own.backbones: no backbone {name!r} in params.yaml; "
            f"allowed: {', '.join(params.own.backbones) or 'none'}"
        )
    wanted = params.own.backbones[name]
    with work.folder(stage.name()) as folder:
        repository = hub.open_folder(Path(wanted.path))
        check = partial(load_backbone, dtype="bfloat16")  # a backbone that does not open fails here
        out = take_pipeline(repository, wanted, folder, check)
        work.publish(out, Path(BACKBONES) / name)


if __name__ == "__main__":
    stage.run(main)
