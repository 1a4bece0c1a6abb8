"""Take the judge in a folder of your own, as it is now: the files that its kind loads.

    python -m stages.own_judge mine

reads   own.judges.<name>.path, a folder of weights in safetensors, settings and tokenizer, as the judge stage lays them
writes  models/judges/<name>/   the files, and judge.json {kind, files: {path: sha256}}

The folder is a dependency: an edit in it runs this again.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from selma.ground.errors import UserError
from selma.ground.files import write_json
from selma.published.folder import PARTS, check_tokenizer, copy_judge
from selma.runtime import stage, variants, work
from selma.runtime.params import load_params
from selma.runtime.places import JUDGE_CARD, JUDGES


def main(name: str) -> None:
    params = load_params()
    if name not in params.own.judges:
        raise UserError(
            f"own.judges: no judge {name!r} in params.yaml; allowed: {', '.join(params.own.judges) or 'none'}"
        )
    row = params.own.judges[name]
    with work.folder(stage.name()) as folder:
        out = folder / "judge"
        shutil.rmtree(out, ignore_errors=True)  # incomplete, if a run was stopped here
        kind = variants.load("judges", row.kind, f"own.judges.{name}.kind")
        parts = [part for part in PARTS if part in (*kind.NEEDS, *kind.TAKES)]
        card = {"kind": row.kind, "files": copy_judge(Path(row.path), out, parts)}
        with work.called({out: row.path}):
            if "tokenizer" in kind.TAKES:
                check_tokenizer(out)
            kind.load(out, card, "cpu", "bfloat16")  # a judge that does not open fails here
        write_json(out / JUDGE_CARD, card)
        work.publish(out, JUDGES / name)


if __name__ == "__main__":
    stage.run(main)
