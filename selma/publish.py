"""Publish a LoRA, or the training images of skills, on the hub.

    python -m selma.publish merged --dry-run                     write what would be uploaded, and send nothing
    python -m selma.publish merged --to OWNER/REPO --private
    python -m selma.publish count tags --dataset --to OWNER/REPO  the training images; of all skills if none is named

reads   what selma.export reads; with --dataset data/images/<skill>/ and metrics/filter/<skill>.json
writes  exports/<profile>-<name>-hub/   with --dataset exports/<profile>-images-hub/: what is uploaded, byte for byte

The token is HF_TOKEN's or that of `hf auth login`; HF_ENDPOINT names another hub.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from selma.ground.errors import UserError
from selma.publishing import dataset, hub, lora
from selma.publishing.folder import listing
from selma.publishing.lora import DTYPES, FORMATS
from selma.publishing.model_card import Hub
from selma.runtime import command
from selma.runtime.params import Params, load_params


def main() -> None:
    parser = command.Parser(prog="python -m selma.publish", description=__doc__.splitlines()[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="a LoRA (default: the first merge), or skills with --dataset"
    )
    parser.add_argument("--to", metavar="OWNER/REPO", help="the repository; it is made if it is not there")
    parser.add_argument("--dry-run", action="store_true", help="write the folder and send nothing")
    parser.add_argument(
        "--files", action="store_true", help="with --dry-run: list every file of a large folder"
    )
    parser.add_argument("--private", action="store_true", help="make a private repository")
    parser.add_argument("--dataset", action="store_true", help="the training images of skills, not a LoRA")
    parser.add_argument(
        "--trained-on", metavar="OWNER/REPO", help="the published dataset, for the model card to link to"
    )
    parser.add_argument("--format", choices=FORMATS, help="of a LoRA (default: diffusers)")
    parser.add_argument("--dtype", choices=DTYPES, help="of a kohya file (default: float16)")
    parser.add_argument("--out", type=Path, help="folder to write (default: exports/<profile>-<name>-hub)")
    arguments = parser.parse_args()
    if code := command.run(lambda: _main(arguments)):
        sys.exit(code)


def _main(arguments: argparse.Namespace) -> None:
    _check(arguments)
    folder = _write(load_params(), arguments)
    if arguments.dry_run:
        print(f"{folder}\n{listing(folder, whole=arguments.files)}\nnothing was sent (--dry-run)")
        return
    plan = hub.plan(folder, arguments.to, _kind(arguments), private=arguments.private)
    if not plan.send and not plan.remove:
        print(f"{plan.url} has all of it already; nothing was sent")
        return
    removed = f", {len(plan.remove)} of before removed" if plan.remove else ""
    hub.carry_out(plan, f"Publish {folder.name}", private=arguments.private)
    print(f"{plan.url}: {len(plan.send)} files sent{removed}")


def _check(arguments: argparse.Namespace) -> None:
    """Raise UserError for options that do not go together, or a hub that cannot be written to: before any work."""
    if arguments.files and not arguments.dry_run:
        raise UserError("--files is for --dry-run")
    if not arguments.to and not arguments.dry_run:
        raise UserError("--to OWNER/REPO is needed, or --dry-run to see what would be uploaded")
    for option, value in (("--to", arguments.to), ("--trained-on", arguments.trained_on)):
        if value is not None:
            hub.check_name(value, option)
    if arguments.dataset:
        for option in ("format", "dtype", "trained_on"):
            if getattr(arguments, option) is not None:
                raise UserError(f"--{option.replace('_', '-')} is for a LoRA; leave it out with --dataset")
    elif len(arguments.names) > 1:
        raise UserError(
            f"{' '.join(arguments.names)}: one LoRA goes into a repository; name one, or skills with --dataset"
        )
    if not arguments.dry_run:
        hub.check_login()


def _kind(arguments: argparse.Namespace) -> str:
    return "dataset" if arguments.dataset else "model"


def _write(params: Params, arguments: argparse.Namespace) -> Path:
    """The folder that is uploaded."""
    if arguments.dataset:
        out = arguments.out or Path("exports") / f"{params.profile}-images-hub"
        return dataset.write(params, arguments.names or params.skills, out, repo=arguments.to)
    name = arguments.names[0] if arguments.names else next(iter(params.merges), "")
    out = arguments.out or Path("exports") / f"{params.profile}-{name}-hub"
    said = Hub(arguments.to, arguments.trained_on)
    folder = lora.write(params, name, arguments.format or "diffusers", out, dtype=arguments.dtype, hub=said)
    if not (folder / "samples").is_dir():
        print(
            "note: no gallery, as there are no sample images; `dvc repro` draws them, `dvc pull -r starter` brings ours"
        )
    return folder


if __name__ == "__main__":
    main()
