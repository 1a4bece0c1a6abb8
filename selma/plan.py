"""Say what `dvc repro` would do before it does it: stages, images, steps, LLM calls, questions, disk, hours.

    python -m selma.plan [--all] [--json]      also: make plan
    python -m selma.plan --save bench/rates.json    keep what this machine's runs took, for others

--all plans the whole pipeline, as if nothing had ever been made. Nothing is run, downloaded or written (--save apart).

reads   dvc.yaml, dvc.lock, params.yaml, the code, and data and models as far as they are here
        .work/times/, .work/params/   what stages took on this machine, and by which settings
        bench/rates.json              what they took on others, where they have not run here
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from selma.ground.errors import UserError
from selma.planning import plan, words
from selma.planning.rates import TABLE
from selma.runtime import command, lockfile, timing
from selma.runtime.params import load_params


def main(arguments: list[str] | None = None) -> int:
    """Print the plan, or save the rates; exit code 2 with one line for bad input."""
    parser = command.Parser(prog="python -m selma.plan", description=__doc__.splitlines()[0])
    form = parser.add_mutually_exclusive_group()
    parser.add_argument(
        "--all", action="store_true", help="the whole pipeline, as if nothing had ever been made"
    )
    form.add_argument("--json", action="store_true", help="for programs, stage by stage")
    form.add_argument("--save", type=Path, metavar="FILE", help=f"keep this machine's rates, e.g. in {TABLE}")
    given = parser.parse_args(arguments)
    return command.run(lambda: _save(given.save) if given.save else _print(given.all, given.json))


def _print(whole: bool, as_json: bool) -> None:
    if lockfile.is_cut():
        raise UserError(
            f"dvc.lock was cut off while DVC wrote it; `python -m selma.dvc status` puts it back, or {lockfile.HELP}"
        )
    made = plan.make(Path(), whole)
    sys.stdout.reconfigure(errors="replace")  # a terminal of ASCII is no reason to fail
    print(json.dumps(words.data(made), indent=2) if as_json else words.text(made))


def _save(file: Path) -> None:
    if not any(Path(timing.FOLDER).glob("*.json")):
        raise UserError(f"{timing.FOLDER}: no stage has run here; `make profile-run` takes times")
    from selma.runtime.devices import device_name, pick_device  # torch

    name = device_name(pick_device(load_params().runtime.device))
    number = plan.save(Path(), file, name)
    print(f"{file}: {number} rates of {name}")


if __name__ == "__main__":
    sys.exit(main())
