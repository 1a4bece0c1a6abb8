"""Put what one row of `models` names into one folder: its LoRA, if it has one, and how it is guided.

    python -m stages.model merged

reads   models.<model>.weights     a LoRA folder, or the backbone's
        selma/variants/guidance/   the file of models.<model>.guidance, of which the sha256 is kept
writes  models/rows/<model>/       lora/ (the same files) and model.json, the method's settings in it

The sample stages of a model, one for each benchmark, depend on this folder.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from selma.ground.errors import UserError
from selma.ground.models import write_model
from selma.runtime import stage, variants, work
from selma.runtime.params import load_params
from selma.runtime.places import ROWS


def main(name: str) -> None:
    params = load_params()
    if name not in params.models:
        raise UserError(f"models: no model {name!r} in params.yaml; allowed: {', '.join(params.models)}")
    row = params.models[name]
    with work.folder(stage.name()) as folder:
        out = folder / "row"
        shutil.rmtree(out, ignore_errors=True)  # incomplete, if a run was stopped here
        code = variants.path("guidance", row.guidance)
        options = variants.options("guidance", row.guidance, row.options, f"models.{name}.options")
        write_model(out, row.weights, row.guidance, options, code)
        work.publish(out, Path(ROWS) / name)


if __name__ == "__main__":
    stage.run(main)
