"""Choose the images that are trained on, of those that were drawn, by the judges' scores of them.

    python -m stages.pick best

reads   data/<picks.<name>.source>/             images
        data/ratings/<picks.<name>.source>/     their scores
writes  data/picked/<name>/                     the chosen images, an HF imagefolder, `data` of an expert;
                                                metadata.jsonl has a column `rejected` where a picker makes pairs,
                                                verdicts.jsonl says of every image what became of it
        metrics/pick/<name>.json                prompts, images, kept, verdicts, scores of all and of the kept ones

docs/picking.md explains the pickers.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from selma.ground.drawer import copy_drawer
from selma.ground.errors import UserError
from selma.ground.files import write_json
from selma.ground.pairs import HELD_OUT, parts
from selma.picking.choosing import judged, summary, write_picked
from selma.picking.shots import read_shots
from selma.runtime import stage, variants, work
from selma.runtime.params import load_params
from selma.runtime.picks import settings_of
from selma.runtime.places import PICKED


def main(name: str) -> None:
    params = load_params()
    if name not in params.picks:
        raise UserError(
            f"picks: no row {name!r} in params.yaml; allowed: {', '.join(params.picks) or 'none'}"
        )
    row, key = params.picks[name], f"picks.{name}"
    picker = variants.load("pickers", row.picker, f"{key}.picker")
    folders = parts(Path("data") / row.source)
    shots = read_shots(folders, params.rate.judges)
    try:
        settings = settings_of(row, params.rate.judges, f"{key}.options")
        said = judged(shots, partial(picker.verdicts, **settings))
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
    held_out = [each / HELD_OUT for each in folders if (each / HELD_OUT).is_file()]
    with work.folder(stage.name()) as folder:
        out = folder / "images"
        shutil.rmtree(out, ignore_errors=True)  # incomplete, if a run was stopped here
        write_picked(out, shots, said, held_out)
        copy_drawer(folders, out)
        write_json(folder / "metrics.json", {"picker": row.picker, **summary(shots, said)})
        work.publish_all(
            {folder / "metrics.json": Path(f"metrics/pick/{name}.json"), out: Path(PICKED) / name}
        )


if __name__ == "__main__":
    stage.run(main)
