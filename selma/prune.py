"""Remove the folders under data/ and models/ that params.yaml does not name.

    python -m selma.prune        or: make prune

Left by a skill, an expert or a model that was renamed or taken out. Stages loop over params.yaml and never
over what lies there, so such folders change no result; they only take space, and DVC hashes them with their
parent folder.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from selma.ground.errors import UserError
from selma.runtime.dvcfile import load_stages
from selma.runtime.params import BACKBONES, load_params


def named(root: Path) -> dict[Path, set[str]]:
    """The folders data/*/ and models/*/ that hold outs, each with the names that it may hold."""
    params = load_params(root / "params.yaml")
    names: dict[Path, set[str]] = {
        Path(BACKBONES): {params.images.backbone, params.expert.backbone},
        Path("data/preferences"): set(),  # where params.yaml names no judge for it, no stage does
    }
    for stage in load_stages(root).values():
        for out in map(Path, stage.outs):
            if out.parts[0] in ("data", "models"):
                for depth in range(2, len(out.parts)):
                    names.setdefault(Path(*out.parts[:depth]), set()).add(out.parts[depth])
    return names


def strangers(root: Path) -> list[Path]:
    """What lies in those folders and has no name, sorted; hidden files are none of it."""
    return sorted(
        path
        for folder, names in named(root).items()
        if (root / folder).is_dir()
        for path in (root / folder).iterdir()
        if path.name not in names and not path.name.startswith(".")
    )


def main() -> int:
    """Remove them, and say which."""
    root = Path.cwd()
    try:
        if sys.argv[1:]:  # someone who types an option may expect another thing than removal
            raise UserError("usage: python -m selma.prune")
        found = strangers(root)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for path in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
        print(f"removed {path.relative_to(root)}")
    if not found:
        print("nothing to remove: params.yaml names everything under data/ and models/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
