"""The outs of a stage that has ended, kept until DVC has written them down.

DVC deletes a stage's outs before it runs its command, and writes dvc.lock some time after it: hashing what hours have
made takes a while, and a run that is killed in it would make all of it again. And `python -m selma.parallel` runs the
commands before DVC does. So a stage leaves here what it made, as links to the same files, in
`.work/finished/<stage>/<key>/`, with the key of work.py: other code, params or deps are another key. The same stage,
started again, puts that back. It goes when a later stage begins and DVC has written it down: when that stage is of the
same `dvc repro`, or dvc.lock says something else of this one than it did. `dvc exp run --temp` has its dvc.lock in a
copy that nobody finds again when it is killed, and DVC's cache of runs has no stage with metrics in git: there all of
it stays until the experiment has ended, or something runs in the workspace.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from selma.ground.errors import UserError
from selma.ground.files import folder_digest, write_json, write_text
from selma.runtime import lockfile, timing
from selma.runtime.outs import lay, publish_all, remove
from selma.runtime.parent import is_running, starter
from selma.runtime.places import home

FOLDER = ".work/finished"
_DIGESTS, _OWNER, _BEFORE = "outs.json", "owner", "dvc.lock"
_EXPERIMENT = "experiment "  # begins the owner's name in an experiment's copy of the repository


@timing.phase("writing")
def keep(stage: str, key: str, outs: Sequence[Path]) -> None:
    """Keep a stage's outs as they lie in the workspace; what was kept of it before goes.

    Does nothing for a stage that neither DVC nor `selma.parallel` started: nobody will ask for it. Nor does it fail: it
    only spares work.
    """
    if (owner := _owner()) is None:
        return
    place = home() / FOLDER / stage
    new = place / f".new-{key}"
    try:
        remove(place)
        new.mkdir(parents=True)
        digests = {}
        for number, out in enumerate(outs):
            lay(out, new / str(number))
            digests[str(out)] = folder_digest(out)
        write_json(new / _DIGESTS, digests)
        write_text(place / _BEFORE, lockfile.block(stage))
        write_text(place / _OWNER, owner)
        os.replace(new, place / key)
    except OSError:
        with suppress(OSError):
            remove(place)


def forget_others(stages: Collection[str]) -> None:
    """Drop what is kept of stages that the pipeline no longer has."""
    for place in (home() / FOLDER).glob("*"):
        if place.name not in stages:
            with suppress(OSError):
                remove(place)


def kept(stage: str) -> bool:
    """Whether anything is kept of a stage."""
    return (home() / FOLDER / stage).is_dir()


def take(stage: str, key: str, outs: Sequence[Path]) -> bool:
    """Put back what is kept of a stage under this key; False where there is nothing, or not all of it."""
    place = home() / FOLDER / stage
    if not _whole(place / key, outs):
        return False
    publish_all({place / key / str(number): out for number, out in enumerate(outs)})
    if owner := _owner():
        with suppress(OSError):
            write_text(place / _OWNER, owner)
    return True


def forget() -> None:
    """Drop what DVC has written down: what stages of this `dvc repro` have left, as it runs one after another, and
    stages of which dvc.lock says something else than when they ended. In an experiment's copy it is not safe there."""
    owner = _owner()
    if owner is None or not os.environ.get("DVC_STAGE") or owner.startswith(_EXPERIMENT):
        return
    for place, of in _owned():
        with suppress(OSError):
            if of.startswith(_EXPERIMENT):
                written = not is_running(of)
            else:
                before = place / _BEFORE
                said = before.read_text(encoding="utf-8") if before.is_file() else ""
                written = of == owner or lockfile.block(place.name) != said
            if written:
                remove(place)


def forget_experiments() -> None:
    """Drop what experiments have left, as all of it is in DVC's cache once they have ended."""
    for place, of in _owned():
        if of.startswith(_EXPERIMENT):
            with suppress(OSError):
                remove(place)


def _owned() -> Iterator[tuple[Path, str]]:
    """What is kept of each stage, and its owner."""
    for file in (home() / FOLDER).glob(f"*/{_OWNER}"):
        with suppress(OSError):
            yield file.parent, file.read_text(encoding="utf-8")


def _owner() -> str | None:
    """Who started this stage; None where nobody will ask for what it made."""
    owner = starter()
    return f"{_EXPERIMENT}{owner}" if owner and home().resolve() != Path.cwd().resolve() else owner


def _whole(folder: Path, outs: Sequence[Path]) -> bool:
    """Whether every out is there with the bytes that it was kept with: a file may have been changed in place since."""
    with suppress(
        OSError, ValueError, UserError
    ):  # half of it may be gone: what drops it may have been killed
        digests = json.loads((folder / _DIGESTS).read_text(encoding="utf-8"))
        return digests == {str(out): folder_digest(folder / str(number)) for number, out in enumerate(outs)}
    return False
