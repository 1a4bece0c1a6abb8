"""Remove the folders under data/ and models/ that params.yaml does not name.

    python -m selma.prune        or: make prune

A skill, an expert or a model that was renamed or removed leaves them behind. Stages loop over params.yaml, never
over what these folders hold, so leftovers change no result; they only take up space, and DVC hashes them with
their parent folder.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from selma.ground.errors import UserError
from selma.runtime import command
from selma.runtime.dvcfile import load_stages
from selma.runtime.params import load_params
from selma.runtime.places import BACKBONES, DRAWN, MIXTURES, PICKED, RENDERED


def named(root: Path) -> dict[Path, set[str]]:
    """The folders data/*/ and models/*/ that hold outs, each with the names that it may hold."""
    params = load_params(root / "params.yaml")
    names: dict[Path, set[str]] = {
        Path(BACKBONES): {params.images.backbone, params.expert.backbone},
        # no stage writes these where params.yaml has no row of their kind
        **{Path(folder): set() for folder in ("data/preferences", "data/ratings", DRAWN, RENDERED, PICKED)},
        Path(MIXTURES): set(),  # nor this one without a row of `mixtures`
    }
    stages = load_stages(root).values()
    for out in (Path(out) for stage in stages for out in stage.outs):
        if out.parts[0] in ("data", "models"):
            for depth in range(2, len(out.parts)):
                names.setdefault(Path(*out.parts[:depth]), set()).add(out.parts[depth])
    for read in (
        root / dep for stage in stages for dep in stage.deps
    ):  # a file of your own may lie beside the outs
        own = Path(os.path.normpath(read))
        for folder in names:
            if (root / folder) in own.parents:
                names[folder].add(own.relative_to(root / folder).parts[0])
    return names


def strangers(root: Path) -> list[Path]:
    """What those folders hold and params.yaml does not name, sorted; hidden files are left out."""
    return sorted(
        path
        for folder, names in named(root).items()
        if (root / folder).is_dir()
        for path in (root / folder).iterdir()
        if path.name not in names and not path.name.startswith(".")
    )


def main() -> int:
    """Remove them, and print which."""
    if sys.argv[1:] in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    return command.run(_main)


def _main() -> None:
    root = Path.cwd()
    if sys.argv[1:]:  # someone who types an option may expect something other than removal
        raise UserError("usage: python -m selma.prune")
    found = strangers(root)
    for path in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
        print(f"removed {path.relative_to(root)}")
    if not found:
        print("nothing to remove: params.yaml names everything under data/ and models/")


if __name__ == "__main__":
    sys.exit(main())
